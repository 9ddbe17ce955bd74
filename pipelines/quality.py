"""The quality gate: bad rows go to quarantine with their reasons, a bad batch stops the run, a good one is published.

A day is published with a note that says whether it is whole and of what it was made (`pipelines.published`); each is
screened by itself (`pipelines.screening`) before the batch is judged as one. Everything runs in Spark and nothing is
collected but counts, so a batch may be larger than memory. Each table is read once, marked, and kept on local disk
while Great Expectations judges it and the good days are written.
"""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet
from pydantic import Field
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo import events as schema
from feature_repo.events import Table
from pipelines import acceptance as acceptances
from pipelines import (
    datasets,
    delisted,
    expectations,
    published,
    quality_report,
    reuse,
    screening,
    split,
    stage,
)
from pipelines import spark as engine
from pipelines.acceptance import Acceptance
from pipelines.batch import Batch
from pipelines.datasets import Lake
from pipelines.expectations import Check, Limits, Rule
from pipelines.screening import Screen
from recsys.errors import BadData, NothingToDo
from recsys.settings import Settings

PROFILE_DAYS = 28  # days of which the share of empty values is taken
PROFILE_ROWS = 100  # a group with fewer rows on a day has no telling share
UNKNOWN_NAMED = 20  # unknown items that the result lists

log = logging.getLogger(__name__)


class Params(Limits, stage.ReuseParams):
    """What the quality gate is told."""

    accept: str = Field(
        "",
        description="publish the run's day whatever its figures are, for this reason; kept in the lake and the report",
    )
    accepted_by: str = Field("", description="who accepts; empty: the user of this process")

    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        return {name: value for name, value in facts.items() if not name.startswith("accept")}


@dataclass(frozen=True)
class Judged:
    """One table after judgement.

    Attributes:
        rows: all rows with `_reasons`, kept on local disk.
        checks: every verdict.
        details: the result as Great Expectations gave it.
    """

    table: Table
    rows: DataFrame
    checks: list[Check]
    details: dict[str, Any]

    @property
    def good(self) -> DataFrame:
        return self.rows.where(F.size(expectations.REASONS) == 0).select(*self.table.names)

    @property
    def bad(self) -> DataFrame:
        return self.rows.where(F.size(expectations.REASONS) > 0)

    @property
    def reasons(self) -> dict[str, int]:
        """Rows per reason; a row with two reasons counts for both."""
        return {check.name: check.broken for check in self.checks if check.quarantine and check.broken}


@dataclass(frozen=True)
class Screened:
    """The events of a batch after judgement, without those of the days that are held back."""

    judged: Judged
    held: Collection[date]


