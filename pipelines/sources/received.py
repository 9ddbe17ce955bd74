"""Events of the API whose segment has left the bus, in the lake's table `received`.

They lie there as they came, judged by nobody, so that a day that is run again finds all of its events, and those that
came too late for their day are not lost. Files are added and never changed. What a crash leaves both here and in the
bus is removed by the quality gate, which knows an event by its id.
"""

import os
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from feature_repo.events import EVENTS
from pipelines import datasets
from pipelines.datasets import Lake
from pipelines.sources import files, source
from recsys import bus


def paths(lake: Lake, since: datetime, until: datetime) -> list[Path]:
    """The files that hold events of since..until, by day."""
    days = [day for day in lake.days(datasets.RECEIVED) if since < datasets.end_of(day) < until + timedelta(days=1)]
    return [path for day in days for path in sorted(lake.path(datasets.RECEIVED, day).glob("[!.]*.parquet"))]


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The events of one file, in the schema of today."""
    for batch in files.parquet(path):
        yield source.conform(EVENTS, {name: batch.column(name) for name in batch.schema.names}, batch.num_rows)


def add(lake: Lake, events: pa.Table) -> None:
    """Keep events; they are on the disk, under their names, when this returns."""
    days = events.column("event_time").cast(pa.date32())
    for day in sorted(pc.unique(days).to_pylist()):
        folder, name = lake.path(datasets.RECEIVED, day), f"{uuid.uuid4().hex}.parquet"
        folder.mkdir(parents=True, exist_ok=True)
        work = folder / f".{name}"
        with work.open("wb") as stream:
            pyarrow.parquet.write_table(events.filter(pc.equal(days, day)), stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        work.rename(folder / name)
        above = lake.folder(datasets.RECEIVED)
        for parent in (folder, above, above.parent, lake.root):
            bus.sync_folder(parent)
