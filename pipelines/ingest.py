"""Read a source into the staged events, items and users of a run.

The batch is the days after the last published one up to D; everything up to D on an empty lake; D alone when it is
published already. What the API received in those days is merged in from the event bus; segments that are older than
the bus keeps them are moved into the lake first. What the API was told of items stands in place of what the source says
of them. Nothing is judged here, and nothing is deduplicated: that is the
quality gate's business; only what is no row of the schema at all stays out, and is counted (and, from the bus, set
aside).

Arrow streams every source in batches of 64 thousand rows, and no adapter joins or shuffles more than one bucket. So the
peak of memory levels off at some 300 to 500 MB as the input grows; what goes on growing is what an adapter remembers
of distinct users, items and cancellations, some hundred bytes of each. This needs no Spark, whose JVM would cost
8 seconds before the first row.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from pydantic import Field

from feature_repo.events import EVENTS, ITEMS, USERS, Table
from pipelines import datasets, sources, split, stage
from pipelines.datasets import Lake
from pipelines.sources import changed, source
from pipelines.sources.bus import Bus
from pipelines.sources.changed import Changed
from pipelines.sources.source import Source
from recsys import bus
from recsys.errors import BadData, UsageError
from recsys.settings import Settings

log = logging.getLogger(__name__)

FILE_ROWS = 1_000_000  # rows of one staged file: some 60 MB, one Spark task each
LOG_ROWS = 1_000_000


class Params(stage.Params):
    """What ingestion is told."""

    source: str = Field(
        "",
        description="; ".join(f"{name}: {doc}" for name, doc in sources.NAMES.items())
        + "; empty: the one that this workspace was given last, or else simulator",
    )
    since: date | None = Field(None, description="first day of the batch; empty: the day after the last published one")


def _chosen(lake: Lake, asked: str) -> str:
    """The source to read: what is asked for, or else what this lake was given last, or else the simulated shop.

    Its path is absolute: the next run may start in another folder, and what was made of a source is kept by its name.

    A lake belongs to one shop: mixing two would train on nonsense. The bus brings events of the same shop. So a run
    that the clock starts, or somebody from a form, needs not be told again where the shop's data are.

    Raises:
        BadData: the lake holds another source; the message says how to have both.
    """
    owner = _owner(lake)
    known = owner.read_text() if owner.exists() else ""
    text = sources.absolute(asked or known or "simulator")
    name, held = text.partition(":")[0], known.partition(":")[0]
    if name not in ("bus", held) and held:
        remedy = f"`recsys use {name}` gives it a workspace of its own"
        raise BadData(f"{lake.root} holds the data of {held!r}, not of {name!r}; {remedy}")
    return text


def _remember(lake: Lake, chosen: str) -> None:
    """Note a source that could be opened. The bus is none: it brings events of the shop that the lake holds."""
    if chosen.partition(":")[0] != "bus":
        owner = _owner(lake)
        owner.parent.mkdir(parents=True, exist_ok=True)
        owner.write_text(chosen)


def _owner(lake: Lake) -> Path:
    return lake.root / "lake" / "source"


class Parts:
    """Writes batches of a table as parquet files of bounded size.

    Attributes:
        rows: written so far.
    """

    def __init__(self, folder: Path, table: Table) -> None:
        self.rows = 0
        self._folder = folder
        self._table = table
        self._files = 0
        self._in_file = 0
        self._writer: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None or self._in_file >= FILE_ROWS:
            self._next()
        self._writer.write_batch(batch)
        self._in_file += batch.num_rows
        before, self.rows = self.rows, self.rows + batch.num_rows
        if self.rows // LOG_ROWS > before // LOG_ROWS:
            log.info("%s: %d rows staged", self._table.name, self.rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None and kind is None:
            self._next()  # an empty partition still has its schema
        if self._writer is not None:
            self._writer.close()

    def _next(self) -> None:
        if self._writer is not None:
            self._writer.close()
        path = self._folder / f"part-{self._files:05d}.parquet"
        self._writer = pyarrow.parquet.ParquetWriter(path, source.relaxed(self._table), compression="zstd")
        self._files += 1
        self._in_file = 0


class Census:
    """Counts the events of a batch as they pass: rows by day and by type."""

    def __init__(self) -> None:
        self.days: Counter[str] = Counter()
        self.types: Counter[str] = Counter()
        self.timeless = 0

    def add(self, batch: pa.RecordBatch) -> None:
        times = batch.column("event_time")
        self.timeless += times.null_count
        days = pc.value_counts(times.drop_null().cast(pa.date32()))
        for entry in days.to_pylist():
            self.days[entry["values"].isoformat()] += entry["counts"]
        for entry in pc.value_counts(batch.column("event")).to_pylist():
            self.types[str(entry["values"])] += entry["counts"]


def main(params: Params, settings: Settings) -> stage.Result:
    """Stage one batch.

    Raises:
        UsageError: no such source, or `since` is after the day.
        BadData: the input cannot be read, has nothing in the batch's days, or nothing new enough to judge models on.
    """
    lake = datasets.lake(settings)
    root = Path(settings.storage.root).resolve()
    bus.recover(root, "events")
    bus.recover(root, changed.TOPIC)
    chosen = _chosen(lake, params.source)
    main_source = sources.open_source(chosen, settings)
    _remember(lake, chosen)
    since, until = window(lake, params)
    retired = Bus(root).retire(_midnight(datetime.now(UTC) - timedelta(days=settings.bus.retention_days)))
    aside = datasets.run_folder(settings, params.run) / "ingest" / "refused_bus_lines.jsonl"
    received = Bus(root, aside)
    told = changed.read(root)
    inputs: list[Source] = [received] if isinstance(main_source, Bus) else [main_source, received]
    parts_read: list[Source | Changed] = [*inputs, told]
    census = Census()
    with ExitStack() as stack:

        def parts(table: Table) -> Parts:
            folder = stack.enter_context(lake.replacing(datasets.STAGED[table.name], params.run))
            return stack.enter_context(Parts(folder, table))

        events, items, users = parts(EVENTS), parts(ITEMS), parts(USERS)
        for batch in staged_events(inputs, since, until, received_at=datetime.now(UTC)):
            events.write(batch)
            census.add(batch)
        if not isinstance(main_source, Bus):
            _require_recent(params.day, chosen, main_source, events.rows, census, since)
        for batch in told.over(inputs[0].items(until), until):
            items.write(batch)
        for batch in inputs[0].users(until):
            users.write(batch)
    if received.late:
        log.warning("%d events of the bus are older than %s; re-run their days to take them in", received.late, since)
    return {
        "source": chosen,
        "since": since.date().isoformat() if since > sources.BEGINNING else None,
        "since_asked": params.since.isoformat() if params.since else None,
        "day": params.day.isoformat(),
        "days": len(census.days),
        "first_day": min(census.days, default=None),
        "last_day": max(census.days, default=None),
        "rows": {"events": events.rows, "items": items.rows, "users": users.rows},
        "event_types": dict(census.types.most_common()),
        "events_without_time": census.timeless,
        "late_bus_events": received.late,
        "retired_segments": retired,
        "changed_items": len(told),
        "dropped": {reason: n for part in parts_read for reason, n in part.dropped.items()},
        "fingerprint": fingerprint([path for part in parts_read for path in part.files()]),
    }


def window(lake: Lake, params: Params) -> tuple[datetime, datetime]:
    """The batch as a span of time, the end exclusive."""
    until = datasets.end_of(params.day)
    published = lake.days(datasets.EVENTS)
    if params.since is not None:
        if params.since > params.day:
            raise UsageError(f"--since {params.since} is after --day {params.day}")
        return datetime.combine(params.since, time(), tzinfo=UTC), until
    if not published:
        return sources.BEGINNING, until
    first = min(params.day, published[-1] + timedelta(days=1))
    return datetime.combine(first, time(), tzinfo=UTC), until


def _midnight(moment: datetime) -> datetime:
    """The beginning of a day: so segments are moved by whole days, into one file and not into one of every run."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def staged_events(
    inputs: list[Source], since: datetime, until: datetime, received_at: datetime
) -> Iterator[pa.RecordBatch]:
    """The events of all inputs in since..until; those that do not say when they were received get `received_at`."""
    place = EVENTS.names.index("ingested_at")
    for part in inputs:
        for batch in part.events(since, until):
            filled = pc.fill_null(batch.column(place), pa.scalar(received_at, source.TIME))
            if batch.num_rows:
                yield batch.set_column(place, batch.schema.field(place), filled)


def fingerprint(files: list[Path]) -> str:
    """A digest of the content of files in their order; the same input has the same one wherever it lies."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _require_recent(day: date, name: str, found: Source, rows: int, census: Census, since: datetime) -> None:
    """Stop where there is nothing to learn, or nothing to judge on, before anybody trains for minutes.

    Raises:
        BadData: the batch is empty, or ends before the longest holdout begins. A batch without any times is left to the
            quality gate.
    """
    oldest = day - timedelta(days=split.LONGEST_DAYS - 1)
    if rows and max(census.days, default=str(oldest)) >= str(oldest):
        return
    first = oldest if rows else since.date()
    span = f"up to {day}" if first == sources.BEGINNING.date() else f"from {first} to {day}"
    raise BadData(f"{name} has no events {span}; its last day is {found.last().date()}; choose --day accordingly")
