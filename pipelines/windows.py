"""Rolling windows over daily aggregates, as Spark frames.

Events are first summed per entity and day. A window of N days up to the end of day d is then either a range frame over
d-N+1 … d (`trailing`), for which Spark adds up all of the frame anew at each row: good where an entity has few rows a
month. Or it is a running sum (`so_far`), one addition a row however long the window, of rows made for it:

- counts: what happened on a day enters the sum there and leaves it N days later (`passing`);
- distinct counts: a value enters the count on each day it occurs and leaves it N days later, or when it occurs
  again, whichever is first (`distinct_in`);
- exponential decay: a weight is stored as if seen from one far end, `2^((t - end) / half_life)`; the running sum,
  scaled back by the age of the day, is the decayed sum (`decayed`).

Days are integers since 1970-01-01 UTC; the end of a day belongs to the next. Counts are doubles, exact up to 2^53.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention
from pyspark.sql.window import WindowSpec

SECONDS_PER_DAY = 86_400


def day_number(moment: Column) -> Column:
    """The UTC day of a timestamp, as an integer."""
    return day_of(F.unix_seconds(moment))


def day_of(seconds: Column) -> Column:
    """The UTC day of epoch seconds, as an integer."""
    return F.floor(seconds / SECONDS_PER_DAY).cast("int")


def end_of(day: Column) -> Column:
    """The first moment after a day, as a timestamp; what the rows of the day are stamped with."""
    return F.timestamp_seconds((day + 1).cast("long") * SECONDS_PER_DAY)


def distinct_in(days: int, occurrences: DataFrame, entity: str, value: str, name: str) -> DataFrame:
    """Rows whose running sum per entity is the number of distinct values in the last `days` days.

    Args:
        days: length of the window.
        occurrences: columns `entity`, `value` and `day`, in any multiplicity.
        entity: column that names whose count it is.
        value: column whose distinct values are counted.
        name: column of the +1 and -1 in the result.
    """
    rows = occurrences.select(entity, value, "day").distinct()
    again = F.lead("day").over(Window.partitionBy(entity, value).orderBy("day"))
    stays = rows.withColumn("leaves", F.least(again, F.col("day") + days))
    enter = F.struct("day", F.lit(1.0).alias(name))
    leave = F.struct(F.col("leaves").alias("day"), F.lit(-1.0).alias(name))
    return stays.select(entity, F.inline(F.array(enter, leave)))


def passing(occurrences: DataFrame, entity: str, windows_days: Mapping[str, Sequence[int]]) -> DataFrame:
    """Rows whose running sums per entity are the sums over the last N days, exactly, for they are whole numbers.

    Args:
        occurrences: daily rows with a column `day` and the whole-numbered columns named in `windows_days`.
        entity: column that names whose rows they are.
        windows_days: the windows of each column; they are called `<column>_<N>d`. Other columns stay as they are.
    """
    lengths = sorted({days for lengths in windows_days.values() for days in lengths})
    after = F.col("_after")
    sums = [
        F.when(after == 0, F.col(name)).when(after == days, -F.col(name)).alias(f"{name}_{days}d")
        for name, days_of in windows_days.items()
        for days in days_of
    ]
    kept = [name for name in occurrences.columns if name not in (entity, "day", *windows_days)]
    return occurrences.withColumn("_after", F.explode(F.array(*map(F.lit, [0, *lengths])))).select(
        entity,
        (F.col("day") + after).alias("day"),
        *sums,
        *(F.when(after == 0, F.col(name)).alias(name) for name in kept),
    )


def decay(time: Column, end: int, half_life_days: float) -> Column:
    """Weight of a moment seen from `end`, both epoch seconds: 1 there, one half a half-life before."""
    return F.pow(F.lit(2.0), (time - end) / (half_life_days * SECONDS_PER_DAY))


def decayed(total: Column, end: int, half_life_days: float) -> Column:
    """A running sum of `decay` weights, seen from the end of the row's day instead of from `end`."""
    age = (F.lit(end) - (F.col("day") + 1).cast("long") * SECONDS_PER_DAY) / (half_life_days * SECONDS_PER_DAY)
    return total * F.pow(F.lit(2.0), age)


def daily(entity: str, parts: Iterable[DataFrame]) -> DataFrame:
    """One row per entity and day: the sums of all columns of several frames, 0 where a frame has no such column.

    Columns whose names begin with `first_` and `last_` are combined by minimum and maximum and stay null.
    """
    rows = reduce(lambda left, right: left.unionByName(right, allowMissingColumns=True), parts)
    return rows.groupBy(entity, "day").agg(*(_combined(c) for c in rows.columns if c not in (entity, "day")))


def _combined(name: str) -> Column:
    if name.startswith("first_"):
        return F.min(name).alias(name)
    if name.startswith("last_"):
        return F.max(name).alias(name)
    return F.coalesce(F.sum(name), F.lit(0.0)).alias(name)


def trailing(entity: str, days: int) -> WindowSpec:
    """The last `days` days of an entity, the row's own included."""
    return Window.partitionBy(entity).orderBy("day").rangeBetween(1 - days, 0)


def so_far(entity: str) -> WindowSpec:
    """All days of an entity up to the row's own."""
    return Window.partitionBy(entity).orderBy("day").rangeBetween(Window.unboundedPreceding, 0)


def counts(entity: str, kinds: Sequence[str], windows_days: Sequence[int]) -> list[Column]:
    """`<kind>_<N>d` for daily columns named after the kinds."""
    return [
        F.sum(kind).over(trailing(entity, days)).alias(f"{kind}_{days}d") for kind in kinds for days in windows_days
    ]


def ratio(part: Column, whole: Column) -> Column:
    """part / whole, 0 where the whole is 0."""
    return F.when(whole > 0, part / whole).otherwise(F.lit(0.0))
