"""What a model must beat to earn its place: rankings that need a counter and no learning.

All take histories before a cutoff as a sparse matrix or arrays, and return scores [requests, items].
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_repo import transforms

POPULAR_DAYS = 28.0  # half-life of decayed popularity
REPEAT_DAYS = 90.0  # half-life of a personal habit
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interactions:
    """Positive events before a cutoff, one element each.

    Attributes:
        visitor, item: row numbers.
        age: days before the cutoff.
        weight: of the signal.
    """

    visitor: NDArray[np.int64]
    item: NDArray[np.int64]
    age: Floats
    weight: Floats


def popularity(seen: Interactions, items: int) -> Floats:
    """[items] signal-weighted count since the beginning."""
    return np.bincount(seen.item, seen.weight, items).astype(np.float64)


def decayed_popularity(seen: Interactions, items: int, half_life: float = POPULAR_DAYS) -> Floats:
    """[items] the same, halved every `half_life` days: what sells now."""
    return np.bincount(seen.item, seen.weight * np.exp2(-seen.age / half_life), items).astype(np.float64)


def repeats(seen: Interactions, visitor: int, trend: Floats, half_life: float | None) -> Floats:
    """[items] what this visitor took before, most and latest first, then whatever sells now.

    Args:
        seen: sorted by visitor.
        visitor: whom to score for.
        trend: [items] scores of the items that the visitor never took.
        half_life: days; None counts without decay.
    """
    first, last = np.searchsorted(seen.visitor, [visitor, visitor + 1])
    mine = slice(first, last)
    decay = 1.0 if half_life is None else np.exp2(-seen.age[mine] / half_life)
    own = np.bincount(seen.item[mine], seen.weight[mine] * decay, len(trend)).astype(np.float64)
    # The habit decides first; the trend, scaled below the smallest habit, breaks ties and fills the list.
    smallest = own[own > 0].min(initial=1.0)
    filled: Floats = own + trend * (0.5 * smallest / max(float(trend.max(initial=0.0)), 1e-12))
    return filled


def age_days(times: Floats, cutoff: float) -> Floats:
    """Days from each time to the cutoff."""
    return (cutoff - times) / transforms.SECONDS_PER_DAY
