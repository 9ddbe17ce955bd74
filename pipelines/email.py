"""Recommendations for an e-mail to every active user, asked of the API as a shopper's are, and written to the lake.

The API is asked, and not the models, so that an e-mail is subject to the same rules, reasons and decision log as a page
of the shop. Users are asked about in parts that are kept while the run is not finished: one that fails goes on where it
ended when it is tried again. The lake knows of no permission to write to anybody; who sends the e-mails does.
"""

import asyncio
import hashlib
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from pydantic import Field
from rich.console import Console
from rich.progress import Progress

from feature_repo import validity
from feature_repo.events import EventType
from pipelines import datasets, stage
from pipelines.datasets import Lake
from pipelines.pages import Caller, Pace, Page
from recsys import client
from recsys.errors import BadData
from recsys.settings import Settings

SURFACE = "email"
PART = 500  # users; at most so many are asked about again after a failure
SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),  # from 0, as in the decision log
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("price", pa.float64()),
        pa.field("currency", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("release_id", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),  # goes into the events that the e-mail leads to
    ]
)
NAMED = 20  # users left out whom the result names
log = logging.getLogger(__name__)


class Params(stage.Params):
    """What the stage is told."""

    active_days: int = Field(30, ge=1, le=3650, description="users with an event in so many days up to the data day")
    count: int = Field(10, ge=1, le=100, description="items for each user")
    in_flight: int = Field(4, ge=1, le=64, description="requests in flight at most; fewer while the API is strained")


def active(events: pa.Table) -> set[str]:
    """Users who did something; to be shown an item is not a deed.

    Args:
        events: columns user_id and event.
    """
    deeds = events.filter(pc.field("event") != EventType.IMPRESSION.value)
    return set(pc.unique(deeds["user_id"].drop_null()).to_pylist())


def rows(users: Iterable[str], pages: Iterable[Page]) -> pa.Table:
    """The items of each user's page, in SCHEMA."""
    return pa.Table.from_pylist(
        [
            {"user_id": user, "position": position, "release_id": page["release_id"], "request_id": page["request_id"]}
            | {name: item[name] for name in ("item_id", "title", "price", "currency", "reason", "score")}
            for user, page in zip(users, pages, strict=True)
            for position, item in enumerate(page["items"])
        ],
        SCHEMA,
    )


def main(params: Params, settings: Settings) -> stage.Result:
    """Ask about all active users, then publish the day's partition.

    Raises:
        BadData: no day of the window is published.
        Retryable: the API is away, or goes away for longer than a restart takes.
        Permanent: the API was never started here, or refuses the requests.
    """
    lake = datasets.lake(settings)
    everybody = _active_users(lake, params.day, params.active_days)
    users = [user for user in everybody if validity.is_id(user)]
    if skipped := sorted(set(everybody) - set(users)):
        log.warning("%d users are left out, since their ids are not valid: %s", len(skipped), skipped[:NAMED])
    client.get(settings, "/health/ready", {})
    started = time.monotonic()
    parts = _parts(params, settings, users)
    counts = asyncio.run(_ask(parts, params, settings))
    seconds = time.monotonic() - started
    with lake.replacing(datasets.EMAIL, params.day) as folder:
        for path in parts:
            shutil.copyfile(path, folder / path.name)
    shutil.rmtree(next(iter(parts)).parent)
    written = lake.read(datasets.EMAIL, params.day, ["user_id", "release_id"])
    return {
        "users": len(users),
        "skipped": len(skipped),
        "skipped_ids": skipped[:NAMED],
        "without_items": len(users) - pc.count_distinct(written["user_id"]).as_py(),
        "rows": len(written),
        "releases": sorted(pc.unique(written["release_id"]).to_pylist()),
        "asked": counts["asked"],
        "kept": len(users) - counts["asked"],
        "degraded": counts["degraded"],
        "shrunk": counts["shrunk"],
        "retries": counts["retries"],
        "users_per_second": round(counts["asked"] / seconds, 1),
    }


def _active_users(lake: Lake, day: date, days: int) -> list[str]:
    """Sorted, so that a run that is tried again asks in the same parts."""
    published = [d for d in lake.days(datasets.EVENTS, day) if d > day - timedelta(days=days)]
    if not published:
        raise BadData(f"no events published in the {days} days up to {day}; run ingest and quality")
    return sorted(set().union(*(active(lake.read(datasets.EVENTS, d, ["user_id", "event"])) for d in published)))


def _parts(params: Params, settings: Settings, users: Sequence[str]) -> dict[Path, tuple[str, ...]]:
    """The file of each part and its users; at least one, which may be empty. Another question has other files."""
    question = json.dumps([params.model_dump(mode="json", include={"day", "count"}), users])
    digest = hashlib.sha256(question.encode()).hexdigest()[:16]
    folder = datasets.run_folder(settings, params.run) / "email" / digest
    batches = [tuple(users[first : first + PART]) for first in range(0, max(1, len(users)), PART)]
    return {folder / f"part-{number:05}.parquet": batch for number, batch in enumerate(batches)}


async def _ask(parts: dict[Path, tuple[str, ...]], params: Params, settings: Settings) -> Counter[str]:
    """Write the parts that are not there yet, and count what happened."""
    counts: Counter[str] = Counter()
    query = {"surface": SURFACE, "count": params.count}
    async with Caller(settings, query, Pace(params.in_flight)) as caller:
        for path, users in _shown(parts):
            if path.exists():
                continue
            pages = await caller.pages(users)
            _write(path, rows(users, pages))
            counts["asked"] += len(users)
            counts["degraded"] += sum(page["degraded"] for page in pages)
            counts["shrunk"] += sum(page["quality"] < 1 for page in pages)
        counts["retries"] = caller.retries
    return counts


def _shown(parts: dict[Path, tuple[str, ...]]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The parts one by one, with a bar on a terminal and a line each in a log."""
    console = Console(stderr=True)
    total, done = sum(map(len, parts.values())), 0
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("users", total=total)
        for path, users in parts.items():
            yield path, users
            done += len(users)
            bar.update(task, completed=done)
            if not console.is_terminal:
                log.info("%d of %d users", done, total)


def _write(path: Path, table: pa.Table) -> None:
    """In one step: a part that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_suffix(".tmp")
    pyarrow.parquet.write_table(table, work, compression="zstd")
    work.replace(path)
