"""What an item is, and how fresh: blocks "item" and "freshness"."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.moments import Moments, days

STALE_DAYS = 30.0  # staleness beyond it, or unknown, counts as this
NEVER_DAYS = 1_000.0  # "days since" where it never happened


def item(m: Moments) -> Iterator[NDArray[Any]]:
    yield m.items.static[m.candidates.item]


def freshness(m: Moments) -> Iterator[NDArray[Any]]:
    row, now = m.candidates.item, m.now
    age = days(now - m.items.created[row], 0.0)
    yield np.log1p(age)
    yield (now >= m.items.created[row]) & (age < 2.0)
    yield np.log1p(days(now - m.items.last_event[row], NEVER_DAYS))
    yield np.minimum(days(now - m.items.stats_time[row], STALE_DAYS), STALE_DAYS)
