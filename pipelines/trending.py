"""What is popular now, and what goes together: exponentially decayed scores per scope, and co-visitation.

Only the trailing window is read, never the whole history. All sums are of integers, so the same events give the same
lists to the last digit however Spark splits them.
"""

import logging
from collections import Counter
from datetime import date, datetime, timedelta

from pydantic import Field
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo import standing
from feature_repo.events import DISLIKE_WEIGHT, NEGATIVE, POSITIVE, SIGNAL_WEIGHT, EventType
from pipelines import datasets, reuse, stage, turns
from pipelines import spark as engine
from pipelines.datasets import Dataset, Lake
from recsys.errors import BadData
from recsys.settings import Settings

SCALE = 1_000_000  # scores are summed in millionths: addition of integers does not depend on the order
DAY = 86_400.0
BOUGHT = (EventType.PURCHASE,)
VIEWED = (
    *(EventType.VIEW, EventType.CLICK, EventType.COMPLETE, EventType.LIKE, EventType.RATE),
    *(EventType.ADD_TO_WISHLIST, EventType.SHARE),
)

log = logging.getLogger(__name__)


class Params(stage.ReuseParams):
    """What the trending stage is told."""

    window_days: int = Field(60, ge=1, description="days of events read; four half-lives and more count for nothing")
    half_life_days: float = Field(7, gt=0, description="an event counts half after so long; shops live by the week")
    new_days: int = Field(14, ge=1, description="an item is new for so long after it entered the catalogue")
    per_key: int = Field(100, ge=1, description="items kept per list")
    basket_days: int = Field(7, ge=1, description="purchases of one user within so many days are one basket")
    basket_cap: int = Field(50, ge=2, description="latest items that count of one basket or session; bounds the pairs")
    min_support: int = Field(3, ge=1, description="baskets that must hold a pair; fewer are chance")
    shrinkage: float = Field(10, ge=0, description="support at which a lift counts half; tames pairs of rare items")
    per_item: int = Field(50, ge=1, description="neighbours kept per item and kind")


def trending(
    events: DataFrame,
    ended: DataFrame,
    items: DataFrame,
    users: DataFrame,
    as_of: datetime,
    *,
    half_life_days: float = 7,
    window_days: int = 60,
    new_days: int = 14,
    per_key: int = 100,
) -> DataFrame:
    """Top items per scope: scope, key, rank (from 1), item_id, score.

    With P = Σ over events of SIGNAL_WEIGHT · 2^(−age / half-life), age counted back from `as_of`, and N the same over
    DISLIKE_WEIGHT of opinions against the item, the strongest of each visitor alone,

        score = P · P / (P + N)

    Against much that speaks for an item, a no takes off what a yes adds; no number of them makes a score negative, and
    one visitor buries nothing that others like. What is `ended` (`taken_back`) counts neither way.

    Only available items; a list of a region holds only items that may be shown there. Ties go to the smaller item_id.
    Scopes: global, region, category (full path), top_category, age_region ("age|region", from the profile), and new:
    items that entered the catalogue within `new_days`, with score 0 where nobody has acted on them yet.
    """
    recent = in_window(events, ended, as_of, window_days)
    base = item_scores(recent, users, as_of, half_life_days)
    shown = items.where("available").select(
        "item_id",
        "category",
        F.substring_index("category", " > ", 1).alias("top_category"),
        F.coalesce("regions", F.array()).alias("regions"),
        (F.col("created_at") >= F.lit(as_of - timedelta(days=new_days))).alias("is_new"),
        (F.col("created_at") < F.lit(as_of)).alias("exists"),
    )
    newest = shown.where("is_new AND exists").select(F.lit("new").alias("scope"), F.lit("").alias("key"), "item_id")
    listed = base.join(shown, "item_id").withColumn("list", F.explode(_lists()))
    scored = listed.select("list.*", "item_id", "points", "against")
    nothing = F.lit(0).cast("long")
    total = (
        scored.unionByName(newest.select("*", nothing.alias("points"), nothing.alias("against")))
        .groupBy("scope", "key", "item_id")
        .agg(F.sum("points").alias("points"), F.sum("against").alias("against"))
        .where((F.col("points") > 0) | (F.col("scope") == "new"))
    )
    points, against = F.col("points"), F.col("against")
    score = F.when(against > 0, points * (points / (points + against))).otherwise(points) / SCALE
    best = Window.partitionBy("scope", "key").orderBy(F.desc("score"), "item_id")
    return (
        total.withColumn("score", score)
        .withColumn("rank", F.row_number().over(best))
        .where(F.col("rank") <= per_key)
        .select("scope", "key", "rank", "item_id", "score")
    )


