"""What the data must be: rules on rows and expectations on batches, declared once, judged by Great Expectations.

A `Rule` is one SQL predicate. It marks the rows that go to quarantine (`annotate`), and as the expectation
`ExpectFewRowsBreaking` it says how large a share of such rows stops the whole batch. So a count in the report and
the rows in quarantine can never disagree.

All expectations of a suite are aggregates, which GX computes in ONE Spark job: 28 of them over a million rows take
2.4 s, where `UnexpectedRowsExpectation` (two queries each) takes 14 s and a pandas batch 4.6 s and all the memory.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.execution_engine import SparkDFExecutionEngine
from great_expectations.expectations.expectation import ColumnAggregateExpectation
from great_expectations.expectations.metrics.column_aggregate_metric_provider import (
    ColumnAggregateMetricProvider,
    column_aggregate_partial,
)
from pydantic import BaseModel, Field
from pyspark.sql import Column as Expression
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo import events as schema
from feature_repo import validity
from feature_repo.events import Column, Table
from feature_repo.validity import OLDEST, Bounds
from pipelines.sources.bus import LATE

REASONS = "_reasons"  # the names of all rules that a row breaks
COPY = "_copy"  # "identical" or "conflicting" where an earlier row has the same key
KNOWN_ITEM = "_known_item"  # whether the catalogue has the item, or had it
LISTED_ITEM = "_listed_item"  # whether today's source has the item
CLOCK = "_clock"  # what ingest found wrong with the time: "future", "too_old", "late", or null
FIRST_DAY = "_first_day"  # of a copy: the day of the row that is kept
KNOWN_USER = "_known_user"  # whether the users table has the user; true for anonymous visitors

SPARK_TYPE: dict[schema.Type, str] = {
    "string": "StringType",
    "double": "DoubleType",
    "long": "LongType",
    "int": "IntegerType",
    "boolean": "BooleanType",
    "timestamp": "TimestampType",
    "array<string>": "ArrayType",
}

logging.getLogger("great_expectations").setLevel(logging.WARNING)  # else a line per temporary folder of its docs

Verdict = Literal["passed", "quarantined", "noted", "failed", "held", "accepted"]


class Limits(BaseModel):
    """How much is too much. A share counts rows of one table of the batch; each default says why."""

    max_quarantined: float = Field(
        0.05, ge=0, le=1, description="share of rows with any fault; above it the source is broken, not some rows"
    )
    max_future: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of a source's rows that its other days put in no plausible time; more are no wrong clocks",
    )
    max_duplicates: float = Field(
        0.02, ge=0, le=1, description="share of repeated ids; at-least-once delivery repeats some, a double load all"
    )
    max_unknown: float = Field(
        0.01, ge=0, le=1, description="share of rows with an unknown event type; more is a new release of a client"
    )
    max_nobody: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of events of a user named 0, NULL, guest or alike; more are visitors who were not logged in",
    )
    max_unlisted: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of events whose item has left the catalogue; more is another shop's, or ids"
        " that are written in another way; raise it for an assortment that changes faster",
    )
    min_volume: float = Field(
        0.25,
        ge=0,
        description="rows of a day against the least median of the four weeks before: same weekday, all, last seven",
    )
    max_null_rise: float = Field(
        0.4,
        ge=0,
        le=1,
        description="how far the share of empty values of a column may rise above the emptiest of the "
        "last 28 published days; UCI Online Retail has days on which it rises by a third",
    )
    handful: int = Field(10, ge=0, description="so many bad rows never stop a batch: shares of a few rows say nothing")


@dataclass(frozen=True)
class Rule:
    """A row-level rule.

    Attributes:
        name: the `reason` in quarantine.
        column: the column whose values the report shows as examples.
        broken: SQL predicate, true for a row that breaks the rule.
        says: what holds for every good row.
        limit: share of rows that may break it before the batch is stopped.
        quarantine: False where such rows are fine, and only counted.
        among: SQL predicate of the rows that `limit` is a share of.
        allowed: so many rows may break it whatever their share: the fault is one of the source, not of the batch.
        remedy: what to do about a batch that is stopped, where the rule does not say it by itself.
    """

    name: str
    column: str
    broken: str
    says: str
    limit: float
    quarantine: bool = True
    among: str = "true"
    allowed: int = 0
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """The verdict on one expectation, in words a person reads.

    Attributes:
        broken: rows that broke it; 0 for what is not about rows.
        quarantine: whether those rows go to quarantine, with `name` as their reason.
        examples: some of the bad values.
    """

    table: str
    name: str
    says: str
    verdict: Verdict
    expected: str
    observed: str
    broken: int = 0
    quarantine: bool = False
    examples: list[str] = field(default_factory=list)


# --- rules, declared once -------------------------------------------------------------------------------------------


def event_rules(as_of: datetime, rows_read: int, limits: Limits) -> list[Rule]:
    """Rules of one event; `as_of` is the first moment after the data day, and `rows_read` the number of rows of the
    source, of which every run sees all wrong clocks again."""
    types = ", ".join(f"'{kind}'" for kind in schema.EVENT_TYPES)
    nobody = ", ".join(f"'{word}'" for word in validity.STANDS_FOR_NOBODY)
    return [
        *(
            replace(rule, allowed=int(rule.limit * rows_read)) if rule.column == "event_time" else rule
            for rule in _common(schema.EVENTS, limits)
        ),
        Rule(
            "unknown_event_type",
            "event",
            f"event NOT IN ({types})",
            f"event is one of {', '.join(schema.EVENT_TYPES)}",
            limits.max_unknown,
        ),
        Rule(
            "unknown_item",
            "item_id",
            f"NOT {KNOWN_ITEM}",
            "item_id is in the catalogue, or was in an earlier one",
            limits.max_quarantined,
            remedy="list the items in the source, or set --max-quarantined to go on without these events",
        ),
        Rule(
            "unlisted_item",
            "item_id",
            f"{KNOWN_ITEM} AND NOT {LISTED_ITEM}",
            "the source lists the item; events of one that has left the catalogue are kept",
            limits.max_unlisted,
            quarantine=False,
            remedy="compare the ids of events and items, or set --max-unlisted if so many items have left",
        ),
        *(_range(column, bounds, limits) for column, bounds in validity.EVENT_BOUNDS.items()),
        Rule(
            "about_nothing",
            "event",
            validity.unnamed(),
            "a search has its query, and what needs no item names a category or a brand",
            limits.max_quarantined,
        ),
        Rule(
            "too_old",
            "event_time",
            f"event_time < TIMESTAMP '{OLDEST}' OR {CLOCK} = 'too_old'",
            f"event_time is not before {OLDEST}, nor weeks before all other days",
            limits.max_quarantined,
            allowed=int(limits.max_quarantined * rows_read),
        ),
        Rule(
            "late",
            "event_time",
            f"{CLOCK} = 'late'",
            f"the API received it within {LATE.days} days; later ones are put aside, at any number",
            1.0,
        ),
        Rule(
            "future",
            "event_time",
            f"event_time >= {_sql(as_of)} OR {CLOCK} = 'future'",
            f"event_time is before {as_of:%Y-%m-%d}, the end of the data day, and not far behind all other days",
            limits.max_future,
            allowed=int(limits.max_future * rows_read),
        ),
        Rule(
            "stands_for_nobody",
            "user_id",
            f"lower(user_id) IN ({nobody})",
            "user_id is no word for a visitor who was not logged in; such rows are kept",
            limits.max_nobody,
            quarantine=False,
            remedy="add ?nobody=ID,ID to the source to take them as anonymous, or set --max-nobody 1 if they are users",
        ),
        Rule(
            "unknown_user",
            "user_id",
            f"NOT {KNOWN_USER}",
            "user_id has a profile; events come before profiles, so these rows are kept",
            1.0,
            quarantine=False,
        ),
    ]


def item_rules(as_of: datetime, limits: Limits) -> list[Rule]:
    """Rules of one catalogue row. An item from after the data day is put aside, for a backfill must not know it."""
    return [
        *_common(schema.ITEMS, limits),
        Rule(
            "bad_price",
            "price",
            f"isnan(price) OR price <= 0 OR price > {_max_price()}",
            f"price is a number above 0, at most {validity.MAX_PRICE:,.0f}; more in a currency of small units",
            limits.max_quarantined,
        ),
        Rule(
            "not_yet_created",
            "created_at",
            f"created_at >= {_sql(as_of)}",
            f"created_at is before {as_of:%Y-%m-%d}; later items are put aside, at any number",
            1.0,
        ),
    ]


def user_rules(as_of: datetime, limits: Limits) -> list[Rule]:
    """Rules of one user profile."""
    return [
        *_common(schema.USERS, limits),
        Rule(
            "not_yet_signed_up",
            "signup_date",
            f"signup_date >= {_sql(as_of)}",
            f"signup_date is before {as_of:%Y-%m-%d}; later ones are put aside, at any number",
            1.0,
        ),
    ]


def _common(table: Table, limits: Limits) -> list[Rule]:
    """What the schema itself says: required columns are filled, and the key is unique."""
    rules = [
        Rule(
            f"missing_{c.name}",
            c.name,
            _empty(c),
            f"{c.name} is filled: {c.doc}",
            limits.max_quarantined,
        )
        for c in table.columns
        if c.required
    ] + [
        Rule(
            f"bad_{name}",
            name,
            f"trim(`{name}`) <> '' AND NOT ({_is_id(name)})",
            f"{name} has at most {validity.ID_LENGTH} characters, no control characters, and no space around it",
            limits.max_quarantined,
        )
        for name in validity.IDS
        if name in table.names
    ]
    copies = {"identical": "of an identical row", "conflicting": "of a row that says something else"}
    return rules + [
        Rule(
            f"{kind}_duplicate",
            table.key,
            f"{COPY} = '{kind}'",
            f"{table.key} is not that {of}; the first is kept",
            limits.max_duplicates,
        )
        for kind, of in copies.items()
    ]


def _empty(column: Column) -> str:
    """SQL: a row leaves empty what it must fill."""
    empty = f"`{column.name}` IS NULL" + (f" OR trim(`{column.name}`) = ''" if column.type == "string" else "")
    if not column.optional_for:
        return empty
    exempt = ", ".join(f"'{kind}'" for kind in column.optional_for)
    return f"({empty}) AND event NOT IN ({exempt})"


def _range(column: str, bounds: Bounds, limits: Limits) -> Rule:
    """NaN is above every number in Spark, so the one predicate refuses it too; an empty value passes."""
    return Rule(
        f"bad_{column}",
        column,
        f"NOT ({column} BETWEEN {bounds.low:.0f} AND {bounds.high:.0f})",
        f"{column} is a number in {bounds.low:,.0f} to {bounds.high:,.0f}",
        limits.max_quarantined,
    )


def _is_id(column: str) -> str:
    return f"`{column}` RLIKE r'{validity.ID}' AND char_length(`{column}`) <= {validity.ID_LENGTH}"


def _max_price() -> str:
    """SQL: the highest price in the currency of an item."""
    cases = " ".join(f"WHEN '{currency}' THEN {validity.max_price(currency):.0f}D" for currency in validity.SMALL_UNITS)
    return f"(CASE currency {cases} ELSE {validity.MAX_PRICE:.0f}D END)"


def _sql(moment: datetime) -> str:
    return f"TIMESTAMP '{moment:%Y-%m-%d %H:%M:%S}+00:00'"


def null_rules(shares: dict[tuple[str, str], float], by: str | None, limits: Limits) -> list[Rule]:
    """Rules that no column gets much emptier than it was.

    Args:
        shares: (group, column) → share of empty values on the emptiest published day.
        by: the column that makes the groups (what a view leaves empty, a purchase fills), or None for one group.
    """
    rules = []
    for (group, column), share in sorted(shares.items()):
        allowed = share + limits.max_null_rise
        if allowed < 1:
            among = f"{by} = '{group}'" if by else "true"
            of = f" of {by} {group}" if by else ""
            rules.append(
                Rule(
                    f"empty_{column}" + (f"_of_{group}" if by else ""),
                    column,
                    f"`{column}` IS NULL",
                    f"{column}{of} is about as full as in the published days, where at most {share:.1%} was empty",
                    allowed,
                    quarantine=False,
                    among=among,
                )
            )
    return rules


# --- rows -----------------------------------------------------------------------------------------------------------


def mark_copies(rows: DataFrame, key: str) -> DataFrame:
    """Add `_copy`: "identical" or "conflicting" on every row but the first of its key, else null.

    Among events the first is that of the earliest day, then what arrived first: so a copy of a later day never moves
    an event that is published. Then it is the same one in every run, whatever files the rows come in, and only of
    identical rows any. A copy of an event has `_first_day`, the day of the row that is kept. Only keys and hashes are
    shuffled, not the rows; repeated keys are few and come back as a broadcast join. `ingested_at` is no part of the
    content.
    """
    content = [F.col(name) for name in rows.columns if name != "ingested_at"]
    timed = "event_time" in rows.columns
    day = F.to_date("event_time") if timed else F.lit(None).cast("date")
    arrival = [day.alias("_day"), F.col("ingested_at"), F.col("event_time")] if timed else []
    # xxhash64 skips nulls, so (null, "a") and ("a", null) need the mask to differ.
    digest = F.xxhash64(*content, F.array(*[column.isNull() for column in content]))
    # Both branches scan the same splits of the same files, hence see the same ids.
    number = F.monotonically_increasing_id().alias("_id")
    order = [*arrival, digest.alias("_digest")] if timed else []
    numbered = rows.withColumn("_row", F.struct(*order, number))
    repeated = (
        numbered.where(F.col(key).isNotNull())
        .groupBy(key)
        .agg(F.count(F.lit(1)).alias("_n"), F.min(F.struct("_row", digest.alias("_digest"))).alias("_first"))
        .where("_n > 1")
        .drop("_n")
    )
    copy = (
        F.when(F.col("_first").isNull() | (F.col("_row") == F.col("_first._row")), None)
        .when(digest == F.col("_first._digest"), "identical")
        .otherwise("conflicting")
    )
    first_day = F.when(copy.isNotNull(), F.col("_first._row._day") if timed else day).alias(FIRST_DAY)
    return numbered.join(repeated, key, "left").select(*rows.columns, copy.alias(COPY), first_day)


def mark_known(rows: DataFrame, known: DataFrame, key: str, name: str) -> DataFrame:
    """Add boolean `name`: whether the row's key is among the (unique) keys of `known`; true where it has none."""
    keys = known.select(key, F.lit(True).alias(name))
    return rows.join(keys, key, "left").withColumn(name, F.col(key).isNull() | F.coalesce(name, F.lit(False)))


