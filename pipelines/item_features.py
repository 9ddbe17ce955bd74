"""Features of items: windowed statistics, compared with those of other items, and content."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo import names
from pipelines import feature_rows, turns, windows
from pipelines.feature_rows import Span

PRIOR_VIEWS = 20.0  # a rate counts as if this many more views had behaved like those of all items
POPULARITY_HALF_LIFE = 14.0  # days: this month's taste
FAST_HALF_LIFE = 2.0  # days: this week's news
SMOOTHED = {
    "ctr_30d": ("click", ("impression",)),
    "cart_rate_30d": ("add_to_cart", ("click", "view")),
    "purchase_rate_30d": ("purchase", ("click", "view")),
    "completion_rate_30d": ("complete", ("view",)),
    "like_rate_30d": ("like", ("view",)),
}
COUNTED = {**dict.fromkeys(names.ITEM_EVENTS, names.WINDOWS_DAYS), "slots": (30,), "placed": (30,)}


def item_stats(events: DataFrame, turned: DataFrame, bought: DataFrame, items: DataFrame, span: Span) -> DataFrame:
    """`names.ITEM_STATS` of every item of the catalogue on every day of the span since it exists.

    What was taken back leaves the popularities on the day of its no; counts and rates are of what happened.
    """
    days = windows.daily(
        "item_id",
        [
            _emitted_next(rows, span)
            for rows in (
                windows.passing(_item_days(events, span), "item_id", COUNTED),
                _taken_back(turned, span),
                windows.distinct_in(30, events.where("weight > 0"), "item_id", "visitor_id", "users"),
                bought.where("nth = 1").select("item_id", "day", F.lit(1.0).alias("buyers")),
                bought.where("nth = 2").select("item_id", "day", F.lit(1.0).alias("repeaters")),
                _catalogue_days(events, items, span),
            )
        ],
    )
    ever = windows.so_far("item_id")
    total = {name: F.sum(name).over(ever) for name in days.columns if name not in ("item_id", "day", "emitted")}
    rows = days.select(
        "item_id",
        "day",
        "emitted",
        *(total[f"{kind}_{n}d"].alias(f"{kind}_{n}d") for kind in names.ITEM_EVENTS for n in names.WINDOWS_DAYS),
        total["users"].alias("users_30d"),
        windows.ratio(total["stars"], total["rated"]).alias("mean_rating"),
        # At least 0: a sum of fractions, less each of them, may be a little off.
        F.greatest(windows.decayed(total["slow"], span.end, POPULARITY_HALF_LIFE), F.lit(0.0)).alias("popularity"),
        F.greatest(windows.decayed(total["fast"], span.end, FAST_HALF_LIFE), F.lit(0.0)).alias("popularity_fast"),
        windows.ratio(total["repeaters"], total["buyers"]).alias("repeat_rate"),
        windows.ratio(total["slots_30d"], total["placed_30d"]).alias("mean_position_30d"),
        F.coalesce(F.min("first_event").over(ever), F.lit(0)).alias("item_first_event_time"),
        F.coalesce(F.max("last_event").over(ever), F.lit(0)).alias("item_last_event_time"),
        feature_rows.day_end().alias("stats_time"),
    ).where("emitted > 0")
    groups = items.select("item_id", feature_rows.top_category("category").alias("top"), F.col("brand").alias("maker"))
    times = ("item_first_event_time", "item_last_event_time", "stats_time")
    columns: list[Column | str] = [*feature_rows.floats(names.ITEM_STATS), *times]
    return feature_rows.stamped(_compared(rows.join(F.broadcast(groups), "item_id")), "item_id", columns)


def _item_days(events: DataFrame, span: Span) -> DataFrame:
    slot = F.when(F.col("event") == "impression", F.col("position"))
    stars = F.when(F.col("event") == "rate", F.col("value"))
    return (
        events.where("item_id IS NOT NULL")
        .groupBy("item_id", "day")
        .agg(
            *feature_rows.per_event(names.ITEM_EVENTS),
            F.coalesce(F.sum(slot.cast("double")), F.lit(0.0)).alias("slots"),
            feature_rows.number_of(slot.isNotNull()).alias("placed"),
            F.sum(stars).alias("stars"),
            feature_rows.number_of(stars.isNotNull()).alias("rated"),
            *_popularities(F.col("weight"), span),
            F.min("time").alias("first_event"),
            F.max("time").alias("last_event"),
        )
    )


def _popularities(weight: Column, span: Span) -> list[Column]:
    lives = {"slow": POPULARITY_HALF_LIFE, "fast": FAST_HALF_LIFE}
    return [F.sum(weight * windows.decay(F.col("time"), span.end, life)).alias(name) for name, life in lives.items()]


def _taken_back(turned: DataFrame, span: Span) -> DataFrame:
    """What enters and leaves the popularities on a day because events of before stopped or began again to count."""
    changes = turns.changes(turned.where("weight > 0")).withColumn("day", windows.day_of(F.col("turn")))
    return changes.groupBy("item_id", "day").agg(*_popularities(F.col("sign") * F.col("weight"), span))


def _emitted_next(rows: DataFrame, span: Span) -> DataFrame:
    """Move rows to the next day that has statistics: running sums there are the same, and no row is in between."""
    day = F.greatest("day", F.lit(span.oldest))
    weeks = F.floor((span.first - day) / 7).cast("int")
    return rows.withColumn("day", F.when(day < span.first, span.first - 7 * weeks).otherwise(day)).where(
        F.col("day") <= span.last
    )


def _catalogue_days(events: DataFrame, items: DataFrame, span: Span) -> DataFrame:
    """(item_id, day) that get a row, from the item's creation or first event on: each day of the span and, before it,
    one a week. The last day in any case, so that no item of the catalogue is without statistics."""
    seen = events.groupBy("item_id").agg(F.min("day").alias("seen"))
    born = F.least(windows.day_number(F.col("created_at")), "seen", F.lit(span.last))
    since = F.greatest(born, F.lit(span.oldest))
    days = items.join(seen, "item_id", "left").select("item_id", F.sequence(since, F.lit(span.last)).alias("days"))
    rows = days.select("item_id", F.explode("days").alias("day"), F.lit(1.0).alias("emitted"))
    return rows.where((F.col("day") >= span.first) | ((span.first - F.col("day")) % 7 == 0))


def _compared(rows: DataFrame) -> DataFrame:
    """Add what compares an item with the others on the same day: smoothed rates and shares."""
    day, top, maker = (Window.partitionBy("day", *keys) for keys in ((), ("top",), ("maker",)))
    rates = []
    for name, (part, whole) in SMOOTHED.items():
        done = F.col(f"{part}_30d")
        shown = sum((F.col(f"{kind}_30d") for kind in whole), F.lit(0.0))
        usual = F.least(windows.ratio(F.sum(done).over(day), F.sum(shown).over(day)), F.lit(1.0))
        # Where nobody records views (a till, for one), a rate says nothing: 0 for all. Purchases without a view of
        # their own can exceed the views; the rate stays one.
        rate = F.least((done + PRIOR_VIEWS * usual) / (shown + PRIOR_VIEWS), F.lit(1.0))
        rates.append(F.when(usual > 0, rate).otherwise(F.lit(0.0)).alias(name))
    share = windows.ratio(F.col("popularity"), F.sum("popularity").over(top)).alias("popularity_share")
    known = F.coalesce(F.col("maker"), F.lit("")) != ""
    brand = F.when(known, F.avg("popularity").over(maker)).otherwise(F.lit(0.0)).alias("brand_popularity")
    return rows.select("*", *rates, share, brand)


def repeat_share(bought: DataFrame) -> float:
    """Share of purchases that repeat an earlier one of the same user and item; 0 without purchases."""
    row = bought.agg(F.avg((F.col("nth") > 1).cast("double")).alias("share")).first()
    return float(row["share"] or 0.0) if row is not None else 0.0


def item_content(items: DataFrame, before: DataFrame | None, span: Span) -> DataFrame:
    """Items that are new or differ from the snapshot `before`."""
    columns: list[Column | str] = ["title", "category", "brand", F.col("price").cast("double"), "available"]
    created = F.unix_seconds("created_at").alias("created_time")
    return feature_rows.changes(items, before, "item_id", [*columns, created], F.col("created_time"), span)