def item_scores(recent: DataFrame, users: DataFrame, as_of: datetime, half_life_days: float) -> DataFrame:
    """Decayed points for and against (millionths) per item_id, region and age_group, from which every scope is summed.

    Summed per visitor before the profiles are joined, and combined before it is sent: neither a blockbuster item nor
    the many rows without a user become a hot key. The region is that of the event, else that of the profile; region
    and age group are null where unknown.
    """
    profile = users.select("user_id", "age_group", F.col("region").alias("home"))
    age_days = (F.lit(as_of).cast("double") - F.col("event_time").cast("double")) / DAY
    decay = F.pow(F.lit(2.0), -age_days / half_life_days) * SCALE
    points, against = (
        F.round(turns.weight_of(weights) * decay).cast("long") for weights in (SIGNAL_WEIGHT, DISLIKE_WEIGHT)
    )
    opposed = recent.where(F.col("event").isin(*NEGATIVE))
    visitor = F.coalesce("user_id", "session_id")
    strongest = opposed.groupBy("item_id", "user_id", visitor).agg(
        F.max(F.struct(against.alias("against"), "region")).alias("no")
    )
    agreed = recent.where(F.col("event").isin(*POSITIVE))
    per_visitor = agreed.groupBy("item_id", "user_id", "region").agg(F.sum(points).alias("points"))
    return (
        per_visitor.unionByName(strongest.select("item_id", "user_id", "no.*"), allowMissingColumns=True)
        .join(profile, "user_id", "left")
        .groupBy("item_id", F.coalesce("region", "home").alias("region"), "age_group")
        .agg(*(F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in ("points", "against")))
    )


def taken_back(events: DataFrame, items: DataFrame, as_of: datetime, window_days: int = 60) -> DataFrame:
    """event_id of the events of the window that count no longer at its end."""
    turned = turns.turned(events.where(_inside(as_of, window_days)), items)
    return turned.where(F.size("turns") % 2 == 1).select("event_id")


def in_window(events: DataFrame, ended: DataFrame, as_of: datetime, window_days: int) -> DataFrame:
    """Events that say something of their item, in the window that ends just before `as_of`.

    A return says no more than that its purchase does not count, and so does a removal from the cart.
    """
    opinions = [kind for kind in (*POSITIVE, *NEGATIVE) if kind not in standing.FACTS]
    recent = events.where(_inside(as_of, window_days) & F.col("event").isin(opinions) & F.col("item_id").isNotNull())
    return recent.join(ended, "event_id", "left_anti")


def _inside(as_of: datetime, window_days: int) -> Column:
    start = as_of - timedelta(days=window_days)
    return (F.col("event_time") >= F.lit(start)) & (F.col("event_time") < F.lit(as_of))


def _lists() -> Column:
    """The (scope, key) lists that a row of scores adds to."""
    region, age = F.col("region"), F.col("age_group")
    here = region.isNotNull() & ((F.size("regions") == 0) | F.array_contains("regions", region))

    def entry(scope: str, key: Column, condition: Column | None = None) -> Column:
        found = F.struct(F.lit(scope).alias("scope"), key.alias("key"))
        return found if condition is None else F.when(condition, found)

    return F.array_compact(
        F.array(
            entry("global", F.lit("")),
            entry("category", F.col("category")),
            entry("top_category", F.col("top_category")),
            entry("region", region, here),
            entry("age_region", F.concat_ws("|", age, region), here & age.isNotNull()),
            entry("new", F.lit(""), F.col("is_new") & F.col("exists")),
        )
    )