def annotate(rows: DataFrame, rules: Sequence[Rule]) -> DataFrame:
    """Add `_reasons`: the names of all quarantine rules that a row breaks; empty for a good row."""
    reasons = [F.when(F.expr(rule.broken), F.lit(rule.name)) for rule in rules if rule.quarantine]
    return rows.withColumn(REASONS, F.array_compact(F.array(*reasons)))


def examples(bad: DataFrame, rules: Sequence[Rule], count: int = 5) -> dict[str, list[str]]:
    """Some bad values per reason, of quarantined rows that still have `_reasons`; one bounded Spark job."""
    value = F.create_map(*[part for r in rules for part in (F.lit(r.name), F.col(r.column).cast("string"))])
    found = (
        bad.select(F.explode(REASONS).alias("reason"), value.alias("values"))
        .select("reason", F.coalesce(F.col("values")[F.col("reason")], F.lit("(empty)")).alias("value"))
        .groupBy("reason", "value")
        .agg(F.count(F.lit(1)).alias("n"))
        .selectExpr("*", "row_number() OVER (PARTITION BY reason ORDER BY n DESC, value) AS rank")
        .where(F.col("rank") <= count)
        .orderBy("reason", "rank")
        .collect()
    )
    shown: dict[str, list[str]] = {}
    for row in found:
        shown.setdefault(row["reason"], []).append(f"{row['value']} ×{row['n']:,}" if row["n"] > 1 else row["value"])
    return shown


