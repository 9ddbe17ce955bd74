"""THE request-time feature functions: numpy only, called by training and by serving alike.

Everything here is arithmetic on values that the feature store returned and on the time of the request. Windowed
aggregates are in `pipelines/features.py`, vocabularies and normalisation inside the SavedModel.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECONDS_PER_DAY = 86_400.0
MAX_FEATURE_AGE_DAYS = 1.0


def request_time(wall: float, as_of: float) -> float:
    """The time that features are computed for, in epoch seconds.

    A model is retrained daily and has seen requests at most a day after its data. Where the data end long before
    the wall clock (a historic data set, or a pipeline that has stood still), recency features would leave the
    range that the model knows; so time stands still one day after `as_of`, the end of the release's data.
    """
    return min(wall, as_of + MAX_FEATURE_AGE_DAYS * SECONDS_PER_DAY)


def history_inputs(
    items: Sequence[Sequence[str]],
    events: Sequence[Sequence[str]],
    times: Sequence[Sequence[int]],
    now: NDArray[np.float64],
    length: int,
) -> dict[str, NDArray[Any]]:
    """Pad histories for the user tower.

    Args:
        items: per request, item ids, oldest first.
        events: per request, event type of each.
        times: per request, epoch seconds of each.
        now: [batch] epoch seconds of each request; later events are dropped, so that nothing leaks.
        length: events kept, the newest.

    Returns:
        `history_items` and `history_events`, [batch, length] str, padded with "" at the end, newest first;
        `history_ages`, [batch, length] float32, days before the request, 0 where padded.
    """
    batch = len(items)
    ids = np.full((batch, length), "", dtype=object)
    kinds = np.full((batch, length), "", dtype=object)
    ages = np.zeros((batch, length), np.float32)
    for row in range(batch):
        when = np.asarray(times[row], np.float64)
        kept = np.flatnonzero(when < now[row])[::-1][:length]
        n = len(kept)
        ids[row, :n] = [items[row][k] for k in kept]
        kinds[row, :n] = [events[row][k] for k in kept]
        ages[row, :n] = (now[row] - when[kept]) / SECONDS_PER_DAY
    return {"history_items": ids, "history_events": kinds, "history_ages": ages}