def covisitation(
    baskets: DataFrame, items: DataFrame, *, min_support: int = 3, shrinkage: float = 10, per_item: int = 50
) -> DataFrame:
    """Items that go together: item_id, kind ("bought" or "viewed"), rank (from 1), other_id, lift, support.

    With n(i) of N baskets holding i and n(i, j) holding both,

        lift = N · n(i, j) / (n(i) · n(j)) · n(i, j) / (n(i, j) + shrinkage)

    The first factor is the lift of Brin, Motwani, Ullman and Tsur (SIGMOD 1997): how much likelier j is in a basket
    that holds i. It divides by the popularity of j, else a bestseller would be everybody's neighbour (Linden, Smith
    and York, IEEE Internet Computing 2003; Deshpande and Karypis, TOIS 2004); the second damps pairs seen a few
    times (Bell and Koren, KDD Cup 2007). Pairs in fewer than `min_support` baskets are dropped, and so are neighbours
    that are not available. Ties go to the smaller other_id.

    Pairs are counted before they are sent, so no item is a hot key.

    Args:
        baskets: kind, items; as `baskets_of` makes them. Scanned three times: persist them.
        items: the catalogue.
        min_support: baskets that must hold a pair.
        shrinkage: support at which a lift counts half.
        per_item: neighbours kept per item and kind.
    """
    members = baskets.select("kind", F.explode("items").alias("item_id"), "items")
    pairs = members.select(
        "kind", "item_id", F.explode(F.filter("items", lambda other: other > F.col("item_id"))).alias("other_id")
    )
    support = pairs.groupBy("kind", "item_id", "other_id").agg(F.count(F.lit(1)).alias("support"))
    support = support.where(F.col("support") >= min_support)
    holding = members.groupBy("kind", "item_id").agg(F.count(F.lit(1)).alias("n"))
    size = baskets.groupBy("kind").agg(F.count(F.lit(1)).alias("baskets"))
    both = support.unionByName(
        support.select("kind", F.col("other_id").alias("item_id"), F.col("item_id").alias("other_id"), "support")
    )
    shown = items.where("available").select(F.col("item_id").alias("other_id"))
    others = holding.select("kind", F.col("item_id").alias("other_id"), F.col("n").alias("n_other"))
    n = F.col("support")
    lift = F.col("baskets") * n / (F.col("n") * F.col("n_other")) * n / (n + shrinkage)
    best = Window.partitionBy("kind", "item_id").orderBy(F.desc("lift"), "other_id")
    return (
        both.join(shown, "other_id")
        .join(holding, ["kind", "item_id"])
        .join(others, ["kind", "other_id"])
        .join(F.broadcast(size), "kind")
        .withColumn("lift", lift)
        .withColumn("rank", F.row_number().over(best))
        .where(F.col("rank") <= per_item)
        .select("item_id", "kind", "rank", "other_id", "lift", "support")
    )


def baskets_of(
    events: DataFrame,
    ended: DataFrame,
    as_of: datetime,
    *,
    window_days: int = 60,
    basket_days: int = 7,
    basket_cap: int = 50,
) -> DataFrame:
    """Sets of items that were bought or viewed together: kind, items (distinct, sorted).

    Bought: by one user in one stretch of `basket_days`, counted back from `as_of`; an anonymous purchase belongs to
    its session. Viewed: in one session. What is `ended` is in none: who returned one of two did not take them together.
    A set keeps at most `basket_cap` items, the latest: a robot's session of 10,000 items makes 1,225 pairs, not 50
    million.
    """
    recent = in_window(events, ended, as_of, window_days)
    stretch = F.floor((F.lit(as_of).cast("double") - F.col("event_time").cast("double")) / (basket_days * DAY)).cast(
        "string"
    )
    buyer = F.when(F.col("user_id").isNull(), F.concat(F.lit("s"), "session_id")).otherwise(
        F.concat(F.lit("u"), stretch, F.lit(" "), "user_id")
    )
    bought = F.col("event").isin(*BOUGHT)
    kinds = recent.where(F.col("event").isin(*BOUGHT, *VIEWED)).select(
        F.when(bought, "bought").otherwise("viewed").alias("kind"),
        F.when(bought, buyer).otherwise(F.col("session_id")).alias("basket"),
        "item_id",
        "event_time",
    )
    latest = Window.partitionBy("kind", "basket").orderBy(F.desc("seen"), "item_id")
    return (
        kinds.groupBy("kind", "basket", "item_id")
        .agg(F.max("event_time").alias("seen"))
        .withColumn("place", F.row_number().over(latest))
        .where(F.col("place") <= basket_cap)
        .groupBy("kind", "basket")
        .agg(F.sort_array(F.collect_list("item_id")).alias("items"))
    )


