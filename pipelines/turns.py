"""Which events stopped to count, and when: `feature_repo.standing` over the events of a lake, with Spark.

Only pairs of a visitor and an item with a no are folded, by Python; nothing is done about all others.
"""

from collections.abc import Sequence
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo import events as schema
from feature_repo import standing
from feature_repo.events import EventType

PAIR = ["visitor_id", "is_user", "item_id"]
FOLDED = "array<struct<event_id: string, event: string, time: bigint, region: string, turns: array<bigint>>>"


def turned(events: DataFrame, items: DataFrame) -> DataFrame:
    """The events that have turns: PAIR, event_id, event, time, region, weight in favour, and `turns`, an array.

    A no to a category is one row for each of its items that its visitor had acted on.

    Args:
        events: as published; what is not among them is not known.
        items: for a no to all of a category or a brand.
    """
    said = events.select(
        F.coalesce("user_id", "session_id").alias("visitor_id"),
        F.col("user_id").isNotNull().alias("is_user"),
        *("item_id", "event_id", "event", "region", "category", "brand"),
        F.unix_seconds("event_time").alias("time"),
    )
    agreed = said.where(F.col("event").isin(*schema.POSITIVE) & F.col("item_id").isNotNull())
    refused = said.where(F.col("event").isin(*schema.NEGATIVE, str(EventType.UNDO)))
    direct = refused.where(F.col("item_id").isNotNull()).withColumn("target", F.lit(""))
    against = direct.unionByName(_spelled_out(refused.where(F.col("item_id").isNull()), agreed, items))
    spoken = agreed.join(against.select(*PAIR).distinct(), PAIR, "left_semi").withColumn("target", F.lit(""))
    entry = F.struct("time", "event_id", "event", "target", "region")
    folded = spoken.unionByName(against).groupBy(*PAIR).agg(F.collect_list(entry).alias("said"))
    ended = folded.select(*PAIR, F.inline(_fold(schema.yes(), schema.no())("said")))
    return ended.withColumn("weight", weight_of(schema.SIGNAL_WEIGHT))


def weight_of(weights: dict[str, float]) -> Column:
    """What the event of a row weighs; 0 for a type that is not named."""
    table = F.create_map(*(F.lit(x) for pair in weights.items() for x in (str(pair[0]), pair[1])))
    return F.coalesce(table[F.col("event")], F.lit(0.0))


def changes(rows: DataFrame) -> DataFrame:
    """One row per turn: `turn`, epoch seconds, and `sign`, -1 where the event stops to count and 1 where it begins."""
    exploded = rows.select("*", F.posexplode("turns").alias("nth", "turn")).drop("turns")
    return exploded.withColumn("sign", F.when(F.col("nth") % 2 == 0, -1.0).otherwise(1.0)).drop("nth")


def counts(turns: Column, now: Column) -> Column:
    """`standing.counts` of an array of turns, which may be null."""
    return turns.isNull() | (F.size(F.filter(turns, lambda turn: turn < now)) % 2 == 0)


def _spelled_out(broad: DataFrame, agreed: DataFrame, items: DataFrame) -> DataFrame:
    """A no to a category or a brand, and its undo, as one event for each of its items that the visitor had acted on."""
    content = items.select("item_id", F.col("category").alias("path"), F.col("brand").alias("maker"))
    touched = agreed.select(*PAIR).distinct()
    concerns = F.udf(standing.concerns, "boolean", useArrow=False)
    rows = broad.drop("item_id").join(touched, ["visitor_id", "is_user"]).join(F.broadcast(content), "item_id")
    target = F.concat_ws("\n", F.coalesce("category", F.lit("")), F.coalesce("brand", F.lit("")))
    found = rows.where(concerns("path", "maker", "category", "brand")).withColumn("target", target)
    return found.drop("path", "maker")


def _fold(yes: standing.Weights, no: standing.Weights) -> Any:
    """The fold as a function of `said`; it takes the weights along, for a worker of Spark knows the built-in types."""

    def fold(said: Sequence[Any]) -> list[tuple[Any, ...]]:
        ordered = sorted(said, key=lambda one: (one["time"], standing.order(one["event"], yes, no), one["event_id"]))
        kinds, times, targets = ([one[name] for one in ordered] for name in ("event", "time", "target"))
        folded = standing.turns(kinds, times, yes, no, targets)
        facts = ("event_id", "event", "time", "region")
        return [(*(one[f] for f in facts), moments) for one, moments in zip(ordered, folded, strict=True) if moments]

    return F.udf(fold, FOLDED, useArrow=False)
