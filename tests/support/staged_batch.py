"""A staged batch of one day for the quality gate: good rows that a test spoils, and what became of them."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from feature_repo import events as schema
from pipelines import datasets, intake, quality, stage
from pipelines.batch import Batch
from pipelines.datasets import RunId
from pipelines.sources.clock import OLDEST
from recsys.settings import Settings

DAY = date(2026, 3, 10)
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
RUN = RunId("r1")
Row = dict[str, Any]


def event(number: int, **columns: Any) -> Row:
    """A good event of the day; `columns` spoil it."""
    return {
        "event_id": f"e{number:04}",
        "user_id": "ann",
        "session_id": "s1",
        "item_id": "mug",
        "event": "purchase",
        "value": 9.5,
        "quantity": 1,
        "position": 0,
        "region": "DE",
        "event_time": NOON + timedelta(seconds=number),
        "ingested_at": NOON + timedelta(hours=1),
    } | columns


def item(name: str, **columns: Any) -> Row:
    return {
        "item_id": name,
        "title": f"A {name}",
        "category": "Home > Mugs",
        "price": 9.5,
        "created_at": datetime(2025, 1, 1, tzinfo=UTC),
        "available": True,
    } | columns


def user(name: str, **columns: Any) -> Row:
    return {"user_id": name, "region": "DE", "age_group": "25-34"} | columns


GOOD = [event(number) for number in range(40)]
ITEMS = [item("mug"), item("cup")]
USERS = [user("ann")]


def loose(table: schema.Table) -> pa.Schema:
    """The schema without NOT NULL: a source may break it."""
    return pa.schema([field.with_nullable(True) for field in table.arrow()])


def stage_batch(
    settings: Settings,
    events: Sequence[Row] | pa.Table = GOOD,
    items: Sequence[Row] = ITEMS,
    users: Sequence[Row] = USERS,
    strays: Sequence[Row] = (),
    whole: bool = True,
    **facts: Any,
) -> None:
    """Leave the staged tables and the facts that ingest would; days of good times are the batch."""
    lake = datasets.lake(settings)
    for table, rows in ((schema.EVENTS, events), (schema.ITEMS, items), (schema.USERS, users)):
        staged = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=loose(table))
        lake.write(datasets.STAGED[table.name], RUN, staged)
    lake.write(datasets.STAGED_STRAYS, RUN, pa.Table.from_pylist(list(strays), intake.STRAYS))
    times = lake.read(datasets.STAGED_EVENTS, RUN, ["event_time"])["event_time"].drop_null()
    days = {time.date(): f"{time.date()}" for time in times.to_pylist() if OLDEST <= time.date() <= DAY} or {DAY: "0:0"}
    facts = {"made_of": days} | facts
    Batch(**{"whole": tuple(facts["made_of"]) if whole else ()} | facts).write(settings, RUN)
    told = {"source": "test", "fingerprint": "f", "since_asked": None}
    (datasets.run_folder(settings, RUN) / "ingest.json").write_text(json.dumps(told))


def run(settings: Settings, **options: Any) -> stage.Result:
    return quality.main(quality.Params(day=DAY, run=RUN, **options), settings)


def quarantined(settings: Settings, name: str) -> dict[str, str]:
    """Key → reason of the rows in quarantine."""
    rows = datasets.lake(settings).read(datasets.QUARANTINE[name], RUN)
    return dict(zip(rows[schema.TABLES[name].key].to_pylist(), rows["reason"].to_pylist(), strict=True))
