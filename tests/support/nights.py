"""Nights of a shop: ingest and the quality gate as the daily DAG runs them, and what the lake has afterwards."""

import itertools
from datetime import date
from typing import Any

import pyarrow as pa

from pipelines import datasets, ingest, published, quality
from recsys.errors import NothingToDo
from recsys.settings import Settings

_RUNS = itertools.count()


def night(settings: Settings, source: str, day: date, **options: Any) -> dict[str, Any] | None:
    """One night; the result of the gate, or None where there was nothing to do."""
    run = f"{day:%Y%m%d}-{next(_RUNS)}"
    try:
        ingest.main(ingest.Params(day=day, run=run, source=source), settings)
        return quality.main(quality.Params(day=day, run=run, **options), settings)
    except NothingToDo:
        return None


def intraday(settings: Settings, day: date) -> dict[str, Any] | None:
    """One half hour, as the intraday DAG runs it."""
    return night(settings, "bus", day, min_volume=0)


def rows(settings: Settings) -> dict[date, pa.Table]:
    """The published events of each day, by id, but for when they were received, which a file does not say."""
    lake = datasets.lake(settings)
    tables = {day: lake.read(datasets.EVENTS, day) for day in lake.days(datasets.EVENTS)}
    return {day: table.drop_columns("ingested_at").sort_by("event_id") for day, table in tables.items()}


def counts(settings: Settings) -> dict[date, int]:
    return {day: table.num_rows for day, table in rows(settings).items()}


def not_whole(settings: Settings) -> list[date]:
    return [day for day, note in published.read(datasets.lake(settings)).items() if not note.whole]
