"""Items that have left the catalogue, kept as unavailable ones while events name them.

A source lists what a shop sells today; a fifth of last month's events may be of items that it listed then. Those events
tell what a user likes and what goes together as well as any other, so their items stay in the published catalogue, with
`available = False`, which keeps them out of every index and list.

An item is kept while an event of the last `HORIZON_DAYS` names it. A year brings back what is sold by the season; a
user's newest events, which the models read, are seldom older. One that comes back into the source is an item like any
other at once, and an event that names an item kept no longer brings it back, out of the catalogue that held it last. So
what is kept grows with what a year's events name, and not with what a shop has ever sold.

A first load has no earlier catalogue. There an item that the source does not list but `STUB_EVENTS` events name is kept
as a stub: its id for a title, and a category of its own.
"""

from datetime import date, timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo.events import ITEMS
from pipelines import datasets
from pipelines.datasets import Lake

HORIZON_DAYS = 365
STUB_EVENTS = 3  # a mistyped id seldom comes three times
STUB_CATEGORY = "Unlisted"


def items(spark: SparkSession, lake: Lake, day: date, listed: DataFrame, events: DataFrame) -> DataFrame:
    """Rows of ITEMS, none of them available: what the catalogue of `day` holds beside the items that are listed.

    Args:
        listed: the good items of the source.
        events: of the batch, before any check.
    """
    catalogues = lake.days(datasets.ITEMS, day - timedelta(days=1))
    absent = events.where("item_id IS NOT NULL").join(listed, "item_id", "left_anti")
    if not catalogues:
        return _stubs(absent, day)
    newest = _catalogues(spark, lake, catalogues[-1:]).join(listed, "item_id", "left_anti")
    kept = newest.join(_named(spark, lake, day, absent), "item_id", "left_semi")
    lost = absent.select("item_id").distinct().join(newest, "item_id", "left_anti")
    older = _catalogues(spark, lake, catalogues[:-1]).join(F.broadcast(lost), "item_id", "left_semi")
    last = F.max_by(F.struct(*ITEMS.names), "day").alias("item")
    rows = kept.select(*ITEMS.names).unionByName(older.groupBy("item_id").agg(last).select("item.*"))
    return rows.withColumn("available", F.lit(False))


def _catalogues(spark: SparkSession, lake: Lake, days: list[date]) -> DataFrame:
    """Published catalogues, with their `day`."""
    schema = f"{ITEMS.ddl()}, day date"
    if not days:
        return spark.createDataFrame([], schema)
    paths = [str(lake.require(datasets.ITEMS, day)) for day in days]
    return spark.read.schema(schema).option("basePath", str(lake.folder(datasets.ITEMS))).parquet(*paths)


def _named(spark: SparkSession, lake: Lake, day: date, absent: DataFrame) -> DataFrame:
    """The ids that the batch and the published events of the horizon name."""
    days = lake.days(datasets.EVENTS, day - timedelta(days=1))
    paths = [str(lake.require(datasets.EVENTS, past)) for past in days if past > day - timedelta(days=HORIZON_DAYS)]
    ids = absent.select("item_id")
    if paths:
        ids = ids.unionByName(spark.read.schema("item_id string").parquet(*paths))
    return ids.distinct()


def _stubs(absent: DataFrame, day: date) -> DataFrame:
    """What a first load knows of items that are not listed."""
    told = absent.where(F.col("event_time") < F.lit(datasets.end_of(day))).where("trim(item_id) != ''")
    seen = told.groupBy("item_id").agg(F.count(F.lit(1)).alias("n"), F.min("event_time").alias("created_at"))
    filled = {
        "item_id": F.col("item_id"),
        "title": F.col("item_id"),
        "category": F.lit(STUB_CATEGORY),
        "created_at": F.col("created_at"),
        "available": F.lit(False),
    }
    columns = [
        filled.get(field.name, F.lit(None)).cast(field.dataType).alias(field.name)
        for field in absent.sparkSession.createDataFrame([], ITEMS.ddl()).schema
    ]
    return seen.where(F.col("n") >= STUB_EVENTS).select(*columns)