@dataclass(frozen=True)
class Gate:
    """One batch on its way through the gate."""

    params: Params
    settings: Settings
    lake: Lake
    spark: SparkSession
    accepted: Mapping[date, Acceptance]

    @property
    def as_of(self) -> datetime:
        return datasets.end_of(self.params.day)

    def staged(self, name: str) -> DataFrame:
        return self.spark.read.parquet(str(self.lake.require(datasets.STAGED[name], self.params.run)))

    def judge(
        self, table: Table, rows: DataFrame, rules: Sequence[Rule], least: int, why: str, lenient: bool = False
    ) -> Judged:
        """Judge annotated rows by all expectations at once; `lenient` where a person vouches for them."""
        log.info("judging %s by %d rules", table.name, len(rules))
        total = expectations.total(rules, self.params)
        lifted = [replace(rule, limit=1.0) if lenient else rule for rule in (*rules, total)]
        wanted = [
            expectations.volume(0 if lenient else least, why),
            *(expectations.few_breaking(rule, self.params.handful) for rule in lifted),
        ]
        checks, details = expectations.validate(table.name, rows, wanted)
        judged = Judged(table, rows, checks, details)
        if judged.reasons:
            found = expectations.examples(judged.bad, rules)
            checks = [replace(check, examples=found.get(check.name, [])) for check in checks]
        return replace(judged, checks=checks)

    def snapshot(self, table: Table, rules: Sequence[Rule]) -> Judged:
        """Judge items or users: whole tables, compared with the last published one."""
        dataset = datasets.CLEAN[table.name]
        before = self.lake.days(dataset, self.params.day - timedelta(days=1))[-1:]
        # Items that have left the source stay in the catalogue, unavailable: they are no measure of what it lists.
        rows = _row_counts(self.lake, dataset, before, pc.field("available") if table is schema.ITEMS else None)
        least = math.ceil(self.params.min_volume * rows[0]) if rows else int(table is schema.ITEMS)
        why = f"{table.name} did not shrink since {before[0]}, when they were {rows[0]:,}" if rows else "it has rows"
        history = _null_rules(self, table, before, by=None)
        marked = expectations.mark_copies(self.staged(table.name), table.key)
        annotated = expectations.annotate(marked.withColumn(expectations.CLOCK, F.lit(None)), [*rules, *history])
        kept = annotated.persist(StorageLevel.DISK_ONLY)
        return self.judge(table, kept, [*rules, *history], least, why, self.params.day in self.accepted)

    def events(self, items: Judged, gone: DataFrame, users: Judged, batch: Batch) -> Screened:
        """Screen the events day by day, against the good items and users of the same run and items that have left the
        catalogue, and judge what is left."""
        notes = published.read(self.lake)
        filled = [day for day, note in notes.items() if note.rows and day <= self.params.day]
        profile = [day for day in filled if day not in batch.made_of][-PROFILE_DAYS:]
        rules = [
            *expectations.event_rules(self.as_of, batch.rows_read, self.params),
            *_null_rules(self, schema.EVENTS, profile, by="event"),
        ]
        rows = expectations.annotate(self._marked(items, gone, users), rules).persist(StorageLevel.DISK_ONLY)
        checks: list[Check] = []
        held: set[date] = set()
        known = any(note.whole for note in notes.values())
        if known:
            passed = published.passed(self.lake)
            screen = Screen(self.params.day, rules, self.params, notes, self.accepted, passed, batch.closed)
            made_of = {day: batch.made_of[day] for day in batch.whole}
            checks, held = screen.judge(made_of, screening.tallies(rows, rules))
        vouched = self.accepted.keys() & (batch.made_of if known else {self.params.day})
        left = rows.where(~_day().isin(held) | F.col(expectations.CLOCK).isNotNull()) if held else rows
        least = 0 if known and (batch.whole or not batch.made_of) else 1
        judged = self.judge(schema.EVENTS, left, rules, least, "the batch has rows", bool(vouched))
        return Screened(replace(judged, checks=[*checks, *judged.checks]), frozenset(held))

    def _marked(self, items: Judged, gone: DataFrame, users: Judged) -> DataFrame:
        """The staged events with the marks that the rules look at; one with a wrong clock is judged by that alone."""
        marked = expectations.mark_copies(self.staged("events"), schema.EVENTS.key)
        marked = expectations.mark_known(marked, items.good, "item_id", expectations.LISTED_ITEM)
        marked = expectations.mark_known(marked, items.good.unionByName(gone), "item_id", expectations.KNOWN_ITEM)
        marked = expectations.mark_known(marked, users.good, "user_id", expectations.KNOWN_USER)
        marked = marked.withColumn(expectations.CLOCK, F.lit(None).cast("string"))
        strays = self.spark.read.parquet(str(self.lake.require(datasets.STAGED_STRAYS, self.params.run)))
        known = dict.fromkeys((expectations.LISTED_ITEM, expectations.KNOWN_ITEM, expectations.KNOWN_USER), F.lit(True))
        strays = strays.withColumnRenamed("reason", expectations.CLOCK).withColumns(known)
        return marked.unionByName(strays, allowMissingColumns=True)


def touches(params: Params, settings: Settings) -> reuse.Touched:
    """Reads what ingest took from the source, known by its fingerprint, and which days a person has accepted; writes
    the published days up to the day."""
    lake = datasets.lake(settings)
    taken = stage.result_of(settings, params.run, "ingest")
    facts = {name: taken.get(name) for name in ("source", "fingerprint", "since_asked")}
    accepted = {str(day): acceptance.when for day, acceptance in acceptances.read(lake).items()}
    written = [lake.path(dataset, day) for dataset in datasets.CLEAN.values() for day in lake.days(dataset, params.day)]
    return reuse.Touched(writes=written, facts=params.facts() | facts | {"accepted": accepted})


