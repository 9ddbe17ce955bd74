"""THE request-time feature functions: numpy only, called by training and by serving alike.

Everything here is arithmetic on values that the feature store returned and on the time of the request. Windowed
aggregates are in `pipelines/features.py`, vocabularies and normalisation inside the SavedModel. The ranking features
are a module of their own for their number, and are called from here as well.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Given to callers, so that they import this module alone.
from feature_repo.item_matrix import ITEM_COLUMNS as ITEM_COLUMNS
from feature_repo.item_matrix import ItemMatrix as ItemMatrix
from feature_repo.item_matrix import item_matrix as item_matrix
from feature_repo.moments import USER_COLUMNS as USER_COLUMNS
from feature_repo.moments import Candidates as Candidates
from feature_repo.moments import Requests as Requests
from feature_repo.ranking import ranking_features as ranking_features
from feature_repo.ranking import ranking_inputs as ranking_inputs
from feature_repo.ranking_table import RANKING_DOCS as RANKING_DOCS
from feature_repo.ranking_table import RANKING_FEATURES as RANKING_FEATURES

SECONDS_PER_DAY = 86_400.0
MAX_FEATURE_AGE_DAYS = 1.0
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0
PREFERENCES = 8
TAGS = 8


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


def user_tower_inputs(
    items: Sequence[Sequence[str]],
    events: Sequence[Sequence[str]],
    times: Sequence[Sequence[int]],
    region: Sequence[str | None],
    age_group: Sequence[str | None],
    preferences: Sequence[Sequence[str] | None],
    now: NDArray[np.float64],
    length: int,
) -> dict[str, NDArray[Any]]:
    """Everything that the user tower is told about a batch of requests, by the names of its serving signature.

    Args:
        items, events, times: histories as in `history_inputs`; empty sequences for a visitor nobody knows.
        region, age_group: per request; None or "" where unknown.
        preferences: per request, stated categories; the first `PREFERENCES` count.
        now: [batch] epoch seconds of each request, UTC.
        length: events kept, the newest; `history_length` in the manifest of the retrieval artifact.

    Returns:
        `history_*` of `history_inputs`, `region` and `age_group` [batch] str, `preferences` [batch, 8] str,
        `hour` [batch] float32 in [0, 24), `weekday` [batch] int32, Monday 0; all UTC.
    """
    seconds = np.asarray(now, np.float64)
    days = np.floor(seconds / SECONDS_PER_DAY)
    return history_inputs(items, events, times, seconds, length) | {
        "region": np.asarray([value or "" for value in region], dtype=object),
        "age_group": np.asarray([value or "" for value in age_group], dtype=object),
        "preferences": _padded(preferences, PREFERENCES),
        "hour": ((seconds - days * SECONDS_PER_DAY) / 3600.0).astype(np.float32),
        "weekday": ((days + EPOCH_WEEKDAY) % 7).astype(np.int32),
    }


def item_tower_inputs(
    item_id: Sequence[str],
    title: Sequence[str | None],
    category: Sequence[str | None],
    brand: Sequence[str | None],
    tags: Sequence[Sequence[str] | None],
    price: Sequence[float | None] | NDArray[np.float64],
    created: NDArray[np.float64],
    stats: NDArray[np.float32],
    now: float,
) -> dict[str, NDArray[Any]]:
    """Everything that the item tower is told about items, by the names of its serving signature.

    Args:
        item_id: ids; an id that the model was not trained on is embedded from its content alone.
        title, category, brand, tags: content; None where unknown. The first `TAGS` tags count.
        price: unit price; None, NaN or less than 0 where unknown.
        created: [n] epoch seconds at which each entered the catalogue.
        stats: [n, S] in the order of `names.ITEM_STATS`, raw; NaN and 0 both mean "nothing happened".
        now: epoch seconds that the statistics are valid at; ages are counted to it.

    Returns:
        `item_id`, `title`, `category`, `brand` [n] str, `tags` [n, 8] str, `price` [n] float32 (0 where unknown),
        `age_days` [n] float32, `stats` [n, S] float32.
    """
    text = {"item_id": item_id, "title": title, "category": category, "brand": brand}
    prices = np.nan_to_num(np.asarray(price, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return {name: np.asarray([value or "" for value in column], dtype=object) for name, column in text.items()} | {
        "tags": _padded(tags, TAGS),
        "price": np.maximum(prices, 0.0).astype(np.float32),
        "age_days": np.maximum((now - np.asarray(created, np.float64)) / SECONDS_PER_DAY, 0.0).astype(np.float32),
        "stats": np.nan_to_num(np.asarray(stats, np.float32)),
    }


def _padded(rows: Sequence[Sequence[str] | None], width: int) -> NDArray[np.object_]:
    """[n, width] str: the first `width` strings of each row, padded with ""."""
    out = np.full((len(rows), width), "", dtype=object)
    for row, values in enumerate(rows):
        kept = [] if values is None else [value or "" for value in values][:width]
        out[row, : len(kept)] = kept
    return out
