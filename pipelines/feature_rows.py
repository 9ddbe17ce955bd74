"""What feature tables share: the days that get rows, the prepared events, and how rows are stamped."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo import events as schema
from pipelines import turns, windows

EPOCH = date(1970, 1, 1)
WEEKLY_DAYS = 400  # how far back item_stats has a row a week; beyond it a fast decay leaves the range of a double


@dataclass(frozen=True)
class Span:
    """The days to write rows for, as day numbers.

    Attributes:
        first: oldest day.
        last: newest day, whose end is `as_of`.
        initial: no rows exist from before `first`.
    """

    first: int
    last: int
    initial: bool

    @property
    def oldest(self) -> int:
        """Where the weekly rows of item_stats begin."""
        return self.last - WEEKLY_DAYS if self.initial else self.first

    @property
    def end(self) -> int:
        """`as_of` in epoch seconds: nothing at or after it is used."""
        return (self.last + 1) * windows.SECONDS_PER_DAY

    @classmethod
    def until(cls, day: date, previous: date | None, history_days: int) -> "Span":
        """The days after `previous` up to `day`, or the last `history_days` where nothing was written before."""
        last = (day - EPOCH).days
        if previous is None:
            return cls(last - history_days + 1, last, True)
        return cls((previous - EPOCH).days + 1, last, False)


def prepare(events: DataFrame, items: DataFrame, span: Span) -> DataFrame:
    """Events before `as_of` with what all views need: day and time as numbers, who, signal weight, price, category.

    `price` is that paid for carts and purchases, else the item's; null for events that are not positive. Category and
    brand are the item's; an event about no item has none.
    """
    content = items.select("item_id", "category", "brand", F.col("price").alias("item_price"))
    weight = turns.weight_of(schema.SIGNAL_WEIGHT)
    paid = F.when(F.col("event").isin("add_to_cart", "purchase"), F.col("value"))
    theirs = events.drop("category", "brand").where(F.unix_seconds("event_time") < span.end)
    return theirs.join(F.broadcast(content), "item_id", "left").select(
        "event_id",
        "user_id",
        "session_id",
        F.coalesce("user_id", "session_id").alias("visitor_id"),
        "item_id",
        "event",
        "value",
        "quantity",
        "position",
        "region",
        "category",
        "brand",
        weight.alias("weight"),
        F.when(weight > 0, F.coalesce(paid, "item_price")).alias("price"),
        F.unix_seconds("event_time").alias("time"),
        windows.day_number(F.col("event_time")).alias("day"),
    )


def purchases(events: DataFrame) -> DataFrame:
    """(item_id, user_id, day, nth): the days on which known users bought an item; `nth` counts them from 1.

    Two lines of one order are one purchase: buying again means on another day.
    """
    days = events.where("event = 'purchase' AND user_id IS NOT NULL").select("item_id", "user_id", "day").distinct()
    return days.withColumn("nth", F.row_number().over(Window.partitionBy("item_id", "user_id").orderBy("day")))


def changes(
    now: DataFrame, before: DataFrame | None, key: str, columns: Sequence[Column | str], since: Column, span: Span
) -> DataFrame:
    """Rows of `now` that `before` does not have; known since the midnight before `since`, or, where the key was known
    with other values, since the end of the span."""
    rows = now.select(key, *columns)
    midnight = F.floor(F.least(since, F.lit(span.end)) / windows.SECONDS_PER_DAY) * windows.SECONDS_PER_DAY
    if before is None:
        moment = midnight
    else:
        rows = rows.subtract(before.select(key, *columns))
        rows = rows.join(before.select(key, F.lit(True).alias("known")), key, "left")
        moment = F.when(F.col("known"), F.lit(span.end)).otherwise(midnight)
    stamped = rows.withColumn("event_timestamp", F.timestamp_seconds(moment)).withColumn("day", F.lit(span.last))
    return stamped.drop("known")


def per_event(kinds: Sequence[str]) -> list[Column]:
    """The number of events of each kind."""
    return [number_of(F.col("event") == kind).alias(kind) for kind in kinds]


def number_of(condition: Column) -> Column:
    """How many rows meet a condition, as a double."""
    return F.sum(F.when(condition, F.lit(1.0)).otherwise(F.lit(0.0)))


def day_end() -> Column:
    """The end of the row's day in epoch seconds."""
    return (F.col("day") + 1).cast("long") * windows.SECONDS_PER_DAY


def top_category(category: str) -> Column:
    """`schema.top_category` as a Spark column."""
    return F.substring_index(category, " > ", 1)


def floats(columns: Iterable[str]) -> list[Column]:
    return [F.col(name).cast("float").alias(name) for name in columns]


def stamped(rows: DataFrame, entity: str, columns: Sequence[Column | str]) -> DataFrame:
    return rows.select(entity, windows.end_of(F.col("day")).alias("event_timestamp"), *columns, "day")


def date_of(day: int) -> date:
    return EPOCH + timedelta(days=day)
