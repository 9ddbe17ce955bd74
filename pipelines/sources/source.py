"""What every adapter offers, and the arithmetic that several of them share."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.events import EVENT_TYPES, Column, Table, unknown_type
from pipelines.sources import coercion
from recsys.errors import BadData

BATCH_ROWS = 65_536  # about 15 MB of events: what a reader holds at a time
MERGE_ROWS = 1_000_000
TIME = coercion.TIME


class Source(Protocol):
    """An input in canonical form, read in batches so that its size does not matter.

    All methods look at the input as of `until` (exclusive, aware UTC): what came later is as if it did not exist.
    """

    @property
    def dropped(self) -> Counter[str]:
        """Rows that the adapter leaves out, by reason; complete once `events` has been read to its end."""

    def files(self) -> list[Path]:
        """The files of the input, in a stable order."""

    def times(self) -> Iterator[Any]:
        """The times of all events as Arrow arrays, whatever their clocks say; as cheaply as the format allows."""

    def last(self) -> datetime:
        """The time of the last event whose time is plausible (`pipelines.sources.clock`)."""

    def events(self, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
        """Events in since..until, in any order; those without a time too, so that the quality gate sees them."""

    def items(self, until: datetime) -> Iterator[pa.RecordBatch]:
        """The whole catalogue."""

    def users(self, until: datetime) -> Iterator[pa.RecordBatch]:
        """All users."""


def relaxed(table: Table) -> pa.Schema:
    """The schema of a table before the quality gate: any column may be empty."""
    return pa.schema([field.with_nullable(True) for field in table.arrow()])


def conform(table: Table, columns: dict[str, Any], rows: int) -> pa.RecordBatch:
    """A batch with all columns of the schema, in its order and types; those not given are empty."""
    schema = relaxed(table)
    arrays = [
        _array(columns[field.name], field.type) if field.name in columns else pa.nulls(rows, field.type)
        for field in schema
    ]
    return pa.record_batch(arrays, schema=schema)


def _array(values: Any, kind: pa.DataType) -> Any:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return array.cast(kind) if isinstance(array, pa.Array) else pa.array(array, kind)


def within(batch: pa.RecordBatch, since: datetime, until: datetime) -> pa.RecordBatch:
    """The rows whose event_time is in since..until, or empty."""
    time = batch.column("event_time")
    inside = pc.and_(pc.greater_equal(time, pa.scalar(since, TIME)), pc.less(time, pa.scalar(until, TIME)))
    return batch.filter(pc.or_kleene(inside, pc.is_null(time)))


def check_event_types(batch: pa.RecordBatch, place: object) -> None:
    """Raise BadData that names the event types that the schema does not know."""
    found = set(pc.unique(batch.column("event")).to_pylist()) - {None}
    if unknown := sorted(found - set(EVENT_TYPES)):
        raise BadData(f"{place}: {'; '.join(map(unknown_type, unknown))}")


def lacks(batch: pa.RecordBatch, column: Column) -> bool:
    """Whether a row of events leaves a column empty that it must fill."""
    if not column.required:
        return False
    empty = pc.is_null(batch.column(column.name))
    if column.optional_for:
        exempt = pc.is_in(batch.column("event"), pa.array(column.optional_for, pa.string()))
        empty = pc.and_(empty, pc.invert(exempt))
    return bool(pc.any(empty).as_py())


class Earliest:
    """The first time of each id over a stream of batches; holds one row per id, and some that wait to be merged."""

    def __init__(self) -> None:
        self._parts = [pa.table({"id": pa.array([], pa.string()), "time": pa.array([], TIME)})]

    def add(self, ids: Any, times: Any) -> None:
        self._parts.append(pa.table({"id": ids, "time": times}).drop_null())
        if sum(part.num_rows for part in self._parts[1:]) > max(MERGE_ROWS, self._parts[0].num_rows):
            self._merge()

    def sorted(self) -> pa.Table:
        """Columns id, time; by id."""
        self._merge()
        return self._parts[0].sort_by("id")

    def _merge(self) -> None:
        first = pa.concat_tables(self._parts).group_by("id", use_threads=False).aggregate([("time", "min")])
        self._parts = [first.select(["id", "time_min"]).rename_columns(["id", "time"])]


def sliced(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """A table in batches of bounded size."""
    yield from table.to_batches(max_chunksize=BATCH_ROWS)
