"""Score rules: what multiplies a candidate's relevance before the arrangement. Pure functions over arrays.

Each rule answers with one factor per candidate, above 0; 1 changes nothing. They are applied in the order of ORDER:
what time says, what the visit says, what the shopper refused, and last what the shop says. Products do not depend on
it; the report keeps it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import cosine

Floats = NDArray[np.float64]

ORDER = ("freshness", "session", "dampening", "business")
HOUR = 3600.0  # seconds
DAY = 24 * HOUR
NEAR = 0.5  # cosine from which an item counts as like another; half of a catalogue is above 0
HALF_LIFE_DAYS = 7.0  # in which a no loses half of what it says of items like it: a week brings other plans
REFUSED = 20  # refused items that are looked at, those that weigh most: 0.2 ms for 600 candidates of 128 dimensions


@dataclass(frozen=True, eq=False)
class Adjusted:
    """Relevance after the score rules.

    Attributes:
        relevance: [n] times all factors.
        changed: candidates whose factor is not 1, by rule; without rules that changed none.
    """

    relevance: Floats
    changed: Mapping[str, int]


def adjusted(relevance: NDArray[np.floating], factors: Mapping[str, Floats]) -> Adjusted:
    """Multiply relevance by the factors of the rules, in the order of ORDER.

    Args:
        relevance: [n] at least 0.
        factors: [n] by rule; a rule that is left out changes nothing.

    Raises:
        ValueError: an unknown rule, or factors that are not [n], above 0 and finite.
    """
    if unknown := factors.keys() - set(ORDER):
        raise ValueError(f"unknown score rules {sorted(unknown)}; there are {', '.join(ORDER)}")
    result: Floats = np.array(relevance, np.float64)
    changed: dict[str, int] = {}
    for rule in ORDER:
        if rule not in factors:
            continue
        factor = factors[rule]
        if factor.shape != result.shape:
            raise ValueError(f"{rule} must have one factor per candidate, {result.shape}, got shape {factor.shape}")
        wrong = factor[~(np.isfinite(factor) & (factor > 0))]
        if len(wrong):
            raise ValueError(f"{rule} must have finite factors above 0, got {wrong[0]}; to remove items, filter them")
        if count := int((factor != 1).sum()):
            changed[rule] = count
        result *= factor
    return Adjusted(result, changed)


def freshness(created_at: Floats, now: float, *, boost: float, hours: float = 48.0) -> Floats:
    """[n] factors that help new items to be seen: `boost` at age 0, falling linearly to 1 at `hours`.

    Args:
        created_at: [n] epoch seconds; unknown (NaN) or in the future is not new: such a time says nothing about age.
        now: epoch seconds.
        boost: at least 1.
        hours: above 0.

    Raises:
        ValueError: boost or hours is out of range.
    """
    if not (1 <= boost < np.inf and 0 < hours < np.inf):
        raise ValueError(f"boost must be at least 1 and hours above 0, got {boost} and {hours}")
    age = (now - created_at) / (hours * HOUR)
    return np.where((age >= 0) & (age < 1), boost + (1 - boost) * age, 1.0)


def session(vectors: NDArray[np.floating], viewed: NDArray[np.floating], *, strength: float) -> Floats:
    """[n] factors that follow the visit: 1 + strength max(0, the largest cosine to an item viewed in it).

    Args:
        vectors: [n, d] embeddings of the candidates, of any length; zeros where there is none.
        viewed: [m, d] those of the last items viewed; none is no visit yet, and all factors are 1.
        strength: at least 0.

    Raises:
        ValueError: strength below 0, or shapes that do not fit.
    """
    if not 0 <= strength < np.inf:
        raise ValueError(f"strength must be at least 0, got {strength}")
    candidates, seen = cosine.unit(vectors, len(vectors)), cosine.unit(viewed, len(viewed))
    if len(seen) and candidates.shape[1] != seen.shape[1]:
        raise ValueError(f"viewed must have the {candidates.shape[1]} dimensions of vectors, got {seen.shape[1]}")
    alike = np.zeros(len(candidates))
    for vector in seen:  # one by one: BLAS splits a larger product among threads, and waking them takes longer
        np.maximum(alike, candidates @ vector, out=alike)
    return 1 + strength * alike


def weight(said: Floats, age: Floats) -> Floats:
    """[m] how much a no still says of items like the refused one, 0..1.

    Args:
        said: [m] how much it said, 0..1.
        age: [m] seconds since; below 0 is now.
    """
    left: Floats = 0.5 ** (np.maximum(age, 0) / (HALF_LIFE_DAYS * DAY))
    return said * left


def dampening(
    vectors: NDArray[np.floating], refused: NDArray[np.floating], weights: Floats, *, strength: float
) -> Floats:
    """[n] factors that lower what is like refused items: 1 - strength times the largest of weight * nearness, where
    nearness rises from 0 at the cosine NEAR to 1 at the cosine 1.

    Args:
        vectors: [n, d] embeddings of the candidates, of any length; zeros where there is none.
        refused: [m, d] those of the refused items.
        weights: [m] in 0..1, see `weight`.
        strength: what a new no takes from an item with the same embedding, at least 0 and below 1.

    Raises:
        ValueError: strength or a weight out of its range, or shapes that do not fit.
    """
    if not 0 <= strength < 1:
        raise ValueError(f"strength must be at least 0 and below 1, got {strength}; to remove items, filter them")
    if weights.shape != (len(refused),) or not ((weights >= 0) & (weights <= 1)).all():
        raise ValueError(f"weights must be [{len(refused)}] in 0..1, one for each refused item, got {weights}")
    candidates, others = cosine.unit(vectors, len(vectors)), cosine.unit(refused, len(refused))
    if len(others) and candidates.shape[1] != others.shape[1]:
        raise ValueError(f"refused must have the {candidates.shape[1]} dimensions of vectors, got {others.shape[1]}")
    slopes = (weights / (1 - NEAR)).astype(np.float32)
    most, effect = np.zeros((2, len(candidates)), np.float32)
    for vector, slope in zip(others * slopes[:, None], slopes.tolist(), strict=True):  # one by one, as above
        np.matmul(candidates, vector, out=effect)
        effect -= slope * NEAR
        np.maximum(most, effect, out=most)
    return 1 - strength * np.minimum(most, 1).astype(np.float64)


def business(size: int, rules: Mapping[str, tuple[NDArray[np.bool_], float]]) -> Floats:
    """[size] factors that a shop decides on: boosts above 1, buries below.

    Args:
        size: number of candidates.
        rules: by name, [size] True for whom it holds, and its factor, above 0; where several hold they multiply.

    Raises:
        ValueError: a mask that is not [size], or a factor that is not above 0.
    """
    found = np.ones(size)
    for name, (mask, factor) in rules.items():
        if mask.shape != (size,):
            raise ValueError(f"the mask of {name!r} must have shape ({size},), got {mask.shape}")
        if not 0 < factor < np.inf:
            raise ValueError(f"the factor of {name!r} must be above 0, got {factor}; to remove items, filter them")
        found[mask] *= factor
    return found