def main(params: Params, settings: Settings) -> stage.Result:
    """Judge the staged batch of the run and publish it.

    Raises:
        BadData: the batch fails an expectation; the message and the report name it. Nothing was published.
        NothingToDo: all is published, and there is nothing to judge models on: the shop was closed.
    """
    lake = datasets.lake(settings)
    if params.accept:
        acceptances.accept(lake, params.day, params.accept, params.accepted_by)
    gate = Gate(params, settings, lake, engine.session(settings, "quality"), acceptances.read(lake))
    batch = Batch.read(settings, params.run)
    _require_schemas(gate)
    items = gate.snapshot(schema.ITEMS, expectations.item_rules(gate.as_of, params))
    users = gate.snapshot(schema.USERS, expectations.user_rules(gate.as_of, params))
    gone = delisted.items(gate.spark, lake, params.day, items.good, gate.staged("events")).persist(
        StorageLevel.DISK_ONLY
    )
    events = gate.events(items, gone, users, batch)
    tables = [items, users, events.judged]
    try:
        for judged in tables:
            _quarantine(gate, judged)
        report = _report(gate, [c for j in tables for c in j.checks], {j.table.name: j.details for j in tables})
        _publish(gate, schema.ITEMS, items.good.unionByName(gone))
        _publish(gate, schema.USERS, users.good)
        days = _publish_days(gate, events, batch)
        left = gone.count()
        unknown = _unknown_items(events.judged)
    finally:
        gate.spark.catalog.clearCache()
    if batch.whole:
        _require_recent(lake, params.day)
    return {
        "passed": True,
        "rows": {j.table.name: _rows(j) for j in tables},
        "quarantined": {j.table.name: j.reasons for j in tables},
        "noted": {j.table.name: {c.name: c.broken for c in j.checks if c.verdict == "noted"} for j in tables},
        "delisted_items": left,
        "unknown_items": unknown,
        "days": len(days),
        "first_day": min(days, default=None),
        "last_day": max(days, default=None),
        "held": sorted(map(str, events.held)),
        "accepted": sorted(map(str, gate.accepted.keys() & batch.made_of)),
        "report": str(report),
    }


def _require_recent(lake: Lake, day: date) -> None:
    """Stop where nothing happened in the days on which models are judged: to train would end there, minutes later."""
    notes = published.read(lake)
    if min(notes, default=day) >= day:
        return
    judged = split.holdout(lake, day)
    if not any(note.rows for one, note in notes.items() if judged.cutoff.date() <= one <= day):
        raise NothingToDo(
            f"{day} is published, but nothing happened since {judged.cutoff:%Y-%m-%d}: no models to judge"
        )


def _require_schemas(gate: Gate) -> None:
    """Stop unless every staged table has exactly the columns and types of the schema; rules could not be computed."""
    checks, details = [], {}
    for name, table in schema.TABLES.items():
        rows = gate.staged(name)
        found, details[name] = expectations.validate(name, rows, expectations.schema_suite(table, rows.columns))
        checks += found
    if any(check.verdict == "failed" for check in checks):
        _report(gate, checks, details)


def _report(gate: Gate, checks: Sequence[Check], details: dict[str, Any]) -> Path:
    """Write the report as a page and as JSON.

    Raises:
        BadData: a check failed.
    """
    params = gate.params
    folder = datasets.run_folder(gate.settings, params.run) / "quality"
    folder.mkdir(parents=True, exist_ok=True)
    failed = [check for check in checks if check.verdict == "failed"]
    facts = {"run": params.run, "data day": params.day, "limits": params.model_dump(include=set(Limits.model_fields))}
    title = f"Data quality of {params.day}: {'stopped' if failed else 'good'}"
    page = folder / "report.html"
    page.write_text(quality_report.page(title, facts, checks))
    machine = {"passed": not failed, "checks": [asdict(check) for check in checks], "great_expectations": details}
    (folder / "report.json").write_text(json.dumps(machine, default=str, indent=1))
    if failed:
        reasons = "; ".join(f"{c.table}.{c.name}: observed {c.observed}, allowed {c.expected}" for c in failed)
        raise BadData(
            f"the batch of {params.day} fails {len(failed)} expectation(s): {reasons}. Report: {page}. "
            f'Mend the source; or if the day is right, `recsys data accept {params.day} --reason "…"` and run it again'
        )
    for check in checks:
        if check.verdict in ("held", "accepted"):
            log.warning("%s: %s: observed %s, allowed %s", check.verdict, check.says, check.observed, check.expected)
    return page


def _unknown_items(events: Judged) -> dict[str, int]:
    """The items that no catalogue knows with most events, and how many."""
    if "unknown_item" not in events.reasons:
        return {}
    rows = events.bad.where(F.array_contains(expectations.REASONS, "unknown_item")).groupBy("item_id").count()
    top = rows.orderBy(F.desc("count"), "item_id").limit(UNKNOWN_NAMED).collect()
    return {row["item_id"]: row["count"] for row in top}


def _quarantine(gate: Gate, judged: Judged) -> None:
    """Write the bad rows with all their reasons, joined by "; "; an empty partition where there are none."""
    dataset = datasets.QUARANTINE[judged.table.name]
    if not judged.reasons:
        empty = judged.table.arrow().append(pyarrow.field("reason", pyarrow.string())).empty_table()
        gate.lake.write(dataset, gate.params.run, empty)
        return
    log.warning("%s: rows put into quarantine: %s", judged.table.name, judged.reasons)
    reason = F.array_join(expectations.REASONS, "; ").alias("reason")
    with gate.lake.replacing(dataset, gate.params.run) as work:
        _write(judged.bad.select(*judged.table.names, reason).hint("rebalance"), work)


