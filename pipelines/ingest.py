"""Read a source into the staged events, items and users of a run.

The batch is the days up to D that are not whole in the lake, or of which the input now says something else than what
was published (`pipelines.batch` has the rule), and D itself; everything up to D on an empty lake. To know that, all of
the source is read, and digested day by day. What the API received is merged in from the event bus; segments that are
older than the bus keeps them are moved into the lake first. What the API was told of items stands in place of what the
source says of them. Only clocks are judged here (`pipelines.intake`), and nothing is deduplicated: that is the quality
gate's business; only what is no row of the schema at all stays out, and is counted (and, from the bus, set aside).

Arrow streams every source in batches of 64 thousand rows, and no adapter joins or shuffles more than one bucket. So the
peak of memory levels off at some 300 to 500 MB as the input grows; what goes on growing is what an adapter remembers
of distinct users, items and cancellations, some hundred bytes of each. This needs no Spark, whose JVM would cost
8 seconds before the first row.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from pydantic import Field

from feature_repo.events import EVENTS, ITEMS, USERS, Table
from pipelines import acceptance, batch, datasets, digests, intake, published, sources, split, stage
from pipelines.batch import Batch, Plan
from pipelines.datasets import Lake, RunId
from pipelines.digests import Digests, Hashes
from pipelines.intake import Intake
from pipelines.sources import changed, source
from pipelines.sources.bus import Bus
from pipelines.sources.changed import Changed
from pipelines.sources.source import Source
from recsys import bus
from recsys.errors import BadData, NothingToDo, UsageError
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
    since: date | None = Field(
        None,
        description="first day of the batch, read again whatever is published; empty: what is not whole or has changed",
    )


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

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._folder = folder
        self._schema = schema
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
            log.info("%d rows staged", self.rows)

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
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._files += 1
        self._in_file = 0


@dataclass
class Staged:
    """The events of a batch, as they were written.

    Attributes:
        digests: of the good ones, by day.
        types: good ones by type.
        strays: rows with a wrong time, by reason.
        ids: hashes of the ids of the good ones, sorted; empty where nobody asks for them.
    """

    digests: Digests = field(default_factory=Digests)
    types: Counter[str] = field(default_factory=Counter)
    strays: Counter[str] = field(default_factory=Counter)
    ids: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def rows(self) -> int:
        return sum(self.digests.rows.values())


def main(params: Params, settings: Settings) -> stage.Result:
    """Stage one batch.

    Raises:
        UsageError: no such source, or `since` is after the day.
        BadData: the input cannot be read, or has nothing new enough to judge models on.
        NothingToDo: the input says nothing new of any day.
    """
    if params.since is not None and params.since > params.day:
        raise UsageError(f"--since {params.since} is after --day {params.day}")
    lake = datasets.lake(settings)
    root = Path(settings.storage.root).resolve()
    bus.recover(root, "events")
    bus.recover(root, changed.TOPIC)
    chosen = _chosen(lake, params.source)
    main_source = sources.open_source(chosen, settings)
    _remember(lake, chosen)
    retired = Bus(root).retire(_midnight(datetime.now(UTC) - timedelta(days=settings.bus.retention_days)))
    received = Bus(root, datasets.run_folder(settings, params.run) / "ingest" / "refused_bus_lines.jsonl")
    catalogue = received if isinstance(main_source, Bus) else main_source
    if isinstance(main_source, Bus):
        taken, planned, staged = _so_far(lake, params, received)
    else:
        taken, planned, staged = _whole(lake, params, chosen, main_source, received)
    told = changed.read(root)
    if taken.span is not None and params.day > taken.span.last:
        log.warning("%s has nothing of %s yet; its last day is %s", chosen, params.day, taken.span.last)
    until = datasets.end_of(params.day)
    items = _stage_table(lake, params.run, ITEMS, told.over(catalogue.items(until), until))
    users = _stage_table(lake, params.run, USERS, catalogue.users(until))
    made_of = staged.digests.by_day()
    digest_of = {day: made_of.get(day, digests.EMPTY) for day in planned.days}
    whole = [day for day in planned.days if taken.span is not None and taken.span.reaches(day)]
    closed = [day for day in whole if day not in taken.days.rows]
    handed = Batch(digest_of, tuple(whole), tuple(closed), planned.gone, taken.days.rows.total())
    handed.write(settings, params.run)
    inputs: list[Source | Changed] = [part for part in (taken.main, received, told) if part is not None]
    return {
        "source": chosen,
        "since_asked": params.since.isoformat() if params.since else None,
        "day": params.day.isoformat(),
        "not_whole": [str(day) for day in planned.days if day not in whole],
        "closed_days": len(closed),
        "removed_days": len(planned.gone),
        "days": len(made_of),
        "first_day": min(map(str, made_of), default=None),
        "last_day": max(map(str, made_of), default=None),
        "rows": {"events": staged.rows, "items": items, "users": users},
        "event_types": dict(staged.types.most_common()),
        "strays": dict(staged.strays),
        "retired_segments": retired,
        "changed_items": len(told),
        "dropped": dict(taken.dropped + received.dropped + told.dropped),
        "fingerprint": fingerprint([path for part in inputs for path in part.files()]),
    }


def _so_far(lake: Lake, params: Params, received: Bus) -> tuple[Intake, Plan, Staged]:
    """The day so far, from the API alone."""
    so_far = intake.so_far(received, params.day)
    planned = batch.plan_so_far(params.day, _survey(so_far), published.read(lake))
    if not planned.days:
        raise NothingToDo(f"the API has received nothing new of {params.day}, or the day is published as a whole")
    return so_far, planned, _stage_events(lake, params.run, so_far, planned.days)


def _whole(lake: Lake, params: Params, name: str, main_source: Source, received: Bus) -> tuple[Intake, Plan, Staged]:
    """What is not published yet as the source and the API have it now."""
    notes, accepted = published.read(lake), acceptance.read(lake)
    # A backfill of an old day must not forget what is known since: refunds, for one.
    newest = max((day for day, note in notes.items() if note.whole), default=params.day)
    taken = intake.whole(main_source, received, datasets.end_of(max(params.day, newest)), accepted)
    seen = _survey(taken)
    _require_recent(params.day, name, taken, seen)
    planned = batch.plan(params.day, batch.Input(seen, taken.span, taken.strays()), notes, params.since)
    if not planned.days and not planned.gone:
        last = f"; its last day is {taken.span.last}" if taken.span else ""
        raise NothingToDo(
            f"{name} has nothing new up to {params.day}{last}: the shop was closed, its export is late, or it has ended"
        )
    others = {day for day, note in notes.items() if note.rows and day not in planned.gone}
    while True:
        staged = _stage_events(lake, params.run, taken, planned.days, ids=bool(others))
        sharing = _sharing(lake, others - set(planned.days), staged.ids)
        _doubt(lake, params.day, planned, sharing, notes)
        earlier = {day for day in sharing if day <= params.day}
        if not earlier:
            return taken, planned, staged
        log.info("days with events that the batch has as well are read again: %s", ", ".join(map(str, sorted(earlier))))
        planned = replace(planned, days=tuple(sorted({*planned.days, *earlier})))


def _doubt(lake: Lake, day: date, planned: Plan, sharing: set[date], notes: Mapping[date, published.Day]) -> None:
    """Have later days that share an event with the batch read again by a run that may publish them."""
    linked = {one for one, note in notes.items() if not set(note.linked).isdisjoint({*planned.days, *planned.gone})}
    for later in sorted(one for one in linked | sharing if one > day):
        published.doubt(lake, later)


def _survey(taken: Intake) -> Mapping[date, str]:
    """The digest of each day with plausible events."""
    found = Digests()
    for reason, rows in taken.events():
        if not reason:
            found.add(rows)
    return found.by_day()


def _stage_events(lake: Lake, run: RunId, taken: Intake, days: Collection[date], ids: bool = False) -> Staged:
    """Write the events of some days, and beside them those with a wrong time."""
    staged, now, hashed = Staged(), datetime.now(UTC), []
    with (
        lake.replacing(datasets.STAGED_EVENTS, run) as good_folder,
        lake.replacing(datasets.STAGED_STRAYS, run) as stray_folder,
        Parts(good_folder, source.relaxed(EVENTS)) as good,
        Parts(stray_folder, intake.STRAYS) as strays,
    ):
        for reason, rows in chain(taken.events(), taken.untimely(days)):
            if reason:
                staged.strays[reason] += rows.num_rows
                strays.write(_with_reason(intake.received_at(rows, now), reason))
            elif (some := intake.of_days(rows, days)).num_rows:
                staged.digests.add(some)
                counts = pc.value_counts(some.column("event")).to_pylist()
                staged.types.update({str(entry["values"]): entry["counts"] for entry in counts})
                hashed += [digests.hashes(some.column("event_id"))] if ids else []
                good.write(intake.received_at(some, now))
    staged.ids = np.unique(np.concatenate([staged.ids, *hashed]))
    return staged


def _with_reason(rows: pa.RecordBatch, reason: str) -> pa.RecordBatch:
    columns = [*rows.columns, pa.array([reason] * rows.num_rows, pa.string())]
    return pa.record_batch(columns, schema=intake.STRAYS)


def _stage_table(lake: Lake, run: RunId, table: Table, batches: Iterable[pa.RecordBatch]) -> int:
    """Write items or users; returns their number."""
    with (
        lake.replacing(datasets.STAGED[table.name], run) as folder,
        Parts(folder, source.relaxed(table)) as parts,
    ):
        for rows in batches:
            parts.write(rows)
    return parts.rows


def _sharing(lake: Lake, days: Collection[date], ids: Hashes) -> set[date]:
    """Published days with an event whose id is among some."""
    if not len(ids):
        return set()
    return {day for day in days if _any_in(lake.read(datasets.EVENTS, day, ["event_id"]).column("event_id"), ids)}


def _any_in(column: Any, ids: Hashes) -> bool:
    hashed = digests.hashes(column.combine_chunks())
    place = np.minimum(np.searchsorted(ids, hashed), len(ids) - 1)
    return bool((ids[place] == hashed).any())


def _midnight(moment: datetime) -> datetime:
    """The beginning of a day: so segments are moved by whole days, into one file and not into one of every run."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def fingerprint(files: list[Path]) -> str:
    """A digest of the content of files in their order; the same input has the same one wherever it lies."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _require_recent(day: date, name: str, taken: Intake, seen: Mapping[date, str]) -> None:
    """Stop where there is nothing to learn, or nothing to judge on, before anybody trains for minutes.

    Raises:
        BadData: there is nothing up to the day, or it ends before the longest holdout begins.
    """
    oldest = day - timedelta(days=split.LONGEST_DAYS - 1)
    newest = max((one for one in seen if one <= day), default=None)
    if newest is not None and newest >= oldest:
        return
    last = f"its last day is {taken.span.last}" if taken.span else "no event has a time"
    reasons = taken.dropped + (taken.days.strays(taken.span) if taken.span else Counter())
    out = ", ".join(f"{reason} {rows:,}" for reason, rows in sorted(reasons.items()) if rows)
    left_out = f"; left out up to then: {out}" if out else ""
    since = f"from {oldest} to" if newest is not None else "up to"
    raise BadData(f"{name} has no events {since} {day}; {last}{left_out}; choose --day accordingly")
