"""What an item costs beside what the user looks at and pays: block "price"."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.groups import Floats, Groups
from feature_repo.moments import Moments, numbers

LEAST_SPREAD = 0.25  # of log prices: a user who always pays the same is not that sure of it
MOST_DEVIATIONS = 8.0


def price(m: Moments) -> Iterator[NDArray[Any]]:
    past, request = m.histories, m.candidates.request
    asked = m.items.log_price[m.candidates.item]
    usual = numbers(m.requests.users["mean_price_30d"])
    gap = asked - np.log1p(np.where(usual > 0, usual, np.nan))[request]
    known = ~np.isnan(past.price)
    chosen = known[:, None] & np.column_stack([known, past.wanted, past.visit == 0])
    value = np.where(known, past.price, 0.0)
    typical, wanted, visited = _means(m.visitors, chosen, value)[m.visitor].T
    squares = _means(m.visitors, known[:, None], value**2)[m.visitor, 0]
    spread = np.sqrt(np.maximum(squares - typical**2, 0.0))
    from_typical = asked - typical[request]
    in_category = _means(m.scopes.groups, known[:, None], value)[:, 0]
    yield gap
    yield np.abs(gap)
    yield from_typical
    yield asked - wanted[request]
    yield asked - visited[request]
    yield asked - m.scopes.per_row("category", in_category)
    yield asked - m.of_last(past.price, np.nan)[request]
    yield np.clip(from_typical / np.maximum(spread, LEAST_SPREAD)[request], -MOST_DEVIATIONS, MOST_DEVIATIONS)
    yield _rank(m)
    yield spread[request]


def _means(groups: Groups, chosen: NDArray[np.bool_], value: Floats) -> Floats:
    """[groups + 1, k] mean of the values [rows] of `chosen` [rows, k], NaN where none is."""
    count, total = groups.total(chosen), groups.total(chosen * value[:, None])
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def _rank(m: Moments) -> Floats:
    """[n] share of the priced history that is cheaper than the candidate."""
    places, past = m.items.price_place, m.histories
    place = places[past.item]
    width = len(places) + 1
    ordered = np.sort((past.request * width + place)[place > 0])
    wanted, start = places[m.candidates.item], m.candidates.request * width
    first = np.searchsorted(ordered, start)
    cheaper = np.searchsorted(ordered, start + wanted) - first
    count = np.searchsorted(ordered, start + width) - first
    return np.where((wanted > 0) & (count > 0), cheaper / np.maximum(count, 1), 0.5)
