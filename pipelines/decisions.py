"""The decision log as a table: one row per shown item, with everything that evaluation needs beside it.

The API logs every response on the bus (topic `decisions`), where it stays for some days; here it becomes a dataset that
is kept. A run publishes the day so far, the day before, whose last responses may have been on their way at midnight,
and all days since the last one that was published: so the next run reads what others have missed.
What a partition holds already stays in it, so a run neither loses what has left the bus nor counts a response twice.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import datasets, stage
from pipelines.datasets import Lake
from recsys import bus
from recsys.settings import Settings

TOPIC = "decisions"
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("user_id", pa.string()),  # "" for an anonymous visitor
        ("session_id", pa.string()),
        ("surface", pa.string()),
        ("region", pa.string()),  # of the request
        ("release_id", pa.string()),
        ("rung", pa.string()),
        (
            "experiments",
            pa.list_(pa.struct([("experiment", pa.string()), ("variant", pa.string())])),
        ),  # met, not missed
        ("position", pa.int32()),  # over all pages, from 0
        ("item_id", pa.string()),
        ("score", pa.float64()),
        ("sources", pa.list_(pa.string())),
        ("reason", pa.string()),
        ("propensity", pa.float64()),  # that its place shows it, given the places before
        ("policy", pa.string()),  # that explored with it; "" where the order placed it
        ("policy_version", pa.string()),
        ("policy_edition", pa.string()),
    ]
)
KEY = ("request_id", "position")
log = logging.getLogger(__name__)


class Params(stage.Params):
    pass


def main(params: Params, settings: Settings) -> stage.Result:
    lake, root = datasets.lake(settings), Path(settings.storage.root)
    kept = lake.days(datasets.DECISIONS, params.day)
    first = min(kept[-1], params.day - timedelta(days=1)) if kept else date.min
    found: dict[date, list[dict[str, Any]]] = defaultdict(list)
    refused: Counter[str] = Counter()
    for line in _lines(root, first):
        try:
            day, rows = flattened(line)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            refused[type(error).__name__] += 1
            continue
        if first <= day <= params.day:
            found[day].extend(rows)
    if refused:
        log.warning("%d lines are no decisions: %s", refused.total(), dict(refused))
    written = {str(day): publish(lake, day, rows) for day, rows in sorted(found.items())}
    return {"written": written, "refused": refused.total()}


def flattened(line: Mapping[str, Any]) -> tuple[date, list[dict[str, Any]]]:
    """The rows of one logged response, and the day they belong to. Raises KeyError and the like for anything else."""
    moment, ask = datetime.fromtimestamp(line["time"], UTC), line["ask"]
    common = {
        "request_id": line["request_id"],
        "time": moment,
        **{name: ask[name] for name in ("user_id", "session_id", "surface", "region")},
        **{name: line[name] for name in ("release_id", "rung")},
        "experiments": [
            {"experiment": met["experiment"], "variant": met["variant"]}
            for met in line["experiments"]
            if not met["missed"]
        ],
    }
    columns = ("position", "item_id", "score", "sources", "reason", "propensity")
    rows = [common | {name: item[name] for name in columns} | _policy(item["explored_by"]) for item in line["items"]]
    return moment.date(), rows


def publish(lake: Lake, day: date, rows: Iterable[Mapping[str, Any]]) -> int:
    """Add rows to a day's partition, each shown item once; returns how many it holds."""
    held = lake.read(datasets.DECISIONS, day) if lake.path(datasets.DECISIONS, day).exists() else SCHEMA.empty_table()
    fresh = pa.Table.from_pylist(list(rows), SCHEMA)
    every = pa.concat_tables([held.select(SCHEMA.names).cast(SCHEMA), fresh])
    numbered = every.select(KEY).append_column("row", pa.array(range(every.num_rows), pa.int64()))
    first = numbered.group_by(KEY, use_threads=False).aggregate([("row", "min")]).column("row_min")
    table = every.take(first.combine_chunks().sort())
    lake.write(datasets.DECISIONS, day, table.sort_by([("time", "ascending"), *((name, "ascending") for name in KEY)]))
    return int(table.num_rows)


def _lines(root: Path, first: date) -> Iterator[dict[str, Any]]:
    """What closed segments hold that were still written to on a day or after it."""
    for segment in bus.closed(root, TOPIC):
        if datetime.fromtimestamp(segment.stat().st_mtime, UTC).date() >= first:
            yield from bus.read(segment)


def _policy(explored_by: Mapping[str, str]) -> dict[str, str]:
    names = {"policy": "name", "policy_version": "version", "policy_edition": "edition"}
    return {column: explored_by.get(name, "") for column, name in names.items()}
