"""Items and visitors as the towers are told about them in batch, from the lake.

`build_index` embeds with these functions, `validate_index` asks for the same vectors again: one way to read, so
that a difference is a fault of the artifact and not of the check.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo import events, names, transforms
from pipelines import datasets, sequences
from pipelines.datasets import Lake

ITEM_TIMES = ("item_first_event_time", "item_last_event_time", "stats_time")
BATCH = 1_024  # rows per call of a tower: large enough to fill the cores, small enough for any memory
log = logging.getLogger(__name__)


class Towers(Protocol):
    """What this module needs of `models.two_tower.Towers`."""

    def users(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]: ...

    def items(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]: ...


def catalogue(lake: Lake, day: date) -> pa.Table:
    """The items that can be recommended after a day: available, by item id, with their latest statistics.

    What cannot be bought or watched is left out here rather than filtered per request, so that retrieval never
    spends candidates on it; it comes back with the next build after it is available again.

    Returns:
        the columns of `events.ITEMS`, then `names.ITEM_STATS` (0 where nothing ever happened), then ITEM_TIMES
        (epoch seconds, 0 where unknown).
    """
    items = lake.read(datasets.ITEMS, day)
    items = items.filter(pc.field("available")).sort_by("item_id").select(events.ITEMS.names)
    stats = _latest_stats(lake, day)
    row_of = {item_id: row for row, item_id in enumerate(stats["item_id"])}
    order = pa.array([row_of.get(item_id) for item_id in _list(items, "item_id")], pa.int64())
    for name in (*names.ITEM_STATS, *ITEM_TIMES):
        kind = pa.float32() if name in names.ITEM_STATS else pa.int64()
        column = pa.array(stats[name], from_pandas=True).take(order).cast(kind, safe=False)
        items = items.append_column(name, pc.fill_null(column, pa.scalar(0, kind)))
    return items


def _latest_stats(lake: Lake, day: date) -> pd.DataFrame:
    """The newest rows of `item_stats` up to a day; each of its days holds the whole catalogue."""
    view = datasets.feature_view("item_stats")
    columns = ["item_id", "event_timestamp", *names.ITEM_STATS, *ITEM_TIMES]
    rows: pd.DataFrame = lake.read_days(view, lake.days(view, until=day)[-1:], columns).to_pandas()
    return rows.drop_duplicates("item_id", keep="last")


def embed_items(towers: Towers, items: pa.Table, as_of: datetime) -> NDArray[np.float32]:
    """[n, dim] vectors of rows of `catalogue()`, by the item tower; ages are counted to `as_of`."""
    parts = []
    for start in range(0, items.num_rows, BATCH):
        parts.append(towers.items(_item_inputs(items.slice(start, BATCH), as_of)))
        if start and start % (50 * BATCH) == 0:
            log.info("embedded %d of %d items", start, items.num_rows)
    return np.concatenate(parts) if parts else np.zeros((0, names.EMBEDDING_DIM), np.float32)


def _item_inputs(items: pa.Table, as_of: datetime) -> dict[str, NDArray[Any]]:
    return transforms.item_tower_inputs(
        **{name: _list(items, name) for name in ("item_id", "title", "category", "brand", "tags", "price")},
        created=np.array([moment.timestamp() for moment in _list(items, "created_at")]),
        stats=np.stack([items.column(name).to_numpy() for name in names.ITEM_STATS], axis=1).astype(np.float32),
        now=as_of.timestamp(),
    )


def embed_requests(
    towers: Towers, users: Mapping[str, Sequence[Any]], now: NDArray[np.float64], history_length: int
) -> NDArray[np.float32]:
    """[requests, dim] vectors by the user tower, each as the predictor would make it at the time of the request.

    Args:
        users: who asks: columns `names.HISTORY`, `region`, `age_group` and `preferences`.
        now: [requests] epoch seconds.
        history_length: newest events that the user tower takes.
    """
    columns = [users[name] for name in (*names.HISTORY, "region", "age_group", "preferences")]
    parts = []
    for start in range(0, len(now), BATCH):
        batch = slice(start, start + BATCH)
        items, kinds, times, region, age_group, preferences = (column[batch] for column in columns)
        inputs = transforms.user_tower_inputs(
            items, kinds, times, region, age_group, preferences, now[batch], history_length
        )
        parts.append(towers.users(inputs))
    return np.concatenate(parts)


@dataclass(frozen=True)
class Visitors:
    """Rows of SEQUENCES with what users said about themselves."""

    sequences: pa.Table
    preferences: dict[str, list[str]]

    def __len__(self) -> int:
        return int(self.sequences.num_rows)

    @property
    def ids(self) -> list[str]:
        return _list(self.sequences, "visitor_id")

    def take(self, rows: NDArray[np.int64]) -> "Visitors":
        return Visitors(self.sequences.take(rows), self.preferences)


def visitors(lake: Lake, day: date, *, active_since: datetime | None = None) -> Visitors:
    """Logged-in users by id, as of the end of a day.

    Args:
        lake: where SEQUENCES and USERS of the day lie.
        day: the data day.
        active_since: leave out users whose last positive event is older.
    """
    found = sequences.read(lake, day, ["visitor_id", "is_user", "region", "age_group"])
    found = found.filter(pc.field("is_user")).sort_by("visitor_id")
    if active_since is not None:
        found = found.take(np.flatnonzero(_last_times(found) >= active_since.timestamp()))
    users = lake.read(datasets.USERS, day, ["user_id", "preferences"])
    stated = zip(_list(users, "user_id"), _list(users, "preferences"), strict=True)
    return Visitors(found, {user: wishes for user, wishes in stated if wishes})


def _last_times(sequences: pa.Table) -> NDArray[np.float64]:
    """[n] epoch seconds of each visitor's newest event; 0 for one without events."""
    if sequences.num_rows == 0:
        return np.zeros(0)
    times: Any = sequences.column("times").combine_chunks()
    ends = times.offsets.to_numpy()[1:]
    lengths = pc.list_value_length(times).to_numpy(zero_copy_only=False)
    values = np.append(times.values.to_numpy(), 0)  # index -1 of an empty first row falls on it
    return np.where(lengths > 0, values[ends - 1], 0).astype(np.float64)


def embed_users(
    towers: Towers, found: Visitors, as_of: datetime, history_length: int
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Batches of user ids and their vectors [batch, dim], as the predictor would compute them at `as_of`."""
    for start in range(0, len(found), BATCH):
        batch = found.sequences.slice(start, BATCH)
        lists = {name: _list(batch, name) for name in ("visitor_id", "region", "age_group")}
        rows = batch.select([*sequences.LISTS, sequences.TURNS.name]).to_pylist()
        kept = [sequences.counting(row, as_of.timestamp())[-history_length:] for row in rows]
        history = {
            name: [[row[name][k] for k in places] for row, places in zip(rows, kept, strict=True)]
            for name in sequences.LISTS
        }
        inputs = transforms.user_tower_inputs(
            **history,
            region=lists["region"],
            age_group=lists["age_group"],
            preferences=[found.preferences.get(user) for user in lists["visitor_id"]],
            now=np.full(batch.num_rows, as_of.timestamp()),
            length=history_length,
        )
        yield lists["visitor_id"], towers.users(inputs)
        if start and start % (50 * BATCH) == 0:
            log.info("embedded %d of %d users", start, len(found))


def _list(table: pa.Table, name: str) -> list[Any]:
    """A column as Python values."""
    values: list[Any] = table.column(name).to_pylist()
    return values