def touches(params: Params, settings: Settings) -> reuse.Touched:
    """Reads the published days up to the day; writes its two tables."""
    lake = datasets.lake(settings)
    published = [(dataset, d) for dataset in datasets.CLEAN.values() for d in lake.days(dataset, params.day)]
    made = [(dataset, params.day) for dataset in (datasets.TRENDING, datasets.COVISITATION)]
    return reuse.Touched(
        [lake.path(*partition) for partition in published],
        [lake.path(*partition) for partition in made],
        params.facts(),
    )


def main(params: Params, settings: Settings) -> stage.Result:
    """Compute both tables from the published days of the window and write the day's partitions.

    Raises:
        BadData: no day of the window is published.
    """
    lake, spark = datasets.lake(settings), engine.session(settings, "trending")
    as_of = datasets.end_of(params.day)
    days = [d for d in lake.days(datasets.EVENTS, params.day) if d > params.day - timedelta(days=params.window_days)]
    if not days:
        raise BadData(
            f"no events published in the {params.window_days} days up to {params.day}; run ingest and quality"
        )
    log.info("reading %d days of events", len(days))
    events = engine.read(spark, lake, datasets.EVENTS, days)
    items, users = (_snapshot(lake, spark, dataset, params.day) for dataset in (datasets.ITEMS, datasets.USERS))
    ended = taken_back(events, items, as_of, params.window_days).persist(StorageLevel.MEMORY_AND_DISK)
    lists = trending(
        events,
        ended,
        items,
        users,
        as_of,
        **params.model_dump(include={"half_life_days", "window_days", "new_days", "per_key"}),
    )
    _write(lake, datasets.TRENDING, params.day, lists.sortWithinPartitions("scope", "key", "rank"))
    log.info("counting what goes together")
    baskets = baskets_of(
        events, ended, as_of, **params.model_dump(include={"window_days", "basket_days", "basket_cap"})
    )
    baskets.persist(StorageLevel.DISK_ONLY)
    pairs = covisitation(baskets, items, **params.model_dump(include={"min_support", "shrinkage", "per_item"}))
    _write(lake, datasets.COVISITATION, params.day, pairs.sortWithinPartitions("kind", "item_id", "rank"))
    baskets.unpersist()
    ended.unpersist()
    return {
        "days": len(days),
        "lists": _counts(lake, datasets.TRENDING, params.day, "scope"),
        "pairs": _counts(lake, datasets.COVISITATION, params.day, "kind"),
    }


def _snapshot(lake: Lake, spark: SparkSession, dataset: Dataset, day: date) -> DataFrame:
    """The newest whole table published up to a day."""
    newest = max(lake.days(dataset, day), default=day)
    return engine.read(spark, lake, dataset, [newest])


def _write(lake: Lake, dataset: Dataset, day: date, rows: DataFrame) -> None:
    with lake.replacing(dataset, day) as work:
        rows.write.mode("overwrite").option("compression", "zstd").parquet(str(work))


def _counts(lake: Lake, dataset: Dataset, day: date, by: str) -> dict[str, int]:
    values: list[str] = lake.read(dataset, day, [by])[by].to_pylist()
    return dict(Counter(values))
