"""Windowed features of users and items, and the sequences that the towers learn from, with Spark.

A row covers a whole UTC day and is stamped with its end, t: its windows are [t - N days, t), so a request inside
the day sees the row of the day before. Per view:

- item_stats: every catalogue item, every day, so that decay and shares are those of the moment; before the last
  `history_days`, one day a week, which is what the towers see of an item's past;
- user_activity, user_categories, user_history: a user on the days with events (impressions are not the user's doing);
- session_history: anonymous sessions, on the day of their last event;
- user_profile, item_content: rows that are new or differ from the snapshot before; a new one is known since its
  signup or creation.

The first run fills the last `history_days` days. Training joins users into the holdout (at most 28 days), so older
rows would cost space and serve nobody; for users who were away during all of it, the first partition also keeps
their last row before, stamped with its own time. Later runs add the days since the last one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from pydantic import Field
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo import events as schema
from feature_repo import names
from pipelines import datasets, stage, windows
from pipelines import spark as engine
from pipelines.datasets import Dataset, Lake
from recsys.settings import Settings

log = logging.getLogger(__name__)

EPOCH = date(1970, 1, 1)
ITEM_STATS = datasets.feature_view("item_stats")
PRIOR_VIEWS = 20.0  # a rate counts as if this many more views had behaved like those of all items
POPULARITY_HALF_LIFE = 14.0  # days: this month's taste
FAST_HALF_LIFE = 2.0  # days: this week's news
CATEGORY_HALF_LIFE = 30.0  # days
CATEGORY_HORIZON = 365  # days; twelve half-lives, beyond which a weight is under a four-thousandth
SESSION_DAYS = 7  # anonymous sessions older than this are not coming back
SEQUENCE_LENGTH = 1_000
WEEKLY_DAYS = 400  # how far back item_stats has a row a week; beyond it a fast decay leaves the range of a double
REPEAT_THRESHOLD = 0.15  # of purchases; above it people buy again, and a recommendation may repeat what they bought
SMOOTHED = {
    "ctr_30d": ("click", ("impression",)),
    "cart_rate_30d": ("add_to_cart", ("click", "view")),
    "purchase_rate_30d": ("purchase", ("click", "view")),
    "completion_rate_30d": ("complete", ("view",)),
    "like_rate_30d": ("like", ("view",)),
}


class Params(stage.Params):
    history_days: int = Field(
        30, ge=29, le=1000, description="past days that the first run fills; training looks back at most 28"
    )


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


def main(params: Params, settings: Settings) -> stage.Result:
    lake = datasets.lake(settings)
    previous = _previous(lake, params.day)
    span = _span(params.day, previous, params.history_days)
    log.info("features of %s: %d days, %s", params.day, span.last - span.first + 1, "first run" if span.initial else "")
    session = engine.session(settings, "features")
    items, users = (_read(session, lake, dataset, [params.day]) for dataset in (datasets.ITEMS, datasets.USERS))
    events = prepare(
        _read(session, lake, datasets.EVENTS, lake.days(datasets.EVENTS, until=params.day)), items, span
    ).persist()
    try:
        emit = active_days(events, span).persist()
        visits = sequences(events).persist()
        bought = purchases(events).persist()
        frames = {
            "item_stats": item_stats(events, bought, items, span),
            "user_activity": user_activity(events, emit),
            "user_categories": user_categories(events, emit, span),
            "user_history": user_history(visits, emit),
            "session_history": session_history(visits, span),
            "item_content": item_content(items, _snapshot(session, lake, datasets.ITEMS, previous), span),
            "user_profile": user_profile(users, _snapshot(session, lake, datasets.USERS, previous), span),
        }
        rows = {name: _publish(lake, datasets.feature_view(name), frame, span) for name, frame in frames.items()}
        rows["sequences"] = _publish_day(lake, datasets.SEQUENCES, params.day, training_sequences(visits, users))
        share = repeat_share(bought)
    finally:
        session.catalog.clearCache()
    return {
        "rows": rows,
        "first_day": str(_date(span.first)),
        "repeat_share": round(share, 4),
        "allow_repeats": share > REPEAT_THRESHOLD,
    }


def prepare(events: DataFrame, items: DataFrame, span: Span) -> DataFrame:
    """Events before `as_of` with what all views need: day and time as numbers, who, signal weight, price, category.

    `price` is that paid for carts and purchases, else the item's; null for events that are not positive.
    """
    content = items.select("item_id", "category", "brand", F.col("price").alias("item_price"))
    weight = F.create_map(*(F.lit(x) for pair in schema.SIGNAL_WEIGHT.items() for x in pair))[F.col("event")]
    paid = F.when(F.col("event").isin("add_to_cart", "purchase"), F.col("value"))
    joined = events.where(F.unix_seconds("event_time") < span.end).join(F.broadcast(content), "item_id", "left")
    return joined.select(
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


def active_days(events: DataFrame, span: Span) -> DataFrame:
    """(user_id, day) that get a row: days with events in the span; on a first run also the last day before it."""
    days = events.where(F.col("user_id").isNotNull() & (F.col("event") != "impression")).select("user_id", "day")
    following = F.lead("day").over(Window.partitionBy("user_id").orderBy("day"))
    keep = F.col("day") >= span.first
    if span.initial:
        keep |= F.coalesce(F.col("following"), F.lit(span.first)) >= span.first
    return days.distinct().withColumn("following", following).where(keep).select("user_id", "day")


def user_activity(events: DataFrame, emit: DataFrame) -> DataFrame:
    """`names.USER_ACTIVITY` of every (user, day) in `emit`."""
    theirs = events.where(F.col("user_id").isNotNull() & (F.col("event") != "impression"))
    good = theirs.where("weight > 0")
    spend = F.when(F.col("event") == "purchase", F.coalesce("price", F.lit(0.0)) * F.coalesce("quantity", F.lit(1)))
    per_day = theirs.groupBy("user_id", "day").agg(
        *_per_event(names.USER_EVENTS),
        F.sum(spend).alias("spend"),
        F.sum("price").alias("price"),
        F.count("price").alias("priced"),
        F.count_if(F.col("weight") > 0).alias("positive"),
        F.lit(1).alias("active"),
        F.min("time").alias("first_event"),
        F.max("time").alias("last_event"),
    )
    days = windows.daily(
        "user_id",
        [
            per_day,
            windows.distinct_in(30, good, "user_id", "item_id", "items"),
            windows.distinct_in(30, good.where("category IS NOT NULL"), "user_id", "category", "categories"),
            windows.distinct_in(30, theirs, "user_id", "session_id", "sessions"),
            emit.withColumn("emitted", F.lit(1)),
        ],
    )
    month, ever = windows.trailing("user_id", 30), windows.so_far("user_id")
    rows = days.select(
        "user_id",
        "day",
        "emitted",
        *windows.counts("user_id", names.USER_EVENTS, names.WINDOWS_DAYS),
        F.sum("spend").over(month).alias("spend_30d"),
        windows.ratio(F.sum("price").over(month), F.sum("priced").over(month)).alias("mean_price_30d"),
        F.sum("items").over(ever).alias("distinct_items_30d"),
        F.sum("categories").over(ever).alias("distinct_categories_30d"),
        F.sum("sessions").over(ever).alias("sessions_30d"),
        F.sum("active").over(month).alias("active_days_30d"),
        F.sum("purchase").over(ever).alias("orders_total"),
        F.sum("positive").over(ever).alias("events_total"),
        F.min("first_event").over(ever).alias("first_event_time"),
        F.max("last_event").over(ever).alias("last_event_time"),
        _day_end().alias("activity_time"),
    )
    times = ("first_event_time", "last_event_time", "activity_time")
    return _stamped(rows.where("emitted > 0"), "user_id", [*_floats(names.USER_ACTIVITY), *times])


def item_stats(events: DataFrame, bought: DataFrame, items: DataFrame, span: Span) -> DataFrame:
    """`names.ITEM_STATS` of every item of the catalogue on every day of the span since it exists."""
    days = windows.daily(
        "item_id",
        [
            _item_days(events, span),
            windows.distinct_in(30, events.where("weight > 0"), "item_id", "visitor_id", "users"),
            bought.where("nth = 1").select("item_id", "day", F.lit(1).alias("buyers")),
            bought.where("nth = 2").select("item_id", "day", F.lit(1).alias("repeaters")),
            _catalogue_days(events, items, span),
        ],
    )
    month, ever = windows.trailing("item_id", 30), windows.so_far("item_id")
    rows = days.select(
        "item_id",
        "day",
        "emitted",
        *windows.counts("item_id", names.ITEM_EVENTS, names.WINDOWS_DAYS),
        F.sum("users").over(ever).alias("users_30d"),
        windows.ratio(F.sum("stars").over(ever), F.sum("rated").over(ever)).alias("mean_rating"),
        windows.decayed(F.sum("slow").over(ever), span.end, POPULARITY_HALF_LIFE).alias("popularity"),
        windows.decayed(F.sum("fast").over(ever), span.end, FAST_HALF_LIFE).alias("popularity_fast"),
        windows.ratio(F.sum("repeaters").over(ever), F.sum("buyers").over(ever)).alias("repeat_rate"),
        windows.ratio(F.sum("slots").over(month), F.sum("placed").over(month)).alias("mean_position_30d"),
        F.coalesce(F.min("first_event").over(ever), F.lit(0)).alias("item_first_event_time"),
        F.coalesce(F.max("last_event").over(ever), F.lit(0)).alias("item_last_event_time"),
        _day_end().alias("stats_time"),
    ).where("emitted > 0")
    groups = items.select("item_id", _top("category").alias("top"), F.col("brand").alias("maker"))
    times = ("item_first_event_time", "item_last_event_time", "stats_time")
    return _stamped(
        _compared(rows.join(F.broadcast(groups), "item_id")), "item_id", [*_floats(names.ITEM_STATS), *times]
    )


def _item_days(events: DataFrame, span: Span) -> DataFrame:
    time = F.col("time")
    return events.groupBy("item_id", "day").agg(
        *_per_event(names.ITEM_EVENTS),
        F.sum(F.when(F.col("event") == "impression", F.col("position"))).alias("slots"),
        F.count(F.when(F.col("event") == "impression", F.col("position"))).alias("placed"),
        F.sum(F.when(F.col("event") == "rate", F.col("value"))).alias("stars"),
        F.count(F.when(F.col("event") == "rate", F.col("value"))).alias("rated"),
        F.sum(F.col("weight") * windows.decay(time, span.end, POPULARITY_HALF_LIFE)).alias("slow"),
        F.sum(F.col("weight") * windows.decay(time, span.end, FAST_HALF_LIFE)).alias("fast"),
        F.min("time").alias("first_event"),
        F.max("time").alias("last_event"),
    )


def _catalogue_days(events: DataFrame, items: DataFrame, span: Span) -> DataFrame:
    """(item_id, day) that get a row, from the item's creation or first event on: each day of the span and, before it,
    one a week. The last day in any case, so that no item of the catalogue is without statistics."""
    seen = events.groupBy("item_id").agg(F.min("day").alias("seen"))
    born = F.least(windows.day_number(F.col("created_at")), "seen", F.lit(span.last))
    since = F.greatest(born, F.lit(span.oldest))
    days = items.join(seen, "item_id", "left").select("item_id", F.sequence(since, F.lit(span.last)).alias("days"))
    rows = days.select("item_id", F.explode("days").alias("day"), F.lit(1).alias("emitted"))
    return rows.where((F.col("day") >= span.first) | ((span.first - F.col("day")) % 7 == 0))


def _compared(rows: DataFrame) -> DataFrame:
    """Add what compares an item with the others on the same day: smoothed rates and shares."""
    day, top, maker = (Window.partitionBy("day", *keys) for keys in ((), ("top",), ("maker",)))
    rates = []
    for name, (part, whole) in SMOOTHED.items():
        done = F.col(f"{part}_30d")
        shown = sum((F.col(f"{kind}_30d") for kind in whole), F.lit(0))
        usual = F.least(windows.ratio(F.sum(done).over(day), F.sum(shown).over(day)), F.lit(1.0))
        # Where nobody records views (a till, for one), a rate says nothing: 0 for all. Purchases without a view of
        # their own can exceed the views; the rate stays one.
        rate = F.least((done + PRIOR_VIEWS * usual) / (shown + PRIOR_VIEWS), F.lit(1.0))
        rates.append(F.when(usual > 0, rate).otherwise(F.lit(0.0)).alias(name))
    share = windows.ratio(F.col("popularity"), F.sum("popularity").over(top)).alias("popularity_share")
    known = F.coalesce(F.col("maker"), F.lit("")) != ""
    brand = F.when(known, F.avg("popularity").over(maker)).otherwise(F.lit(0.0)).alias("brand_popularity")
    return rows.select("*", *rates, share, brand)


def user_categories(events: DataFrame, emit: DataFrame, span: Span) -> DataFrame:
    """The heaviest categories, top categories and brands of every (user, day) in `emit`, with their shares."""
    weight = F.col("weight") * windows.decay(F.col("time"), span.end, CATEGORY_HALF_LIFE)
    kinds = {"categories": F.col("category"), "top_categories": _top("category"), "brands": F.col("brand")}
    shares = ("category_weights", "top_category_weights", "brand_weights")
    labels = F.array(*(F.struct(F.lit(kind).alias("kind"), label.alias("label")) for kind, label in kinds.items()))
    # A category lasts at most a year before the oldest row; decay makes the rest too light to count.
    recent = events.where(
        F.col("user_id").isNotNull() & (F.col("weight") > 0) & (F.col("day") > span.first - CATEGORY_HORIZON)
    )
    gained = (
        recent.select("user_id", F.col("day").alias("gained"), weight.alias("weight"), F.inline(labels))
        .where("label IS NOT NULL AND label != ''")
        .groupBy("user_id", "gained", "kind", "label")
        .agg(F.sum("weight").alias("weight"))
    )
    total = (
        emit.join(gained, "user_id")
        .where("gained <= day")
        .groupBy("user_id", "day", "kind", "label")
        .agg(F.sum("weight").alias("weight"))
    )
    heaviest = F.slice(
        F.array_sort(F.collect_list(F.struct((-F.col("weight")).alias("lightness"), "label"))), 1, names.TOP_CATEGORIES
    )
    ranked = (
        total.groupBy("user_id", "day", "kind")
        .agg(heaviest.alias("heaviest"), F.sum("weight").alias("all"))
        .withColumn("labels", F.col("heaviest.label"))
        .withColumn("shares", F.transform("heaviest", lambda x: (-x["lightness"] / F.col("all")).cast("float")))
    )
    # One row per kind: the maximum of one value is that value.
    wide = ranked.groupBy("user_id", "day").agg(
        *(_of_kind(kind, "labels", "string").alias(kind) for kind in kinds),
        *(_of_kind(kind, "shares", "float").alias(name) for kind, name in zip(kinds, shares, strict=True)),
    )
    return _stamped(wide, "user_id", [*kinds, *shares])


def _of_kind(kind: str, column: str, element: str) -> Column:
    found = F.max(F.when(F.col("kind") == kind, F.col(column)))
    return F.coalesce(found, F.array().cast(f"array<{element}>"))


def sequences(events: DataFrame) -> DataFrame:
    """Per visitor, all positive events as `visits`: array<struct<time, event_id, item, event, value>>, oldest first."""
    moment = F.struct("time", "event_id", F.col("item_id").alias("item"), "event", "value")
    good = events.where("weight > 0")
    return good.groupBy("visitor_id", F.col("user_id").isNotNull().alias("is_user")).agg(
        F.array_sort(F.collect_list(moment)).alias("visits"), F.max_by("region", "time").alias("seen_region")
    )


def user_history(visits: DataFrame, emit: DataFrame) -> DataFrame:
    """The last `names.HISTORY_LENGTH` positive events of every (user, day) in `emit`."""
    theirs = visits.where("is_user").withColumnRenamed("visitor_id", "user_id")
    past = F.filter("visits", lambda x: x["time"] < _day_end())
    rows = theirs.join(emit, "user_id").select("user_id", "day", _newest(past, names.HISTORY_LENGTH).alias("visits"))
    return _stamped(rows.where(F.size("visits") > 0), "user_id", _history())


def session_history(visits: DataFrame, span: Span) -> DataFrame:
    """The same for anonymous sessions, on the day of their last event, for the newest `SESSION_DAYS` days."""
    last = F.floor(F.element_at("visits", -1)["time"] / windows.SECONDS_PER_DAY).cast("int")
    rows = visits.where(~F.col("is_user")).select(
        F.col("visitor_id").alias("session_id"),
        last.alias("day"),
        _newest(F.col("visits"), names.HISTORY_LENGTH).alias("visits"),
    )
    oldest = max(span.first, span.last - SESSION_DAYS + 1)
    return _stamped(rows.where(F.col("day") >= oldest), "session_id", _history())


def training_sequences(visits: DataFrame, users: DataFrame) -> DataFrame:
    """SEQUENCES: one row per visitor with its newest positive events, its profile's region and age group."""
    profile = users.select(F.col("user_id").alias("visitor_id"), "region", "age_group")
    newest = visits.withColumn("visits", _newest(F.col("visits"), SEQUENCE_LENGTH))
    return newest.join(profile, "visitor_id", "left").select(
        "visitor_id",
        "is_user",
        F.coalesce(F.when(F.col("is_user"), F.col("region")), "seen_region").alias("region"),
        F.when(F.col("is_user"), F.col("age_group")).alias("age_group"),
        F.col("visits.item").alias("items"),
        F.col("visits.event").alias("events"),
        F.col("visits.time").alias("times"),
        F.col("visits.value").alias("values"),
    )


