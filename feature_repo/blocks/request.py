"""When, and what retrieval said: blocks "context" and "retrieval"."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.moments import DAY, Moments

EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0
NOT_RETRIEVED = 8.0  # log1p of a rank of about 3,000, the most that retrieval returns


def context(m: Moments) -> Iterator[NDArray[Any]]:
    day = m.requests.now / DAY
    hour = 2 * np.pi * (day % 1.0)
    weekday = (np.floor(day) + EPOCH_WEEKDAY) % 7
    angle = 2 * np.pi * weekday / 7
    yield m.per_row(np.sin(hour), np.cos(hour), np.sin(angle), np.cos(angle), weekday >= 5)


def retrieval(m: Moments) -> Iterator[NDArray[Any]]:
    rank = m.candidates.rank
    found = rank >= 0
    place = np.maximum(rank, 0)
    yield np.clip(np.nan_to_num(m.candidates.score, nan=0.0), -100.0, 100.0)
    yield found / (place + 1.0)
    yield np.where(found, np.log1p(place), NOT_RETRIEVED)
    yield found
