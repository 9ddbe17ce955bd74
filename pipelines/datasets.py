"""Every path, table, partition and asset name of the platform; nobody else joins paths.

A dataset is a folder of parquet partitions under the storage root. A partition is written beside its place and
moved there when it is whole, so that a reader sees the old one or the new one, and a re-run replaces only itself.
"""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Literal, NewType

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from feature_repo.events import TABLES
from recsys.errors import BadData
from recsys.settings import Settings

RunId = NewType("RunId", str)


@dataclass(frozen=True)
class Dataset:
    """A table of the lake.

    Attributes:
        name: path under `lake/`.
        partition: "day" for the tables of a day, "run" for what one run hands to its later stages.
        doc: what one row is.
    """

    name: str
    partition: Literal["day", "run"]
    doc: str

    @property
    def asset(self) -> str:
        """The name by which Airflow and its events know the dataset."""
        return f"recsys://lake/{self.name}"


STAGED_EVENTS = Dataset("staged/events", "run", "canonical events as the adapter read them, before any check")
STAGED_ITEMS = Dataset("staged/items", "run", "canonical items, before any check")
STAGED_USERS = Dataset("staged/users", "run", "canonical users, before any check")
STAGED_STRAYS = Dataset(
    "staged/strays", "run", "events whose time cannot be right, or that came too late for their day, with `reason`"
)
RECEIVED = Dataset(
    "received", "day", "events of the API that have left the bus, before any check, by day of event_time"
)
EVENTS = Dataset("events", "day", "events that passed the quality gate, by day of event_time; an empty day was closed")
ITEMS = Dataset("items", "day", "the whole catalogue as of a day")
USERS = Dataset("users", "day", "all user profiles as of a day")
QUARANTINE_EVENTS = Dataset("quarantine/events", "run", "events refused, with `reason`")
QUARANTINE_ITEMS = Dataset("quarantine/items", "run", "items refused, with `reason`")
QUARANTINE_USERS = Dataset("quarantine/users", "run", "users refused, with `reason`")
TRENDING = Dataset("trending", "day", "scope, key, rank, item_id, score: decayed popularity, top 100 per scope")
COVISITATION = Dataset("covisitation", "day", "item_id, kind, rank, other_id, lift, support: also bought / viewed")
SEQUENCES = Dataset(
    "sequences", "day", "one row per user or anonymous session: its positive events in time order, and their turns"
)
DECISIONS = Dataset(
    "decisions", "day", "what the API showed: one row per item, with propensity, by day of the response"
)
EMAIL = Dataset("email", "day", "user_id, position, item_id, …: what an e-mail to each active user recommends")
STAGED: dict[str, Dataset] = {"events": STAGED_EVENTS, "items": STAGED_ITEMS, "users": STAGED_USERS}
CLEAN: dict[str, Dataset] = {"events": EVENTS, "items": ITEMS, "users": USERS}
QUARANTINE: dict[str, Dataset] = {
    "events": QUARANTINE_EVENTS,
    "items": QUARANTINE_ITEMS,
    "users": QUARANTINE_USERS,
}


def feature_view(name: str) -> Dataset:
    """The offline table of a Feast feature view; every row has its entity key and `event_timestamp`."""
    return Dataset(f"features/{name}", "day", f"offline table of the Feast view {name}")


def end_of(day: date) -> datetime:
    """The first moment after a day, UTC: what is computed for the day may use nothing from here on."""
    return datetime.combine(day + timedelta(days=1), time(), tzinfo=UTC)