def purchases(events: DataFrame) -> DataFrame:
    """(item_id, user_id, day, nth): the days on which known users bought an item; `nth` counts them from 1.

    Two lines of one order are one purchase: buying again means on another day.
    """
    days = events.where("event = 'purchase' AND user_id IS NOT NULL").select("item_id", "user_id", "day").distinct()
    return days.withColumn("nth", F.row_number().over(Window.partitionBy("item_id", "user_id").orderBy("day")))


def repeat_share(bought: DataFrame) -> float:
    """Share of purchases that repeat an earlier one of the same user and item; 0 without purchases."""
    row = bought.agg(F.avg((F.col("nth") > 1).cast("double")).alias("share")).first()
    return float(row["share"] or 0.0) if row is not None else 0.0


def item_content(items: DataFrame, before: DataFrame | None, span: Span) -> DataFrame:
    """Items that are new or differ from the snapshot `before`."""
    columns: list[Column | str] = ["title", "category", "brand", F.col("price").cast("double"), "available"]
    created = F.unix_seconds("created_at").alias("created_time")
    return _changes(items, before, "item_id", [*columns, created], F.col("created_time"), span)


def user_profile(users: DataFrame, before: DataFrame | None, span: Span) -> DataFrame:
    """Users who are new or differ from the snapshot `before`."""
    signup = F.coalesce(F.unix_seconds("signup_date"), F.lit(0)).alias("signup_time")
    stated = F.coalesce("preferences", F.array().cast("array<string>")).alias("preferences")
    columns: list[Column | str] = ["region", "age_group", "language", signup, stated]
    return _changes(users, before, "user_id", columns, F.col("signup_time"), span)


