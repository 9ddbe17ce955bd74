"""What a model must beat to earn its place: rankings that need a counter, and the one linear model worth a weekend.

All take the interactions before a cutoff and return scores of items.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray

from feature_repo import transforms

POPULAR_DAYS = 28.0  # half-life of decayed popularity
REPEAT_DAYS = 90.0  # half-life of a personal habit
EASE_ITEMS = 20_000  # a catalogue's size beyond which EASE takes more than minutes: it inverts [items, items]
EASE_STRENGTH = 500.0  # of the ridge; between the best values on films (300-1000) and on a gift shop (300-1000)
EASE_EVENTS = 32.0  # half-life of a past event in EASE's query, counted in later events of the same visitor
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


def ease(seen: Interactions, items: int, strength: float = EASE_STRENGTH) -> NDArray[np.float32]:
    """[items, items] weights B of EASE: a history x scores all items by x B."""
    return ease_of(incidence(seen, items), strength)


def ease_of(had: scipy.sparse.csr_matrix, strength: float = EASE_STRENGTH) -> NDArray[np.float32]:
    """The same from [visitors, items], 1 where a visitor had an item.

    The closed form of a linear autoencoder that may not copy its input (Steck, "Embarrassingly shallow autoencoders
    for sparse data", WWW 2019). Takes 4 * items² bytes and items³ multiplications.
    """
    items = had.shape[1]
    gram = (had.T @ had).toarray()
    gram[np.diag_indices(items)] += strength
    lower = scipy.linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    inverse, _ = scipy.linalg.lapack.spotri(lower, lower=1, overwrite_c=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights: NDArray[np.float32] = -inverse / inverse.diagonal()
    weights[np.diag_indices(items)] = 0.0
    return weights


def incidence(seen: Interactions, items: int) -> scipy.sparse.csr_matrix:
    """[visitors, items] 1 where a visitor had an item, however often."""
    pair = np.unique(seen.visitor * np.int64(items) + seen.item)
    visitor, item = pair // items, pair % items
    shape = (int(visitor.max(initial=0)) + 1, items)
    return scipy.sparse.csr_matrix((np.ones(len(pair), np.float32), (visitor, item)), shape=shape)


def query(seen: Interactions, visitor: int, items: int) -> NDArray[np.float32]:
    """[items] what EASE is told about a visitor: 1 for the latest event, less for each the more have followed."""
    first, last = np.searchsorted(seen.visitor, [visitor, visitor + 1])
    latest = first + np.argsort(seen.age[first:last], kind="stable")
    out = np.zeros(items, np.float32)
    np.maximum.at(out, seen.item[latest], np.exp2(-np.arange(len(latest)) / EASE_EVENTS).astype(np.float32))
    return out


def age_days(times: Floats, cutoff: float) -> Floats:
    """Days from each time to the cutoff."""
    return (cutoff - times) / transforms.SECONDS_PER_DAY
