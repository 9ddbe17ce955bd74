"""What the user had to do with an item and its like, how often and how lately: blocks "touch", "deeds", "rhythm"."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.groups import Bools, Floats
from feature_repo.moments import DAY, Moments, table
from feature_repo.ranking_table import HALF_LIVES_DAYS, KIND_SCOPES, SCOPES

SAME_HOURS = 3.0  # either way
LEAST_WEIGHT = 1e-9


def touch(m: Moments) -> Iterator[NDArray[Any]]:
    past, groups = m.histories, m.scopes.groups
    decayed = past.weight[:, None] * 0.5 ** (past.age[:, None] / np.array(HALF_LIVES_DAYS))
    weight = m.visitors.total(decayed[:, -1])[m.visitor][past.request]
    share = decayed[:, -1] / np.maximum(weight, LEAST_WEIGHT)
    sums = groups.total(np.column_stack([np.ones(len(share)), decayed, past.visit == 0, share]))
    found = table(
        np.log1p(sums[:, :-1]),
        np.minimum(sums[:, -1], 1.0),
        np.minimum(groups.of_each(past.visit, worth=1.0 / m.visits[past.request]), 1.0),
        1.0 / (1.0 + groups.least(np.column_stack([past.age, past.ago]))),
    )
    for scope in SCOPES:
        yield m.scopes.per_row(scope, found)


def deeds(m: Moments) -> Iterator[NDArray[Any]]:
    found = np.log1p(m.scopes.groups.total(m.histories.kinds))
    for scope in KIND_SCOPES:
        yield m.scopes.per_row(scope, found)


def rhythm(m: Moments) -> Iterator[NDArray[Any]]:
    past = m.histories
    now = m.requests.now[past.request]
    apart = np.abs(past.time - now) / DAY % 1.0 * 24.0
    hours = np.minimum(apart, 24.0 - apart) <= SAME_HOURS
    weekday = np.floor(past.time / DAY) % 7 == np.floor(now / DAY) % 7
    shares = _shares(m, np.column_stack([hours, weekday]))
    yield m.scopes.per_row("category", m.scopes.groups.total(shares))


def _shares(m: Moments, chosen: Bools) -> Floats:
    """[events, k] what each event is of all of its request that are `chosen` [events, k]; 0 where it is not."""
    count: Floats = m.visitors.total(chosen)[m.visitor][m.histories.request]
    return chosen / np.maximum(count, 1.0)