# --- Great Expectations ---------------------------------------------------------------------------------------------


class RowsBreaking(ColumnAggregateMetricProvider):  # type: ignore[misc]
    """GX metric: [rows for which both predicates hold, rows for which `among` holds]."""

    metric_name = "column.rows_breaking"
    value_keys = ("predicate", "among")
    filter_column_isnull = False

    @column_aggregate_partial(engine=SparkDFExecutionEngine)  # type: ignore[untyped-decorator]
    def _spark(cls, column: Expression, predicate: str, among: str, **_: Any) -> Expression:  # noqa: N805 - GX's form
        among_them = F.expr(among)
        return F.array(F.count_if(among_them & F.expr(predicate)), F.count_if(among_them))


class ExpectFewRowsBreaking(ColumnAggregateExpectation):  # type: ignore[misc]
    """GX expectation: at most a share `limit` of the rows `among`, or a handful, break a predicate."""

    predicate: str
    among: str = "true"
    limit: float
    handful: int = 0

    metric_dependencies = ("column.rows_breaking",)
    success_keys = ("predicate", "among", "limit", "handful")

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> dict[str, Any]:
        broken, rows = metrics["column.rows_breaking"]
        share = broken / rows if rows else 0.0
        return {
            "success": share <= self.limit or broken <= self.handful,
            "result": {"observed_value": share, "unexpected_count": broken, "element_count": rows},
        }


