"""What the API has received, from the closed segments of the event bus, and from the lake once they have left it.

A line that is not one event of the schema is set aside with its reason and counted, never lost. The catalogue and the
users are those that the lake published last.

The API notes when it received an event. What it received more than LATE after it happened, or more than AHEAD before,
is no event of its day (`strays`): so it does not depend on the night of a run what a day holds. An event that does not
say when it was received is taken at its word.
"""

import fcntl
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from feature_repo.events import EVENT_TYPES, EVENTS, ITEMS, USERS, Table
from pipelines import datasets
from pipelines.sources import clock, coercion, files, received, source
from recsys import bus
from recsys.errors import BadData

log = logging.getLogger(__name__)

TOPIC = "events"
TOO_LATE = "late"
TOGETHER = 256  # segments parsed by one call, which takes 2 ms by itself; a busy week has 60,000 of them
TOGETHER_BYTES = 4 * bus.MIB
RETIRED_ROWS = 500_000  # events in memory at a time, some 100 MB
LATE = timedelta(days=30)  # an app that was offline for a holiday; what comes later changes no published day
AHEAD = timedelta(days=1)  # no zone and no clock that anybody looks at is wrong by more
EVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC) - timedelta(days=1))
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
        self._window = EVER
        self._told: list[Path] = []

    def files(self) -> list[Path]:
        """What `events` was last made from: files of the lake in its window, and segments with an event before its end.

        Segments that are read together count together. What came later does not count, or whoever tries an idea on last
        week's data, while shoppers click, would have all features made anew. Of a segment that another run has retired
        since, the lake has the events.
        """
        there = [segment for segment in self._told if segment.exists()]
        return [*there, *received.paths(datasets.Lake(self.root), *self._window)]

    def times(self) -> Iterator[Any]:
        return (_timely(batch).column("event_time") for _, batch in self._all(*EVER))

    def last(self) -> datetime:
        latest = (pc.max(times).as_py() for times in self.times())
        return max((time for time in latest if time is not None), default=datetime(1970, 1, 1, tzinfo=UTC))

    def events(self, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
        """Events of the window that were received in time; see `strays` for the others."""
        self.dropped.clear()
        self._window, self._told = (since, until), []
        if self.aside is not None:
            self.aside.unlink(missing_ok=True)
        for segments, batch in self._all(since, until):
            if pc.any(pc.less(batch.column("event_time"), pa.scalar(until, source.TIME))).as_py():
                self._told += segments
            yield source.within(_timely(batch), since, until)

    def strays(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """All events that were received too late, or before they happened, with the reason."""
        for _, batch in Bus(self.root)._all(*EVER):  # one that counts and sets aside nothing again
            for reason, rows in ((TOO_LATE, _late(batch)), (clock.FUTURE, _ahead(batch))):
                if pc.any(rows).as_py():
                    yield reason, batch.filter(rows)

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

    def retire(self, before: datetime) -> int:
        """Move the events of segments that were opened before a moment into the lake, and delete the segments.

        An event is in the lake, flushed and named, before its segment goes. A segment with a line that is no event
        stays, whole, for a person to look at.

        Returns:
            How many segments have left the bus.
        """
        folder = bus.folder(self.root, TOPIC)
        if not folder.exists():
            return 0
        count = 0
        with (folder / ".retire.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would keep every event twice
            for segments, events in self._whole(before):
                received.add(datasets.Lake(self.root), events)
                bus.delete(segments)
                count += len(segments)
        return count

    def _whole(self, before: datetime) -> Iterator[tuple[list[Path], pa.Table]]:
        """Old segments of which every line is an event, some at a time, and their events."""
        segments: list[Path] = []
        events: list[pa.RecordBatch] = []
        refused = self.dropped.total()
        for some, batch in self._read(bus.opened_before(self.root, TOPIC, before)):
            if self.dropped.total() > refused:
                refused = self.dropped.total()
                log.warning("%s stays in the bus: it has lines that are no events", some[0])
                continue
            segments += some
            events.append(batch)
            if sum(part.num_rows for part in events) >= RETIRED_ROWS:
                yield segments, pa.Table.from_batches(events)
                segments, events = [], []
        if segments:
            yield segments, pa.Table.from_batches(events)

    def _all(self, since: datetime, until: datetime) -> Iterator[tuple[list[Path], pa.RecordBatch]]:
        """Every closed segment, then what the lake holds of the window, which is in no segment."""
        yield from self._read(bus.closed(self.root, TOPIC))
        for path in received.paths(datasets.Lake(self.root), since, until):
            yield from (([], batch) for batch in received.batches(path))

    def _read(self, segments: Iterable[Path]) -> Iterator[tuple[list[Path], pa.RecordBatch]]:
        """Segments and their events, many small ones at once; one that has a line that is no event comes alone."""
        held: dict[Path, bytes] = {}
        for segment in segments:
            try:
                held[segment] = segment.read_bytes()
            except FileNotFoundError:
                continue  # another run has retired it; the lake, which is listed later, has its events
            if len(held) >= TOGETHER or sum(map(len, held.values())) >= TOGETHER_BYTES:
                yield from self._parsed(held)
                held = {}
        yield from self._parsed(held)

    def _parsed(self, contents: Mapping[Path, bytes]) -> Iterator[tuple[list[Path], pa.RecordBatch]]:
        batch = self._fast(b"".join(contents.values()))
        if batch is not None:
            yield list(contents), batch
            return
        for segment, content in contents.items():
            yield [segment], self._fast(content) or self._slow(segment, content)

    def _fast(self, content: bytes) -> pa.RecordBatch | None:
        """Whole segments by Arrow's reader; None if any line is not as it should be."""
        try:
            rows = pyarrow.json.read_json(
                pa.BufferReader(content),
                parse_options=pyarrow.json.ParseOptions(explicit_schema=TYPED, unexpected_field_behavior="error"),
            )
            columns = {name: rows.column(name).combine_chunks() for name in rows.column_names}
            for name in TIMES:
                columns[name] = coercion.timestamps(columns[name])
            batch = source.conform(EVENTS, columns, rows.num_rows)
            source.check_event_types(batch, TOPIC)
        except (pa.ArrowException, BadData):
            return None
        return None if any(source.lacks(batch, column) for column in EVENTS.columns) else batch

    def _slow(self, segment: Path, content: bytes) -> pa.RecordBatch:
        """The same line by line, setting aside what is no event."""
        good = []
        for line in content.splitlines():
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


def _late(batch: pa.RecordBatch) -> Any:
    """[n] whether an event came more than LATE after it happened."""
    delay = pc.subtract(batch.column("ingested_at"), batch.column("event_time"))
    return pc.fill_null(pc.greater(delay, pa.scalar(LATE, pa.duration("us"))), False)


def _ahead(batch: pa.RecordBatch) -> Any:
    """[n] whether an event came more than AHEAD before it happened."""
    ahead = pc.subtract(batch.column("event_time"), batch.column("ingested_at"))
    return pc.fill_null(pc.greater(ahead, pa.scalar(AHEAD, pa.duration("us"))), False)


def _timely(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(pc.invert(pc.or_(_late(batch), _ahead(batch))))


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
        if column.required and row["event"] not in column.optional_for and value in (None, ""):
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
