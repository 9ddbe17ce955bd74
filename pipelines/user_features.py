"""Features of users and sessions: activity, favourite categories, histories, and sequences to learn from."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo import names
from pipelines import feature_rows, turns, windows
from pipelines.feature_rows import Span

CATEGORY_HALF_LIFE = 30.0  # days
CATEGORY_HORIZON = 365  # days; twelve half-lives, beyond which a weight is under a four-thousandth
CATEGORY_GRAINS = 1e10  # weights are summed as whole numbers of grains: the same ranks in whatever order they are added
SESSION_DAYS = 7  # anonymous sessions older than this are not coming back
SEQUENCE_LENGTH = 1_000


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
        *feature_rows.per_event(names.USER_EVENTS),
        F.sum(spend).alias("spend"),
        F.sum("price").alias("price"),
        feature_rows.number_of(F.col("price").isNotNull()).alias("priced"),
        feature_rows.number_of(F.col("weight") > 0).alias("positive"),
        F.lit(1.0).alias("active"),
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
            emit.withColumn("emitted", F.lit(1.0)),
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
        feature_rows.day_end().alias("activity_time"),
    )
    times = ("first_event_time", "last_event_time", "activity_time")
    return feature_rows.stamped(
        rows.where("emitted > 0"), "user_id", [*feature_rows.floats(names.USER_ACTIVITY), *times]
    )


def user_categories(events: DataFrame, turned: DataFrame, items: DataFrame, emit: DataFrame, span: Span) -> DataFrame:
    """The heaviest categories, top categories and brands of every (user, day) in `emit`, with their shares; what was
    taken back says nothing from the day of its no on."""
    weight = F.rint(F.col("weight") * windows.decay(F.col("time"), span.end, CATEGORY_HALF_LIFE) * CATEGORY_GRAINS)
    kinds = {
        "categories": F.col("category"),
        "top_categories": feature_rows.top_category("category"),
        "brands": F.col("brand"),
    }
    shares = ("category_weights", "top_category_weights", "brand_weights")
    labels = F.array(*(F.struct(F.lit(kind).alias("kind"), label.alias("label")) for kind, label in kinds.items()))
    # A category lasts at most a year before the oldest row; decay makes the rest too light to count.
    good = events.where(F.col("user_id").isNotNull() & (F.col("weight") > 0))
    told = good.select("user_id", "category", "brand", "time", "day", "weight", F.lit(1.0).alias("sign"))
    recent = told.unionByName(_taken_back(turned, items)).where(
        windows.day_of(F.col("time")) > span.first - CATEGORY_HORIZON
    )
    gained = (
        recent.select(
            "user_id", F.col("day").alias("gained"), (weight * F.col("sign")).alias("weight"), F.inline(labels)
        )
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
    weighing = F.when(F.col("weight") > 0, F.struct((-F.col("weight")).alias("lightness"), "label"))
    heaviest = F.slice(F.array_sort(F.collect_list(weighing)), 1, names.TOP_CATEGORIES)
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
    return feature_rows.stamped(wide, "user_id", [*kinds, *shares])


def _taken_back(turned: DataFrame, items: DataFrame) -> DataFrame:
    """Events of users that stop (sign -1) or begin again (1) to count on a day, with what their items share."""
    changes = turns.changes(turned.where("is_user AND weight > 0")).join(
        F.broadcast(items.select("item_id", "category", "brand")), "item_id", "left"
    )
    columns = (F.col("visitor_id").alias("user_id"), "category", "brand", "time")
    return changes.select(*columns, windows.day_of(F.col("turn")).alias("day"), "weight", "sign")


def _of_kind(kind: str, column: str, element: str) -> Column:
    found = F.max(F.when(F.col("kind") == kind, F.col(column)))
    return F.coalesce(found, F.array().cast(f"array<{element}>"))


def sequences(events: DataFrame, turned: DataFrame) -> DataFrame:
    """Per visitor, all positive events as `visits`: array<struct<time, event_id, item, event, value>>, oldest first,
    and `turned`: the turns of some by event_id, null for most visitors."""
    moment = F.struct("time", "event_id", F.col("item_id").alias("item"), "event", "value")
    good = events.where("weight > 0")
    visits = good.groupBy("visitor_id", F.col("user_id").isNotNull().alias("is_user")).agg(
        F.array_sort(F.collect_list(moment)).alias("visits"), F.max_by("region", "time").alias("seen_region")
    )
    entries = F.map_from_entries(F.collect_list(F.struct("event_id", "turns"))).alias("turned")
    once = turned.where("weight > 0").dropDuplicates(["visitor_id", "is_user", "event_id"])  # a map takes a key once
    ended = once.groupBy("visitor_id", "is_user").agg(entries)
    return visits.join(ended, ["visitor_id", "is_user"], "left")


def _counting(now: Column) -> Column:
    """The visits before a moment that count then."""
    return F.filter(
        "visits", lambda x: (x["time"] < now) & turns.counts(F.try_element_at("turned", x["event_id"]), now)
    )


def user_history(visits: DataFrame, emit: DataFrame) -> DataFrame:
    """The last `names.HISTORY_LENGTH` positive events of every (user, day) in `emit` that count at its end."""
    theirs = visits.where("is_user").withColumnRenamed("visitor_id", "user_id").join(emit, "user_id")
    theirs = theirs.where(F.col("visits")[0]["time"] < feature_rows.day_end())
    past = _newest(_counting(feature_rows.day_end()), names.HISTORY_LENGTH)
    return feature_rows.stamped(theirs.select("user_id", "day", past.alias("visits")), "user_id", _history())


def session_history(visits: DataFrame, span: Span) -> DataFrame:
    """The same for anonymous sessions, on the day of their last event, for the newest `SESSION_DAYS` days."""
    last = F.floor(F.element_at("visits", -1)["time"] / windows.SECONDS_PER_DAY).cast("int")
    rows = visits.where(~F.col("is_user")).select(
        F.col("visitor_id").alias("session_id"),
        last.alias("day"),
        _newest(_counting(F.lit(span.end)), names.HISTORY_LENGTH).alias("visits"),
    )
    oldest = max(span.first, span.last - SESSION_DAYS + 1)
    return feature_rows.stamped(rows.where(F.col("day") >= oldest), "session_id", _history())


def training_sequences(visits: DataFrame, users: DataFrame) -> DataFrame:
    """SEQUENCES: one row per visitor with its newest positive events, their turns (null where all count), its profile's
    region and age group."""
    profile = users.select(F.col("user_id").alias("visitor_id"), "region", "age_group")
    newest = visits.withColumn("visits", _newest(F.col("visits"), SEQUENCE_LENGTH))
    none = F.array().cast("array<bigint>")
    ended = F.transform("visits", lambda x: F.coalesce(F.try_element_at("turned", x["event_id"]), none))
    return newest.join(profile, "visitor_id", "left").select(
        "visitor_id",
        "is_user",
        F.coalesce(F.when(F.col("is_user"), F.col("region")), "seen_region").alias("region"),
        F.when(F.col("is_user"), F.col("age_group")).alias("age_group"),
        F.col("visits.item").alias("items"),
        F.col("visits.event").alias("events"),
        F.col("visits.time").alias("times"),
        F.col("visits.value").alias("values"),
        F.when(F.col("turned").isNotNull(), ended).alias("turns"),
    )


def user_profile(users: DataFrame, before: DataFrame | None, span: Span) -> DataFrame:
    """Users who are new or differ from the snapshot `before`."""
    signup = F.coalesce(F.unix_seconds("signup_date"), F.lit(0)).alias("signup_time")
    stated = F.coalesce("preferences", F.array().cast("array<string>")).alias("preferences")
    columns: list[Column | str] = ["region", "age_group", "language", signup, stated]
    return feature_rows.changes(users, before, "user_id", columns, F.col("signup_time"), span)


def _newest(visits: Column, length: int) -> Column:
    return F.slice(visits, F.greatest(F.size(visits) - length, F.lit(0)) + 1, length)


def _history() -> list[Column]:
    fields = {"history_items": "item", "history_events": "event", "history_times": "time"}
    return [F.col(f"visits.{field}").alias(name) for name, field in fields.items()]
