"""Which items of a pool fill the exploration slots of a page, and with which probability. Pure functions over arrays.

The items are called arms here. A policy is made once per edition of the posteriors and answers any number of requests;
what it chose it can tell the exact propensity of, which is what inverse propensity weighting needs. Thompson sampling
has no closed form for it and is therefore defined over a fixed set of particles, each a draw of every arm's rate: a
request takes one particle, and a propensity is a share of particles. Epsilon-greedy has a closed form.

Everything is a function of version, edition and request id: a request that is replayed gets the same page.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

PARTICLES = 1024  # a propensity is a multiple of 1/1024; two slots of 200 arms take 0.2 ms a request
NEWCOMER_INTERACTIONS = 10  # until then a visitor is hardly known, and exploring costs least and teaches most


@dataclass(frozen=True, eq=False)
class Choice:
    """What a request's exploration slots show.

    Attributes:
        rows: [s] rows of the pool, first slot first; s is less than k where fewer arms are allowed.
        propensities: [s] in (0, 1]: how likely this slot was to show this arm, over all requests like this one.
        policy: its name.
        version: of the policy's settings.
        edition: of the posteriors.
    """

    rows: NDArray[np.int64]
    propensities: Floats
    policy: str
    version: str
    edition: str


class Policy(Protocol):
    """A way to fill slots, fixed for one version of its settings and one edition of the posteriors."""

    def choose(self, request_id: str, allowed: Mask, k: int) -> Choice:
        """Fill up to k slots with different arms.

        Args:
            request_id: the only source of chance.
            allowed: [n] False where an arm may not be shown to this visitor.
            k: slots, at least 1.

        Raises:
            ValueError: the mask is not [n] bool, or k is below 1.
        """
        ...

    def propensities(self, allowed: Mask, k: int) -> Floats:
        """[s, n] probability that slot s shows arm n; rows sum to 1. Takes and raises what `choose` does."""
        ...


@dataclass(frozen=True, eq=False)
class Beta:
    """Posteriors, or priors, of success rates.

    Attributes:
        alpha: [n] successes, those of the prior included; above 0.
        beta: [n] failures, likewise.

    Raises:
        ValueError: of different shapes, or not finite and above 0.
    """

    alpha: Floats
    beta: Floats

    def __post_init__(self) -> None:
        if np.shape(self.alpha) != np.shape(self.beta):
            raise ValueError(f"alpha is {np.shape(self.alpha)}, beta {np.shape(self.beta)}; give both for each arm")
        _checked("alpha", self.alpha, "above 0; a prior keeps it there", lambda value: value > 0)
        _checked("beta", self.beta, "above 0; a prior keeps it there", lambda value: value > 0)

    @property
    def mean(self) -> Floats:
        return self.alpha / (self.alpha + self.beta)


def decayed(successes: ArrayLike, failures: ArrayLike, age: ArrayLike, half_life: float, prior: Beta) -> Beta:
    """Posteriors from counts that lose half their weight every `half_life`; the prior loses none.

    So an arm that nobody was shown for long is as uncertain as a new one, and is tried again.

    Args:
        successes: [n] counts, fractions allowed.
        failures: [n] likewise.
        age: [n] seconds since the counts were right.
        half_life: seconds.
        prior: of each arm, or one for all.

    Raises:
        ValueError: a negative or NaN count or age, or a half-life that is not above 0.
    """
    weight = _fading(age, half_life)
    won = _checked("successes", successes, "0 or more", lambda value: value >= 0)
    lost = _checked("failures", failures, "0 or more", lambda value: value >= 0)
    return Beta(prior.alpha + weight * won, prior.beta + weight * lost)


def brand_prior(
    successes: ArrayLike, failures: ArrayLike, overall: float, weight: float = 4.0, evidence: float = 100.0
) -> Beta:
    """Priors of new items from how their brand or creator has done: empirical Bayes in two steps.

    The brand's rate is shrunk to the overall one by `evidence` trials of it, so that a brand of three trials says
    next to nothing; the item starts with `weight` trials at that rate, which its own evidence soon outweighs.

    Args:
        successes: [n] of the brand of each new item; 0 where it has none.
        failures: [n] likewise.
        overall: rate of all items, above 0 and below 1.
        weight: pseudo-observations of the prior.
        evidence: pseudo-observations of the overall rate.

    Raises:
        ValueError: a value out of its range.
    """
    won = _checked("successes", successes, "0 or more", lambda value: value >= 0)
    lost = _checked("failures", failures, "0 or more", lambda value: value >= 0)
    if not 0 < overall < 1:
        raise ValueError(f"overall must be above 0 and below 1, got {overall}; take the rate of a longer time")
    _checked("weight", weight, "above 0", lambda value: value > 0)
    _checked("evidence", evidence, "above 0", lambda value: value > 0)
    rate = (won + evidence * overall) / (won + lost + evidence)
    return Beta(weight * rate, weight * (1 - rate))


@dataclass(frozen=True, eq=False)
class Regression:
    """Sufficient statistics of a linear model of the reward; the prior is added when it is drawn from.

    Attributes:
        gram: [d, d] sum of x xᵀ over what was shown (A of Agrawal & Goyal without the identity).
        moment: [d] sum of reward · x (their f).

    Raises:
        ValueError: shapes that do not fit each other, or values that are not finite.
    """

    gram: Floats
    moment: Floats

    def __post_init__(self) -> None:
        dim = np.size(self.moment)
        if np.shape(self.moment) != (dim,) or np.shape(self.gram) != (dim, dim):
            raise ValueError(f"gram is {np.shape(self.gram)}, moment {np.shape(self.moment)}; give [d, d] and [d]")
        _checked("gram", self.gram, "finite", np.isfinite)
        _checked("moment", self.moment, "finite", np.isfinite)

    @staticmethod
    def of(features: ArrayLike, rewards: ArrayLike) -> "Regression":
        """What m outcomes say: features [m, d], rewards [m]; the sum of their rank-one updates."""
        x = _checked("features", features, "finite", np.isfinite)
        y = _checked("rewards", rewards, "finite", np.isfinite)
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise ValueError(f"features are {x.shape}, rewards {y.shape}; give [m, d] and [m]")
        return Regression(x.T @ x, x.T @ y)

    def __add__(self, other: "Regression") -> "Regression":
        if self.moment.shape != other.moment.shape:
            raise ValueError(f"{other.moment.size} features do not add to {self.moment.size}; start new statistics")
        return Regression(self.gram + other.gram, self.moment + other.moment)

    def decayed(self, age: float, half_life: float) -> "Regression":
        """The same when all of it is `age` seconds older and loses half its weight every `half_life` seconds."""
        weight = _fading(age, half_life)
        return Regression(weight * self.gram, weight * self.moment)


@dataclass(frozen=True, eq=False)
class Particles:
    """A Thompson policy: each request believes one particle, and shows the arms that are best under it.

    Arms that are equal under a particle come in the order of their rows.

    Attributes:
        draws: [m, n] float32, the value of each arm under each particle, on any scale; particles are equally likely.
            Quickest with the values of an arm side by side (Fortran's order), as they are compared.

    Raises:
        ValueError: draws that are not finite, which would hide what is allowed.
    """

    draws: NDArray[np.float32]
    policy: str
    version: str
    edition: str

    def __post_init__(self) -> None:
        if not np.isfinite(self.draws).all():
            raise ValueError(f"{self.policy} draws values that are not finite; its features or counts are too large")

    def choose(self, request_id: str, allowed: Mask, k: int) -> Choice:
        pool = _pool(allowed, self.draws.shape[1], k)
        left = self.draws.T[pool]
        (u,) = _uniforms(1, self.policy, self.version, self.edition, request_id)
        shown = np.argsort(-left[:, int(u * len(self.draws))], kind="stable")[:k]
        # Only the places of what is shown are asked for: a third of the time of finding who is best everywhere.
        chances = [np.mean(_places(left, arm) == slot) for slot, arm in enumerate(shown.tolist())]
        return Choice(pool[shown], np.array(chances, np.float64), self.policy, self.version, self.edition)

    def propensities(self, allowed: Mask, k: int) -> Floats:
        count, arms = self.draws.shape
        slots = [np.bincount(slot, minlength=arms) / count for slot in self._best(allowed, k).T]
        return np.array(slots).reshape(-1, arms)

    def _best(self, allowed: Mask, k: int) -> NDArray[np.int64]:
        """[m, s] rows of the best allowed arms under each particle."""
        count, arms = self.draws.shape
        slots = min(k, len(_pool(allowed, arms, k)))
        left = np.where(allowed, self.draws, np.float32(-np.inf))
        best = np.empty((count, slots), np.int64)
        every = np.arange(count)
        # A pass per slot: argmax takes the first of equals.
        for slot in range(slots):
            best[:, slot] = left.argmax(axis=1)
            left[every, best[:, slot]] = -np.inf
        return best


def _places(values: NDArray[np.float32], arm: int) -> NDArray[np.uint16]:
    """[m] how many arms come before one, under each particle; of equals the first row does.

    Args:
        values: [arms, m].
        arm: its row.
    """
    before = (values[:arm] >= values[arm]).sum(axis=0, dtype=np.uint16)
    return np.asarray(before + (values[arm + 1 :] > values[arm]).sum(axis=0, dtype=np.uint16))


def thompson(posterior: Beta, version: str, edition: str, particles: int = PARTICLES) -> Particles:
    """Thompson sampling of success rates (Russo et al., "A Tutorial on Thompson Sampling", 2018).

    The particles are a Latin hypercube: every arm has the quantiles of its posterior at (j + 1/2) / m, in an order of
    its own, so that m particles know the posterior as well as many more independent draws would. Rows keep their
    meaning for an edition. Takes up to 0.4 s for 200 arms, so it is made beside the requests and not within one.

    Args:
        posterior: [n] arms.
        version: of the settings behind it (half-life, prior).
        edition: of the counts.
        particles: how many, at least 1.
    """
    strata = _strata(particles, np.size(posterior.alpha), "thompson", version, edition)
    draws = special.betaincinv(posterior.alpha, posterior.beta, strata)
    # As logarithms: a prior of few pseudo-observations at a low rate draws 1e-100 as easily as 1e-2, and to float32 all
    # that is below 1e-45 is equal, so that the first row would win.
    logs = np.log(np.maximum(draws, np.finfo(np.float64).tiny))
    return Particles(np.asfortranarray(logs, np.float32), "thompson", version, edition)


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear Thompson sampling: particles are weights, and arms are told apart by their features in a request.

    Attributes:
        weights: [m, d].
    """

    weights: Floats
    version: str
    edition: str

    def on(self, features: ArrayLike) -> Particles:
        """The policy of one request: features [n, d] of user and item, one row per arm.

        One product of matrices: on a busy machine several BLAS threads take ten times as long for it as one does.

        Raises:
            ValueError: another width, or values that are not finite or too large.
        """
        x = _checked("features", features, "finite", np.isfinite)
        if x.ndim != 2 or x.shape[1] != self.weights.shape[1]:
            raise ValueError(f"features must be [arms, {self.weights.shape[1]}], got {x.shape}")
        with np.errstate(over="ignore"):
            draws = (x @ self.weights.T).astype(np.float32)
        return Particles(draws.T, "linear", self.version, self.edition)


def linear(
    posterior: Regression, spread: float, version: str, edition: str, ridge: float = 1.0, particles: int = PARTICLES
) -> Linear:
    """Thompson sampling with linear payoffs (Agrawal & Goyal, 2013).

    Weights ~ N(A⁻¹ moment, spread² A⁻¹) with A = ridge · I + gram, drawn as the Latin hypercube of `thompson`.

    Args:
        posterior: the statistics.
        spread: their v, the standard deviation of a reward that features do not explain; more explores more.
        version: of the settings behind it and of the meaning of the features.
        edition: of the statistics.
        ridge: weight of the prior N(0, spread² / ridge).
        particles: how many, at least 1.

    Raises:
        ValueError: spread or ridge not above 0, or a gram that no features can have.
    """
    _checked("spread", spread, "above 0", lambda value: value > 0)
    _checked("ridge", ridge, "above 0", lambda value: value > 0)
    dim = posterior.moment.size
    precision = ridge * np.eye(dim) + posterior.gram
    try:
        root = np.linalg.cholesky(precision)
    except np.linalg.LinAlgError as error:
        raise ValueError("gram is not positive semidefinite; add only what Regression.of makes") from error
    normals = special.ndtri(_strata(particles, dim, "linear", version, edition))
    mean = np.linalg.solve(precision, posterior.moment)
    return Linear(mean + spread * np.linalg.solve(root.T, normals.T).T, version, edition)


@dataclass(frozen=True, eq=False)
class EpsilonGreedy:
    """Each slot shows the best arm that is left, and with probability epsilon one of the others, all alike.

    Attributes:
        means: [n] what the arms are ordered by, such as `Beta.mean`; equal ones come in the order of their rows.
        epsilon: 0..1.

    Raises:
        ValueError: means that are not finite, or epsilon out of its range.
    """

    means: Floats
    epsilon: float
    version: str
    edition: str
    policy: str = field(default="epsilon_greedy", init=False)

    def __post_init__(self) -> None:
        _checked("means", self.means, "finite", np.isfinite)
        _share("epsilon", self.epsilon)

    def choose(self, request_id: str, allowed: Mask, k: int) -> Choice:
        order = self._order(allowed, k)
        slots = min(k, len(order))
        left = list(range(len(order)))
        ranks = []
        for u in _uniforms(slots, self.policy, self.version, self.edition, request_id):
            others = len(left) - 1
            explores = u < self.epsilon and others > 0
            # Below epsilon u is uniform again, and says which of the others; the product may round up to their number.
            ranks.append(left.pop(min(1 + int(u / self.epsilon * others), others) if explores else 0))
        chances = _greedy_propensities(len(order), slots, self.epsilon)[np.arange(slots), ranks]
        return Choice(order[ranks], chances, self.policy, self.version, self.edition)

    def propensities(self, allowed: Mask, k: int) -> Floats:
        order = self._order(allowed, k)
        slots = min(k, len(order))
        found = np.zeros((slots, len(self.means)))
        found[:, order] = _greedy_propensities(len(order), slots, self.epsilon)
        return found

    def _order(self, allowed: Mask, k: int) -> NDArray[np.int64]:
        pool = _pool(allowed, len(self.means), k)
        return pool[np.argsort(-self.means[pool], kind="stable")]


@lru_cache(maxsize=512)  # of a few slots by some hundred arms; a pool's size changes little between requests
def _greedy_propensities(arms: int, slots: int, epsilon: float) -> Floats:
    """[slots, arms] probability that a slot shows the arm of a rank, 0 the best.

    All that matters of the past is which rank g is the best one left: all above it are gone, and those that are gone
    below it are any of those below with equal chance. So a slot shows g with 1 - epsilon, and each rank below g with
    epsilon / (arms - 1 - g): with (others left) / (ranks below g) it is left, and then it is one of the others left.
    """
    found = np.zeros((slots, arms))
    best = np.eye(1, arms)[0]  # probability that a rank is the best one left
    below = np.arange(arms - 1, -1, -1)
    for slot in range(slots):
        if slot == arms - 1:  # one arm is left, so there are no others
            found[slot] = best
            break
        found[slot] = (1 - epsilon) * best
        found[slot, 1:] += epsilon * np.cumsum(best[:-1] / below[:-1])
        after = epsilon * best
        for rank in range(slot + 1):
            gone, chance = slot - rank, (1 - epsilon) * best[rank]
            for skipped in range(gone + 1):  # ranks right below that are gone as well
                after[rank + 1 + skipped] += chance * (below[rank] - gone) / (below[rank] - skipped)
                chance *= (gone - skipped) / (below[rank] - skipped)
        best = after
    return found


def slots(page: int, share: float) -> NDArray[np.int64]:
    """Positions of a page that explore: `share` of them to the nearest whole number, each in the middle of its part.

    The first position is what a visitor judges the page by, and never explores; the rest is cut into equal parts.

    Args:
        page: positions of the page.
        share: 0..1 of them to explore with.

    Raises:
        ValueError: a negative page, or share out of its range.
    """
    if page < 0:
        raise ValueError(f"page must be 0 or more, got {page}")
    _share("share", share)
    count = min(int(page * share + 0.5 + 1e-9), max(page - 1, 0))
    return 1 + (2 * np.arange(count) + 1) * (page - 1) // (2 * max(count, 1))


def rate(interactions: int, normal: float, newcomer: float) -> float:
    """Share of a page that explores for a visitor: `newcomer` for the first 10 interactions, then `normal`.

    Raises:
        ValueError: negative interactions, or a share outside 0..1.
    """
    if interactions < 0:
        raise ValueError(f"interactions must be 0 or more, got {interactions}")
    return _share("newcomer", newcomer) if interactions < NEWCOMER_INTERACTIONS else _share("normal", normal)


def _strata(count: int, width: int, *seed: str) -> Floats:
    """[count, width] Latin hypercube (McKay et al., 1979): each column the midpoints of count equal parts of 0..1."""
    if count < 1:
        raise ValueError(f"particles must be 1 or more, got {count}")
    rng = np.random.default_rng(int.from_bytes(_digest(16, *seed)))
    midpoints = (np.arange(count) + 0.5) / count
    return rng.permuted(np.tile(midpoints[:, None], width), axis=0)


def _uniforms(count: int, *seed: str) -> Floats:
    """[count] uniform in [0, 1), a hash of the seed: a generator would take ten times as long to set up."""
    return np.asarray((np.frombuffer(_digest(8 * count, *seed), "<u8") >> np.uint64(11)) * 2.0**-53, np.float64)


def _digest(size: int, *seed: str) -> bytes:
    return hashlib.shake_128("\0".join(seed).encode()).digest(size)


def _pool(allowed: Mask, arms: int, k: int) -> NDArray[np.int64]:
    """Rows of the allowed arms."""
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}; a page without exploration slots asks no policy")
    if allowed.dtype != np.bool_ or allowed.shape != (arms,):
        raise ValueError(f"allowed must be [{arms}] bool, got {list(allowed.shape)} {allowed.dtype}")
    return np.flatnonzero(allowed)


def _fading(age: ArrayLike, half_life: float) -> Floats:
    _checked("half_life", half_life, "seconds above 0", lambda value: value > 0)
    return np.asarray(0.5 ** (_checked("age", age, "seconds, 0 or more", lambda value: value >= 0) / half_life))


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in 0..1, got {value}")
    return value


def _checked(name: str, given: ArrayLike, rule: str, holds: Callable[[Floats], Mask]) -> Floats:
    """The value as an array, if all of it is finite and holds the rule."""
    value = np.asarray(given, np.float64)
    wrong = ~(np.isfinite(value) & holds(value))
    if wrong.any():
        raise ValueError(f"{name} must be {rule}, got {value[wrong][0]}")
    return value