@dataclass(frozen=True)
class Lake:
    """The datasets under one storage root."""

    root: Path

    def folder(self, dataset: Dataset) -> Path:
        return self.root / "lake" / dataset.name

    def path(self, dataset: Dataset, partition: date | RunId) -> Path:
        """The folder of one partition, whether it exists or not."""
        return self.folder(dataset) / f"{dataset.partition}={partition}"

    def record(self, stage: str, day: date) -> Path:
        """The file in which a stage of the data remembers what it made for a day, and from what."""
        return self.root / "lake" / "_kept" / stage / f"day={day}.json"

    def days(self, dataset: Dataset, until: date | None = None) -> list[date]:
        """The days that a dataset holds, oldest first, up to and including `until`."""
        names = (p.name for p in self.folder(dataset).glob("day=*"))
        found = sorted(date.fromisoformat(name.removeprefix("day=")) for name in names)
        return [day for day in found if until is None or day <= until]

    def require(self, dataset: Dataset, partition: date | RunId) -> Path:
        """The folder of a partition that must exist.

        Raises:
            BadData: it does not; the message says which stage to run.
        """
        path = self.path(dataset, partition)
        if not path.exists():
            raise BadData(f"{dataset.name} has no partition {path.name}; run the stage that writes it first ({path})")
        return path

    def read(self, dataset: Dataset, partition: date | RunId, columns: list[str] | None = None) -> pa.Table:
        """One partition as an Arrow table. Raises BadData if there is none.

        Published columns that a day was written without are empty.
        """
        found = pyarrow.dataset.dataset(self.require(dataset, partition), format="parquet")
        if columns and dataset in CLEAN.values():
            added = [f for f in TABLES[dataset.name].arrow() if f.name in columns and f.name not in found.schema.names]
            found = found.replace_schema(pa.schema([*found.schema, *added]))
        return found.to_table(columns=columns)

    def read_days(self, dataset: Dataset, days: list[date], columns: list[str] | None = None) -> pa.Table:
        """Several days as one Arrow table, in the order given. Raises BadData if one is missing or none is asked."""
        if not days:
            raise BadData(f"{dataset.name}: no days to read; run the stage that writes it first")
        return pa.concat_tables([self.read(dataset, day, columns) for day in days], promote_options="default")

    @contextmanager
    def replacing(self, dataset: Dataset, partition: date | RunId) -> Iterator[Path]:
        """Yield a folder to write parquet files to; it becomes the partition if the block ends well."""
        target = self.path(dataset, partition)
        work = self.root / "lake" / "_work" / uuid.uuid4().hex
        work.mkdir(parents=True)
        try:
            yield work
            target.parent.mkdir(parents=True, exist_ok=True)
            swap(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def replacing_days(self, dataset: Dataset) -> Iterator[Path]:
        """Yield a folder to write `day=YYYY-MM-DD` folders to; each becomes its partition if the block ends well.

        For a first load of hundreds of days, which one partitioned Spark write makes in seconds. The days are moved
        oldest first; after a crash the next run takes up those that are missing.
        """
        work = self.root / "lake" / "_work" / uuid.uuid4().hex
        work.mkdir(parents=True)
        try:
            yield work
            for day in sorted(work.glob("day=*")):
                target = self.path(dataset, date.fromisoformat(day.name.removeprefix("day=")))
                target.parent.mkdir(parents=True, exist_ok=True)
                swap(day, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def remove(self, dataset: Dataset, partition: date | RunId) -> None:
        """Take one partition away, in one rename."""
        target = self.path(dataset, partition)
        old = _aside(target)
        if target.exists():
            target.rename(old)
        shutil.rmtree(old, ignore_errors=True)

    def write(self, dataset: Dataset, partition: date | RunId, table: pa.Table) -> Path:
        """Replace one partition by an Arrow table."""
        with self.replacing(dataset, partition) as work:
            pyarrow.parquet.write_table(table, work / "part-0.parquet", compression="zstd")
        return self.path(dataset, partition)


def swap(work: Path, target: Path) -> None:
    """Put the folder `work` at `target`; what was there is moved aside first and deleted last."""
    old = _aside(target)
    if target.exists():
        target.rename(old)
    work.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _aside(target: Path) -> Path:
    return target.with_name(f".old-{target.name}-{uuid.uuid4().hex[:8]}")


def lake(settings: Settings) -> Lake:
    return Lake(Path(settings.storage.root).resolve())


def models_folder(settings: Settings) -> Path:
    """Where artifacts are: `<folder>/<kind>/<version>`."""
    return Path(settings.storage.root).resolve() / "models"


def run_folder(settings: Settings, run: RunId) -> Path:
    """What one run leaves for people and for its later stages: results, reports, plots."""
    return Path(settings.storage.root).resolve() / "runs" / run