def schema_suite(table: Table, present: Sequence[str]) -> list[Any]:
    """Exactly the columns of the schema, each of its type; `present` are those the batch has."""
    names = gxe.ExpectTableColumnsToMatchSet(
        column_set=table.names,
        exact_match=True,
        meta={"name": "columns", "says": "the columns are those of the schema", "expected": ", ".join(table.names)},
    )
    types = [
        gxe.ExpectColumnValuesToBeOfType(
            column=c.name,
            type_=SPARK_TYPE[c.type],
            meta={"name": f"type_of_{c.name}", "says": f"{c.name} is {c.type}", "expected": SPARK_TYPE[c.type]},
        )
        for c in table.columns
        if c.name in present
    ]
    return [names, *types]


def volume(minimum: int, says: str) -> Any:
    """At least so many rows."""
    return gxe.ExpectTableRowCountToBeBetween(
        min_value=minimum,
        meta={"name": "volume", "says": says, "expected": f"at least {minimum:,} rows"},
    )


def few_breaking(rule: Rule, handful: int) -> Any:
    """The expectation of a rule."""
    of = "rows" if rule.among == "true" else f"rows with {rule.among}"
    expected = "any number" if rule.limit >= 1 else f"at most {rule.limit:.1%} of {of}"
    if rule.remedy:
        expected += f" ({rule.remedy})"
    return ExpectFewRowsBreaking(
        column=rule.column,
        predicate=rule.broken,
        among=rule.among,
        limit=rule.limit,
        handful=max(handful, rule.allowed),
        meta={"name": rule.name, "says": rule.says, "expected": expected, "quarantine": rule.quarantine},
    )


