"""The features of an item that do not depend on the request: block "item" of the ranking table.

Ranks and means over a category count the items that have statistics: training looks at a catalogue that holds items
of later days, which have none yet.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from feature_repo import names
from feature_repo.groups import Bools, Floats, Ints
from feature_repo.ranking_table import ITEM, RATES, TRENDS

PRIOR_VIEWS = 20.0  # a rate counts as if this many more views had behaved like those of its category
RATE_FLOOR = 1e-3


def static(stats: Mapping[str, Floats], log_price: Floats, category: Ints, there: Bools) -> NDArray[np.float32]:
    """[items + 1, block "item"] float32; the last row, of unknown items, is 0.

    Args:
        stats: by name of `names.ITEM_STATS`, [items + 1] raw, finite, at least 0.
        log_price: [items + 1], NaN where unknown.
        category: [items + 1] code, 0 where unknown.
        there: [items + 1] whether the item has statistics.
    """
    scaled = np.log1p(np.stack([stats[name] for name in names.ITEM_STATS], axis=1))
    popularity = np.log1p(stats["popularity"])
    known = ~np.isnan(log_price)
    priced = np.nan_to_num(log_price)
    typical = _total(priced, category) / np.maximum(_total(known, category), 1.0)
    found = np.column_stack(
        [
            scaled,
            np.log1p(stats["popularity_fast"]) - popularity,
            np.searchsorted(np.sort(popularity[:-1]), popularity) / max(len(popularity) - 1, 1),
            priced,
            known,
            np.where(known, priced - typical, 0.0),
            *_trends(stats),
            *_rates(stats, category),
            *_among(stats, priced, known, category, there),
        ]
    )
    found[-1] = 0.0
    if found.shape[1] != len(ITEM):
        raise AssertionError(f"block 'item' has {found.shape[1]} columns and {len(ITEM)} names")
    return found.astype(np.float32)


def _trends(stats: Mapping[str, Floats]) -> Iterator[Floats]:
    for kinds in TRENDS.values():
        day, week, month = (sum(stats[f"{kind}_{days}d"] for kind in kinds) for days in names.WINDOWS_DAYS)
        yield np.log((day + 1.0) / (week / 7 + 1.0))
        yield np.log((week + 1.0) / (month * 7 / 30 + 1.0))


def _rates(stats: Mapping[str, Floats], category: Ints) -> Iterator[Floats]:
    interest = sum((stats[f"{kind}_30d"] for kind in TRENDS["interest"]), np.zeros(len(category)))
    shown = _total(interest, category)
    for kind in RATES.values():
        done = stats[f"{kind}_30d"]
        usual = np.where(category > 0, np.minimum(_total(done, category) / np.maximum(shown, 1.0), 1.0), 0.0)
        usual = np.where(shown > 0, usual, 0.0)  # where nobody records views, a rate says nothing
        rate = np.minimum((done + PRIOR_VIEWS * usual) / (interest + PRIOR_VIEWS), 1.0)
        yield usual
        yield np.where(usual > 0, np.log((rate + RATE_FLOOR) / (usual + RATE_FLOOR)), 0.0)


def _among(stats: Mapping[str, Floats], priced: Floats, known: Bools, category: Ints, there: Bools) -> Iterator[Floats]:
    """The item among those of its category, and the category among the others."""
    some, priceable = (category > 0).astype(np.float64), known.astype(np.float64)
    popularity = stats["popularity"]
    everywhere = np.zeros(len(category), np.int64)
    size, slow, fast = (_total(there * x, category) for x in (1.0, popularity, stats["popularity_fast"]))
    yield some * _rank(popularity, category, there)
    yield some * popularity / np.maximum(slow, 1e-9)
    yield priceable * _rank(priced, everywhere, there & known)
    yield some * priceable * _rank(priced, category, there & known)
    yield some * np.log1p(size)
    yield some * np.log1p(slow / np.maximum(size, 1.0))
    yield some * (np.log1p(fast) - np.log1p(slow))


def _total(values: NDArray[np.generic], group: Ints) -> Floats:
    """[items + 1] for each item, the sum over its group."""
    return np.bincount(group, values).astype(np.float64, copy=False)[group]


def _rank(values: Floats, group: Ints, counted: Bools) -> Floats:
    """[items + 1] share of the other counted items of its group that have less, 0..1."""
    width = len(values) + 1
    level = np.searchsorted(np.sort(values), values)
    ordered = np.sort((group * width + level)[counted])
    first = np.searchsorted(ordered, group * width)
    size = np.searchsorted(ordered, (group + 1) * width) - first
    less = np.searchsorted(ordered, group * width + level) - first
    return np.asarray(np.minimum(less / np.maximum(size - 1, 1), 1.0))
