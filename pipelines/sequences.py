"""The sequences of a data day as Arrow batches: who did what, and what of it counts at a moment."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray

from feature_repo import standing
from pipelines import datasets
from pipelines.datasets import Lake

LISTS = ("items", "events", "times")
TURNS = pa.field("turns", pa.list_(pa.list_(pa.int64())))


def batches(lake: Lake, day: date, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of the columns, LISTS and `turns`, which is empty in sequences that were written without."""
    yield from _dataset(lake, day).to_batches(columns=[*columns, *LISTS, TURNS.name], batch_size=rows)


def read(lake: Lake, day: date, columns: Sequence[str]) -> pa.Table:
    """The same as one table."""
    return _dataset(lake, day).to_table(columns=[*columns, *LISTS, TURNS.name])


def _dataset(lake: Lake, day: date) -> Any:
    written = pyarrow.dataset.dataset(lake.require(datasets.SEQUENCES, day), format="parquet")
    if TURNS.name in written.schema.names:
        return written
    return written.replace_schema(written.schema.append(TURNS))


def turns(batch: pa.RecordBatch) -> NDArray[np.float64]:
    """[events, T] epoch seconds of the turns of each event of a batch, +inf where there is none; T is mostly 0."""
    times, lists = batch.column("times"), batch.column(TURNS.name)
    lengths = pc.fill_null(pc.list_value_length(times), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    told = pc.is_valid(lists).to_numpy(zero_copy_only=False).astype(bool)
    per_event = pc.list_flatten(lists)
    count = pc.list_value_length(per_event).to_numpy(zero_copy_only=False).astype(np.int64)
    event = np.repeat(np.flatnonzero(np.repeat(told, lengths)), count)
    place = np.arange(len(event)) - np.repeat(np.cumsum(count) - count, count)
    out = np.full((int(lengths.sum()), int(count.max(initial=0))), np.inf)
    out[event, place] = pc.list_flatten(per_event).to_numpy(zero_copy_only=False)
    return out


def counting(row: dict[str, Any], now: float, first: int = 0, last: int | None = None) -> list[int]:
    """Places of the events of a visitor, from `first` to before `last`, that count at `now`."""
    places = range(first, len(row["times"]) if last is None else last)
    moments = row.get(TURNS.name)
    if not moments:
        return list(places)
    return [place for place in places if bool(standing.counts(np.array(moments[place], np.float64), now))]