def total(rules: Sequence[Rule], limits: Limits) -> Rule:
    """The rule over all rules: not too many rows are quarantined for what a batch should not have at any number.

    Rows with a wrong clock are no part of it: they are those of the whole source, every night.
    """
    names = ", ".join(f"'{rule.name}'" for rule in rules if rule.quarantine and rule.limit < 1)
    return Rule(
        "quarantined",
        REASONS,
        f"{CLOCK} IS NULL AND arrays_overlap({REASONS}, array({names}))",
        "a row breaks no rule",
        limits.max_quarantined,
        quarantine=False,
    )


def validate(table: str, rows: DataFrame, expectations: Sequence[Any]) -> tuple[list[Check], dict[str, Any]]:
    """Judge one batch with Great Expectations; return what a person reads, and GX's own result for machines."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    # persist: GX would keep every batch in memory until the session ends, and hand the old rows to the next run.
    asset = context.data_sources.add_spark(name="lake", persist=False).add_dataframe_asset(name=table)
    batch = asset.add_batch_definition_whole_dataframe("batch").get_batch({"dataframe": rows})
    outcome = batch.validate(gx.ExpectationSuite(name=table, expectations=list(expectations)))
    return [_check(table, result) for result in outcome.results], outcome.to_json_dict()


def _check(table: str, result: Any) -> Check:
    meta, found = result.expectation_config.meta, result.result
    broken, quarantine = int(found.get("unexpected_count", 0)), bool(meta.get("quarantine"))
    verdict: Verdict = "failed"
    if result.success:
        verdict = "passed" if not broken else "quarantined" if quarantine else "noted"
    return Check(table, meta["name"], meta["says"], verdict, meta["expected"], _observed(result), broken, quarantine)


def _observed(result: Any) -> str:
    found, trouble = result.result, result.exception_info
    if trouble.get("raised_exception"):
        return f"not computable: {trouble.get('exception_message')}"
    if "element_count" in found and "unexpected_count" in found:
        if not found["unexpected_count"]:
            return "0"
        return f"{found['observed_value']:.2%} ({found['unexpected_count']:,} of {found['element_count']:,})"
    if mismatched := found.get("details", {}).get("mismatched"):
        return "; ".join(f"{kind}: {', '.join(map(str, names))}" for kind, names in sorted(mismatched.items()))
    value = found.get("observed_value")
    return f"{value:,}" if isinstance(value, int) else "as expected" if isinstance(value, list) else str(value)
