"""The shoppers: what they truly like, what they say they like, and when they shop."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator import catalogue, vocabulary

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BOT_SHARE = 0.004
NEW_SHARE = 0.25  # of the shoppers sign up after the first day
ACTIVITY_SIGMA = 0.9  # log-normal: the most active tenth makes about a third of the visits
SCRAPER, BOOSTER = 1, 2
DRIFT = np.pi / 4  # most that a taste turns over the whole simulation, radians


@dataclass(frozen=True)
class Shoppers:
    """All people who ever sign up, by row; ids are given by the time of signing up.

    Attributes:
        taste, later: [n, dim] unit norm, taste on the first day, and the direction into which it drifts.
        drift: [n] radians turned by the last day.
        price_sensitivity: [n] ≥ 0, how much a price above the category's median puts off.
        activity: [n] share of visits, sums to 1.
        region, age: [n] rows of the vocabulary's regions and age groups.
        language: [n] ISO 639-1.
        hour: [n] local hour around which the person shops.
        signup: [n] microseconds since the epoch.
        bot: [n] 0 for a person, else SCRAPER or BOOSTER (pushes one item).
        preferences: stated top categories, most liked first; a quarter of the people say nothing.
    """

    taste: Floats
    later: Floats
    drift: Floats
    price_sensitivity: Floats
    activity: Floats
    region: Ints
    age: Ints
    language: NDArray[np.str_]
    hour: Floats
    signup: Ints
    bot: Ints
    preferences: list[list[str]]

    def __len__(self) -> int:
        return len(self.region)

    def taste_at(self, elapsed: float) -> Floats:
        """[n, dim] unit norm taste after a share 0..1 of the simulation."""
        angle = (self.drift * elapsed)[:, None]
        turned: Floats = np.cos(angle) * self.taste + np.sin(angle) * self.later
        return turned


def build(count: int, start: int, days: int, space: catalogue.Space, rng: np.random.Generator) -> Shoppers:
    """Invent people; arguments as `catalogue.build`."""
    age = rng.choice(len(vocabulary.AGE_GROUPS), size=count, p=[0.16, 0.27, 0.22, 0.17, 0.12, 0.06])
    region = rng.choice(len(vocabulary.REGIONS), size=count, p=[r.share for r in vocabulary.REGIONS])
    taste = _tastes(age, space, rng)
    other = _tastes(age, space, rng)
    later = catalogue.unit(other - np.sum(other * taste, axis=1, keepdims=True) * taste)
    activity = np.exp(ACTIVITY_SIGMA * rng.normal(size=count))
    return Shoppers(
        taste=taste,
        later=later,
        drift=DRIFT * rng.random(count),
        price_sensitivity=rng.gamma(2.0, 0.35, size=count),
        activity=activity / activity.sum(),
        region=region,
        age=age,
        language=_languages(region, rng),
        hour=rng.choice([12.5, 18.0, 20.5], size=count, p=[0.25, 0.3, 0.45]) + rng.normal(size=count),
        signup=_signups(count, start, days, rng),
        bot=_bots(count, rng),
        preferences=_stated(taste, space, rng),
    )


def _tastes(age: Ints, space: catalogue.Space, rng: np.random.Generator) -> Floats:
    """Two favourite leaves (often of one top category) and a style that suits the age."""
    count, leaves = len(age), len(vocabulary.LEAVES)
    first = rng.integers(leaves, size=count)
    tops = np.array(vocabulary.TOP_OF_LEAF)
    near = np.where(tops[:, None] == tops[None, :], 6.0, 1.0)
    cumulative = np.cumsum(near / near.sum(axis=1, keepdims=True), axis=1)
    second = np.minimum((cumulative[first] < rng.random(count)[:, None]).sum(axis=1), leaves - 1)
    years = np.array([middle for _, middle in vocabulary.AGE_GROUPS])[age]
    distance = (years[:, None] - np.array([style.age for style in vocabulary.STYLES])) / 12
    gumbel = rng.gumbel(size=distance.shape)
    style = np.argmax(-0.5 * distance**2 + gumbel, axis=1)
    noise = catalogue.unit(rng.normal(size=(count, space.dim)))
    return catalogue.unit(
        0.9 * space.leaves[first] + 0.6 * space.leaves[second] + 0.8 * space.styles[style] + 0.3 * noise
    )


def _languages(region: Ints, rng: np.random.Generator) -> NDArray[np.str_]:
    main = np.array([entry.language for entry in vocabulary.REGIONS])
    spoken: NDArray[np.str_] = np.where(rng.random(len(region)) < 0.9, main[region], "en")
    return spoken


def _signups(count: int, start: int, days: int, rng: np.random.Generator) -> Ints:
    new = round(count * NEW_SHARE)
    old = start - 1 - (700 * catalogue.DAY_US * rng.random(count - new)).astype(np.int64)
    late = start + (days * catalogue.DAY_US * rng.random(new)).astype(np.int64)
    return np.sort(np.concatenate([old, late])) // 1_000_000 * 1_000_000


def _bots(count: int, rng: np.random.Generator) -> Ints:
    """At least two of them, half scrapers and half boosters, among the people who are there from the start."""
    bots = max(2, round(count * BOT_SHARE))
    kinds = np.zeros(count, np.int64)
    machines = rng.choice(round(count * (1 - NEW_SHARE)), size=bots, replace=False)
    kinds[machines] = np.where(np.arange(bots) % 2 == 0, SCRAPER, BOOSTER)
    return kinds


def _stated(taste: Floats, space: catalogue.Space, rng: np.random.Generator) -> list[list[str]]:
    """What people say in the survey: their best one to three top categories, heard with noise."""
    affinity = taste @ space.leaves.T
    tops = np.array(vocabulary.TOP_OF_LEAF)
    best = np.stack([affinity[:, tops == top].max(axis=1) for top in range(len(vocabulary.TOPS))], axis=1)
    order = np.argsort(-(best + 0.15 * rng.normal(size=best.shape)), axis=1)
    said = np.where(rng.random(len(taste)) < 0.25, 0, rng.integers(1, 4, size=len(taste)))
    return [[vocabulary.TOPS[top] for top in order[row, : said[row]]] for row in range(len(taste))]