def _publish(gate: Gate, table: Table, rows: DataFrame) -> None:
    with gate.lake.replacing(datasets.CLEAN[table.name], gate.params.day) as work:
        # Rebalance lets Spark choose the number of files by size; the order makes a re-run write the same bytes.
        _write(rows.hint("rebalance").sortWithinPartitions(table.key), work)


def _publish_days(gate: Gate, events: Screened, batch: Batch) -> list[date]:
    """Write all days of the batch with one Spark job, then move each into its place; return the days.

    A day without a good event is published too, with nothing in it.
    """
    log.info("publishing events")
    made_of = {day: digest for day, digest in batch.made_of.items() if day not in events.held}
    linked, unknown = _linked(events.judged), _unknown(events.judged)
    published.remember_passed(gate.lake, made_of)
    rows = events.judged.good.withColumn("day", F.to_date("event_time")).hint("rebalance", "day")
    with gate.lake.replacing_days(datasets.EVENTS) as work:
        _write(rows.sortWithinPartitions("day", "event_time", "event_id"), work, by="day")
        for day, digest in made_of.items():
            folder = work / f"day={day}"
            if not folder.exists():
                folder.mkdir()
                pyarrow.parquet.write_table(schema.EVENTS.arrow().empty_table(), folder / "part-0.parquet")
            count = pyarrow.dataset.dataset(folder, format="parquet").count_rows()
            note = published.Day(
                day in batch.whole, count, digest, tuple(sorted(linked[day])), gate.params.run, tuple(unknown[day])
            )
            published.write(folder, note)
    for day in batch.gone:
        gate.lake.remove(datasets.EVENTS, day)
    return sorted(made_of)


def _linked(events: Judged) -> Mapping[date, set[date]]:
    """Days with a copy of an event of another day, and those other days."""
    first = F.col(expectations.FIRST_DAY)
    pairs = events.rows.where(first.isNotNull() & (first != _day())).select(_day(), first).distinct().collect()
    found: dict[date, set[date]] = defaultdict(set)
    for day, other in pairs:
        found[day].add(other)
    return found


def _unknown(events: Judged) -> Mapping[date, list[str]]:
    """Per day, the items of its events that the catalogue does not have."""
    strangers = events.rows.where(F.array_contains(expectations.REASONS, "unknown_item") & F.col("item_id").isNotNull())
    found: dict[date, list[str]] = defaultdict(list)
    for day, item in sorted(tuple(row) for row in strangers.select(_day(), "item_id").dropna().distinct().collect()):
        found[day].append(item)
    return found


def _day() -> Column:
    """The day of an event."""
    return F.to_date("event_time")


def _write(rows: DataFrame, folder: Path, by: str | None = None) -> None:
    rows.write.mode("overwrite").option("compression", "zstd").parquet(str(folder), partitionBy=by)


def _rows(judged: Judged) -> int:
    """Rows of the staged table, from the expectation on its volume."""
    found: int = judged.details["results"][0]["result"]["observed_value"]
    return found


def _row_counts(
    lake: Lake, dataset: datasets.Dataset, days: Sequence[date], where: pc.Expression | None = None
) -> list[int]:
    """Rows per day; all of them are counted by the footers of the files."""
    return [pyarrow.dataset.dataset(lake.require(dataset, day), format="parquet").count_rows(where) for day in days]


def _null_rules(gate: Gate, table: Table, days: Sequence[date], by: str | None) -> list[Rule]:
    """Rules that no optional column gets much emptier than in the published days; none on a first load."""
    if not days:
        return []
    rows = engine.read(gate.spark, gate.lake, datasets.CLEAN[table.name], days)
    columns = [c.name for c in table.columns if not c.required]
    groups = [F.col(by).alias("_group"), _day().alias("_on")] if by else [F.lit("").alias("_group")]
    empty = [F.avg(F.col(name).isNull().cast("double")).alias(name) for name in columns]
    found = rows.groupBy(*groups).agg(F.count(F.lit(1)).alias("_n"), *empty).collect()
    shares: dict[tuple[str, str], float] = {}
    for row, name in product((row for row in found if row["_n"] >= PROFILE_ROWS), columns):
        key = (row["_group"], name)
        shares[key] = max(row[name], shares.get(key, 0.0))
    return expectations.null_rules(shares, by, gate.params)