def _changes(
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


def _per_event(kinds: Sequence[str]) -> list[Column]:
    return [F.count_if(F.col("event") == kind).alias(kind) for kind in kinds]


def _day_end() -> Column:
    """The end of the row's day in epoch seconds."""
    return (F.col("day") + 1).cast("long") * windows.SECONDS_PER_DAY


def _top(category: str) -> Column:
    """`schema.top_category` as a Spark column."""
    return F.substring_index(category, " > ", 1)


def _newest(visits: Column, length: int) -> Column:
    return F.slice(visits, F.greatest(F.size(visits) - length, F.lit(0)) + 1, length)


def _history() -> list[Column]:
    fields = {"history_items": "item", "history_events": "event", "history_times": "time"}
    return [F.col(f"visits.{field}").alias(name) for name, field in fields.items()]


def _floats(columns: Sequence[str]) -> list[Column]:
    return [F.col(name).cast("float").alias(name) for name in columns]


def _stamped(rows: DataFrame, entity: str, columns: Sequence[Column | str]) -> DataFrame:
    return rows.select(entity, windows.end_of(F.col("day")).alias("event_timestamp"), *columns, "day")


def _date(day: int) -> date:
    return EPOCH + timedelta(days=day)


def _previous(lake: Lake, day: date) -> date | None:
    """The last day before `day` that has rows; item_stats has some on every day."""
    done = lake.days(ITEM_STATS, until=day - timedelta(days=1))
    return done[-1] if done else None


def _span(day: date, previous: date | None, history_days: int) -> Span:
    last = (day - EPOCH).days
    if previous is None:
        return Span(last - history_days + 1, last, True)
    return Span((previous - EPOCH).days + 1, last, False)


def _read(session: SparkSession, lake: Lake, dataset: Dataset, days: Sequence[date]) -> DataFrame:
    paths = [str(lake.require(dataset, day)) for day in days]
    return session.read.schema(schema.TABLES[dataset.name].ddl()).parquet(*paths)


def _snapshot(session: SparkSession, lake: Lake, dataset: Dataset, until: date | None) -> DataFrame | None:
    """The newest snapshot of a dataset up to a day."""
    days = lake.days(dataset, until=until) if until else []
    return _read(session, lake, dataset, days[-1:]) if days else None


def _publish(lake: Lake, view: Dataset, frame: DataFrame, span: Span) -> int:
    """Write one partition a day, the last even if it is empty; returns the number of rows.

    Rows of users from before the span go into its first partition.
    """
    oldest = span.oldest if view == ITEM_STATS else span.first
    partition = F.date_add(F.lit(EPOCH), F.greatest("day", F.lit(oldest)))
    parts = 2 * frame.sparkSession.sparkContext.defaultParallelism
    with lake.replacing_days(view) as work:
        placed = frame.withColumn("day", partition).repartition(parts, "day")
        placed.write.mode("overwrite").partitionBy("day").parquet(str(work))
        last = work / f"day={_date(span.last)}"
        if not last.exists():
            last.mkdir()
            empty: pa.Table = frame.drop("day").limit(0).toArrow()
            pyarrow.parquet.write_table(empty, last / "part-0.parquet")
        rows = int(pyarrow.dataset.dataset(work, format="parquet", partitioning=None).count_rows())
    log.info("%s: %d rows", view.name, rows)
    return rows


def _publish_day(lake: Lake, dataset: Dataset, day: date, frame: DataFrame) -> int:
    with lake.replacing(dataset, day) as work:
        frame.write.mode("overwrite").parquet(str(work))
        rows = int(pyarrow.dataset.dataset(work, format="parquet").count_rows())
    log.info("%s: %d rows", dataset.name, rows)
    return rows
