"""What the API has received, from the closed segments of the event bus.

A line that is not one event of the schema is set aside with its reason and counted, never lost. The catalogue and the
users are those that the lake published last.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from feature_repo.events import EVENT_TYPES, EVENTS, ITEMS, USERS, Table
from pipelines import datasets
from pipelines.sources import files, source
from recsys import bus
from recsys.errors import BadData

log = logging.getLogger(__name__)

TOPIC = "events"
TIMES = ("event_time", "ingested_at")
# Times come as text: Arrow's JSON reader takes fewer spellings of a time than ISO 8601 has.
TYPED = pa.schema([pa.field(f.name, pa.string() if f.name in TIMES else f.type) for f in source.relaxed(EVENTS)])


class Bus:
    """See `source.Source`. Lines that are refused are written to `aside`, one JSON object each.

    Args:
        root: storage root.
        aside: file for refused lines; None counts them only.
    """

    def __init__(self, root: Path, aside: Path | None = None) -> None:
        self.root = root
        self.aside = aside
        self.dropped: Counter[str] = Counter()
        self.late = 0

    def files(self) -> list[Path]:
        return bus.closed(self.root, TOPIC)

    def last(self) -> datetime:
        found = (pc.max(batch.column("event_time")).as_py() for batch in self._batches() if batch.num_rows)
        return max((time for time in found if time is not None), default=datetime(1970, 1, 1, tzinfo=UTC))

    def events(self, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
        """Events of the window; `late` counts those before it, which a re-run of their day takes in."""
        self.dropped.clear()
        self.late = 0
        if self.aside is not None:
            self.aside.unlink(missing_ok=True)
        for batch in self._batches():
            self.late += pc.sum(pc.less(batch.column("event_time"), pa.scalar(since, source.TIME))).as_py() or 0
            yield source.within(batch, since, until)

    def items(self, until: datetime) -> Iterator[pa.RecordBatch]:
        yield from self._published(ITEMS, until)

    def users(self, until: datetime) -> Iterator[pa.RecordBatch]:
        yield from self._published(USERS, until)

    def _published(self, table: Table, until: datetime) -> Iterator[pa.RecordBatch]:
        lake, dataset = datasets.Lake(self.root), datasets.CLEAN[table.name]
        days = [day for day in lake.days(dataset) if datasets.end_of(day) <= until]
        if not days:
            raise BadData(f"no {table.name} have been published yet; ingest a source with a catalogue first")
        for batch in files.parquet(lake.path(dataset, days[-1])):
            yield source.conform(table, {name: batch.column(name) for name in batch.schema.names}, batch.num_rows)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for segment in bus.closed(self.root, TOPIC):
            yield self._fast(segment) or self._slow(segment)

    def _fast(self, segment: Path) -> pa.RecordBatch | None:
        """A whole segment by Arrow's reader; None if any line is not as it should be."""
        try:
            rows = pyarrow.json.read_json(
                segment,
                parse_options=pyarrow.json.ParseOptions(explicit_schema=TYPED, unexpected_field_behavior="error"),
            )
            columns = {name: rows.column(name).combine_chunks() for name in rows.column_names}
            for name in TIMES:
                columns[name] = source.timestamps(columns[name])
            batch = source.conform(EVENTS, columns, rows.num_rows)
            source.check_event_types(batch, segment)
        except (pa.ArrowException, BadData):
            return None
        required = [column.name for column in EVENTS.columns if column.required]
        return None if any(batch.column(name).null_count for name in required) else batch

    def _slow(self, segment: Path) -> pa.RecordBatch:
        """The same line by line, setting aside what is no event."""
        good = []
        for line in segment.read_bytes().splitlines():
            try:
                good.append(event(line))
            except (ValueError, TypeError, KeyError) as error:
                self._refuse(segment, line, str(error))
        columns = {name: [row.get(name) for row in good] for name in EVENTS.names}
        return source.conform(EVENTS, columns, len(good))

    def _refuse(self, segment: Path, line: bytes, reason: str) -> None:
        self.dropped["bad_bus_line"] += 1
        if self.aside is None:
            return
        self.aside.parent.mkdir(parents=True, exist_ok=True)
        text = line.decode("utf-8", errors="replace")
        with self.aside.open("a") as stream:
            stream.write(json.dumps({"segment": segment.name, "reason": reason, "line": text}) + "\n")


def event(line: bytes) -> dict[str, Any]:
    """One line of the bus as a row. Raises ValueError, TypeError or KeyError that says what is wrong."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise TypeError("not a JSON object")
    EVENTS.check_columns(list(row))
    if row["event"] not in EVENT_TYPES:
        raise ValueError(f"unknown event type {row['event']!r}")
    for column in EVENTS.columns:
        value = row.get(column.name)
        if column.required and value in (None, ""):
            raise ValueError(f"{column.name} is empty")
        row[column.name] = _cell(column.name, column.type, value)
    return row


def _cell(name: str, kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "timestamp":
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    expected: dict[str, tuple[type, ...]] = {"string": (str,), "int": (int,), "double": (int, float)}
    if not isinstance(value, expected[kind]) or isinstance(value, bool):
        raise TypeError(f"{name} must be {kind}, got {value!r}")
    return value
