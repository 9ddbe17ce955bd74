"""Data that are canonical already: `events`, `items` and `users` as parquet or csv, in the schema of
`feature_repo.events`.

    DIR/events/*.parquet | *.csv      or DIR/events.parquet | events.csv | events.csv.gz; the same for items, users

A csv file may leave out optional columns; a list (tags, regions, preferences) is joined by "|"; times are ISO 8601,
UTC where they name no zone. Users may be missing altogether.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.events import ARROW, EVENTS, ITEMS, USERS, Table
from pipelines.sources import clock, coercion, files, source
from recsys.errors import BadData

IDS = ("event_id", "user_id", "session_id", "item_id", "request_id", "event")  # in text, whatever wrote them
SUFFIXES = (".parquet", ".csv", ".csv.gz")


class Canonical:
    """See `source.Source`.

    Args:
        path: folder of the three tables.
    """

    def __init__(self, path: Path) -> None:
        self.path = files.require(path)
        self.dropped: Counter[str] = Counter()

    def files(self) -> list[Path]:
        return [part for table in (EVENTS, ITEMS, USERS) for part in self._parts(table)]

    def times(self) -> Iterator[Any]:
        for part in self._parts(EVENTS):
            yield from (batch.column("event_time") for batch in _batches(EVENTS, part, only="event_time"))

    def last(self) -> datetime:
        return clock.Days.read(self.times()).last(f"{self.path} has no events")

    def events(self, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
        for part in self._require(EVENTS):
            for batch in _batches(EVENTS, part, (since, until)):
                source.check_event_types(batch, part)
                yield source.within(batch, since, until)

    def items(self, until: datetime) -> Iterator[pa.RecordBatch]:
        for part in self._require(ITEMS):
            for batch in _batches(ITEMS, part):
                yield self._before(batch, "created_at", until)

    def users(self, until: datetime) -> Iterator[pa.RecordBatch]:
        for part in self._parts(USERS):
            for batch in _batches(USERS, part):
                yield self._before(batch, "signup_date", until)

    @cached_property
    def _no_clock(self) -> datetime:
        """The moment from which on no time is plausible, of whatever: a day after now and after the last event."""
        now = datetime.now(UTC)
        span = clock.Days.read(self.times()).span(now.date())
        latest = datetime.combine(span.last, time.max, tzinfo=UTC) if span else now
        return max(now, latest) + timedelta(days=1)

    def _before(self, batch: pa.RecordBatch, column: str, until: datetime) -> pa.RecordBatch:
        """The rows whose time is before `until`, or empty, or what no clock should say: the gate puts those aside."""
        times = batch.column(column)
        known = pc.less(times, pa.scalar(until, source.TIME))
        wrong = pc.greater_equal(times, pa.scalar(self._no_clock, source.TIME))
        return batch.filter(pc.or_kleene(pc.or_(known, wrong), pc.is_null(times)))

    def _require(self, table: Table) -> list[Path]:
        if not (parts := self._parts(table)):
            raise BadData(f"{self.path} has no {table.name}: expected {table.name}/*.parquet or {table.name}.csv there")
        return parts

    def _parts(self, table: Table) -> list[Path]:
        folder = self.path / table.name
        single = [self.path / f"{table.name}{suffix}" for suffix in SUFFIXES]
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        return [part for part in [*single, *inside] if part.is_file() and part.name.endswith(SUFFIXES)]


def _batches(
    table: Table, part: Path, span: tuple[datetime, datetime] | None = None, only: str = ""
) -> Iterator[pa.RecordBatch]:
    """Batches of one file in the table's schema.

    Args:
        table: what the file holds.
        part: the file.
        span: since and until of the events that are wanted; parquet reads hardly more.
        only: the one column to read; all others come empty.
    """
    is_text = part.suffix != ".parquet"
    names = files.csv_columns(part) if is_text else files.schema(part).names
    try:
        table.check_columns(names)
    except ValueError as error:
        raise BadData(f"{part}: {error}") from error
    names = [only] if only else names
    pointed: set[str] = set()
    if is_text:
        kinds = {c.name: ARROW[c.type] for c in table.columns if c.type in ("double", "long", "boolean")}
        rows = files.csv(part, kinds, include=names)
        pointed = _floats(part, [name for name in names if name in IDS])
    else:
        where = coercion.within(files.schema(part).field("event_time").type, "event_time", *span) if span else None
        rows = files.parquet(part, names, where)
    with files.reading(part):
        for batch in rows:
            columns = {name: _typed(table, part, name, batch.column(name)) for name in names}
            columns |= {name: coercion.without_point(columns[name]) for name in pointed}
            yield source.conform(table, columns, batch.num_rows)


def _floats(part: Path, names: list[str]) -> set[str]:
    """The columns of ids that a tool wrote as floats, since some were missing."""
    return coercion.floats(files.csv(part, {}, include=names), names) if names else set()


def _typed(table: Table, part: Path, name: str, values: Any) -> Any:
    """A column in its canonical type; lists may be joined by "|", times may be text, whole numbers may be floats."""
    kind = next(column.type for column in table.columns if column.name == name)
    if name in IDS:
        return coercion.ids(values)
    if kind == "string":
        return coercion.text(values)
    if kind == "timestamp":
        try:
            return coercion.timestamps(values)
        except BadData as error:
            raise BadData(f"{part}: {name}: {error}") from None
    if kind == "array<string>" and pa.types.is_string(values.type):
        return pc.split_pattern(values, "|")
    if kind == "int" and pa.types.is_string(values.type):
        return values.cast(pa.float64()).cast(pa.int32())
    return values.cast(ARROW[kind])
