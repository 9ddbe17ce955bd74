"""The quality gate: bad rows go to quarantine with their reasons, a bad batch stops the run, a good one is published.

Everything runs in Spark and nothing is collected but counts, so a batch may be larger than memory. Each table is read
once, marked, and kept on local disk while Great Expectations judges it and the good days are written.
"""

import json
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo import events as schema
from feature_repo.events import Table
from pipelines import datasets, delisted, expectations, quality_report, reuse, stage
from pipelines import spark as engine
from pipelines.datasets import Lake
from pipelines.expectations import Check, Limits, Rule
from recsys.errors import BadData
from recsys.settings import Settings

HISTORY_DAYS = 28  # four weeks, so that every weekday counts alike
PROFILE_DAYS = 7  # days of which the share of empty values is taken
UNKNOWN_NAMED = 20  # unknown items that the result lists
PROFILE_ROWS = 1000  # a group with fewer rows has no telling share

log = logging.getLogger(__name__)


class Params(Limits, stage.ReuseParams):
    """What the quality gate is told."""


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
class Gate:
    """One batch on its way through the gate."""

    params: Params
    settings: Settings
    lake: Lake
    spark: SparkSession

    @property
    def as_of(self) -> datetime:
        return datasets.end_of(self.params.day)

    def staged(self, name: str) -> DataFrame:
        return self.spark.read.parquet(str(self.lake.require(datasets.STAGED[name], self.params.run)))

    def judge(self, table: Table, marked: DataFrame, rules: Sequence[Rule], least: int, why: str) -> Judged:
        """Mark the rows with their reasons, and judge the table by all its expectations at once."""
        log.info("judging %s by %d rules", table.name, len(rules))
        rows = expectations.annotate(marked, rules).persist(StorageLevel.DISK_ONLY)
        wanted = [
            expectations.volume(least, why),
            *(expectations.few_breaking(rule, self.params.handful) for rule in rules),
            expectations.few_breaking(expectations.total(rules, self.params), self.params.handful),
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
        return self.judge(table, marked, [*rules, *history], least, why)

    def events(self, items: Judged, gone: DataFrame, users: Judged, first: date) -> Judged:
        """Judge the events of the days from `first` on, against the good items and users of the same run, and against
        the items that have left the catalogue."""
        start = datetime.combine(first, time(), tzinfo=UTC)
        rules = expectations.event_rules(start, self.as_of, self.params)
        published = self.lake.days(datasets.EVENTS, first - timedelta(days=1))[-HISTORY_DAYS:]
        history = _null_rules(self, schema.EVENTS, published[-PROFILE_DAYS:], by="event")
        least, why = 1, "the batch has rows"
        if rows := _row_counts(self.lake, datasets.EVENTS, published):
            days, usual = (self.params.day - first).days + 1, statistics.median(rows)
            least = max(1, math.ceil(self.params.min_volume * usual * days))
            why = f"{days} day(s) bring about as much as the published days, {usual:,.0f} rows each (median)"
        marked = expectations.mark_copies(self.staged("events"), schema.EVENTS.key)
        marked = expectations.mark_known(marked, items.good, "item_id", expectations.LISTED_ITEM)
        marked = expectations.mark_known(marked, items.good.unionByName(gone), "item_id", expectations.KNOWN_ITEM)
        marked = expectations.mark_known(marked, users.good, "user_id", expectations.KNOWN_USER)
        return self.judge(schema.EVENTS, marked, [*rules, *history], least, why)


def touches(params: Params, settings: Settings) -> reuse.Touched:
    """Reads what ingest took from the source, known by its fingerprint; writes the published days up to the day."""
    lake = datasets.lake(settings)
    taken = stage.result_of(settings, params.run, "ingest")
    facts = {name: taken.get(name) for name in ("source", "fingerprint", "since_asked")}
    published = [
        lake.path(dataset, day) for dataset in datasets.CLEAN.values() for day in lake.days(dataset, params.day)
    ]
    return reuse.Touched(writes=published, facts=params.facts() | facts)


def main(params: Params, settings: Settings) -> stage.Result:
    """Judge the staged batch of the run and publish it.

    Raises:
        BadData: the batch fails an expectation; the message and the report name it. Nothing was published.
    """
    spark = engine.session(settings, "quality")
    gate = Gate(params, settings, datasets.lake(settings), spark)
    first = _first_day(gate)
    _require_schemas(gate)
    items = gate.snapshot(schema.ITEMS, expectations.item_rules(gate.as_of, params))
    users = gate.snapshot(schema.USERS, expectations.user_rules(params))
    gone = delisted.items(spark, gate.lake, params.day, items.good, gate.staged("events")).persist(
        StorageLevel.DISK_ONLY
    )
    events = gate.events(items, gone, users, first)
    tables = [items, users, events]
    try:
        for judged in tables:
            _quarantine(gate, judged)
        report = _report(gate, [c for j in tables for c in j.checks], {j.table.name: j.details for j in tables})
        _publish(gate, schema.ITEMS, items.good.unionByName(gone))
        _publish(gate, schema.USERS, users.good)
        days = _publish_days(gate, events)
        left = gone.count()
        unknown = _unknown_items(events)
    finally:
        gone.unpersist()
        for judged in tables:
            judged.rows.unpersist()
    return {
        "passed": True,
        "rows": {j.table.name: _rows(j) for j in tables},
        "quarantined": {j.table.name: j.reasons for j in tables},
        "noted": {j.table.name: {c.name: c.broken for c in j.checks if c.verdict == "noted"} for j in tables},
        "delisted_items": left,
        "unknown_items": unknown,
        "days": len(days),
        "first_day": min(days),
        "last_day": max(days),
        "report": str(report),
    }


def _first_day(gate: Gate) -> date:
    """The first day of the batch, as ingest chose it; the oldest day possible where it took in everything."""
    since = stage.result_of(gate.settings, gate.params.run, "ingest")["since"]
    return date.fromisoformat(since) if since else expectations.OLDEST


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
        raise BadData(f"the batch of {params.day} fails {len(failed)} expectation(s): {reasons}. Report: {page}")
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


def _publish_days(gate: Gate, events: Judged) -> list[date]:
    """Write all days of the batch with one Spark job, then move each into its place; return the days."""
    log.info("publishing events")
    days = events.good.withColumn("day", F.to_date("event_time")).hint("rebalance", "day")
    with gate.lake.replacing_days(datasets.EVENTS) as work:
        _write(days.sortWithinPartitions("day", "event_time", "event_id"), work, by="day")
        return sorted(date.fromisoformat(path.name.removeprefix("day=")) for path in work.glob("day=*"))


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
    rows = gate.spark.read.parquet(*[str(gate.lake.require(datasets.CLEAN[table.name], day)) for day in days])
    columns = [c.name for c in table.columns if not c.required]
    group = F.col(by) if by else F.lit("")
    empty = [F.avg(F.col(name).isNull().cast("double")).alias(name) for name in columns]
    found = rows.groupBy(group.alias("_group")).agg(F.count(F.lit(1)).alias("_n"), *empty).collect()
    shares = {(row["_group"], name): row[name] for row in found if row["_n"] >= PROFILE_ROWS for name in columns}
    return expectations.null_rules(shares, by, gate.params)
