"""The Spark session of a stage."""

import sys
from collections.abc import Sequence
from datetime import date

from pyspark.sql import DataFrame, SparkSession

from feature_repo import events as schema
from pipelines.datasets import Dataset, Lake
from recsys.settings import REPOSITORY, Settings


def session(settings: Settings, name: str) -> SparkSession:
    """Start (or get) a session that keeps UTC, workers of our own Python, and no UI port."""
    spark: SparkSession = (
        SparkSession.builder.appName(f"recsys-{name}")
        .master(settings.spark.master)
        .config("spark.driver.memory", settings.spark.driver_memory)
        .config("spark.sql.shuffle.partitions", settings.spark.shuffle_partitions)
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.ansi.enabled", "true")
        # Spark's default, INT96, loses the zone: Arrow readers would see naive nanoseconds.
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        # A lake has a folder a day: list hundreds here, where it takes milliseconds, not in a job of their own, and
        # read many small files in one task.
        .config("spark.sql.sources.parallelPartitionDiscovery.threshold", 5_000)
        .config("spark.sql.files.openCostInBytes", 256 * 1024)
        # Partitions are written beside their place and moved there whole (datasets.Lake), so neither a second
        # rename nor a checksum file per file is needed; without Hadoop's native library each new file costs a fork.
        .config("spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version", 2)
        .config("spark.hadoop.fs.file.impl", "org.apache.hadoop.fs.RawLocalFileSystem")
        # What a stage keeps is read again seconds later: squeezing it took longer than computing it.
        .config("spark.sql.inMemoryColumnarStorage.compressed", "false")
        # A stage lives for a minute: the optimising compiler and a concurrent collector cost more than they bring.
        .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.executorEnv.PYTHONPATH", str(REPOSITORY))  # where a worker finds our modules
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    # `spark.pyspark.python` is read by spark-submit alone; here a worker would be the first `python3` of the PATH.
    spark.sparkContext.pythonExec = sys.executable
    return spark


def read(session: SparkSession, lake: Lake, dataset: Dataset, days: Sequence[date]) -> DataFrame:
    """Published days of events, items or users; a column that a day was written without is empty there.

    Raises:
        BadData: a day is missing.
    """
    paths = [str(lake.require(dataset, day)) for day in days]
    return session.read.schema(schema.TABLES[dataset.name].ddl()).parquet(*paths)
