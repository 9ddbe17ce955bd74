"""Bring a day's feature views, ranked lists and watched sets to the online store.

Of every view the newest row per entity goes to Redis through `FeatureStore.write_to_online_store`; Feast's own
`materialize` would read and sort the whole history of a view with dask for the same rows. Feast keeps whatever is
newer in Redis, so that neither a backfill of an old day nor the nightly run overwrites what the stream wrote since.
It also keeps what is as old; a re-run with corrected data must win all the same, so each write stamps its rows some
microseconds later than the write before it.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from itertools import groupby
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore
from pydantic import Field

from feature_repo import definitions, events, names, online, shoppers, store
from pipelines import datasets, stage
from pipelines.datasets import Dataset, Lake
from recsys.settings import Settings

log = logging.getLogger(__name__)

Group = Literal["features", "embeddings", "trending"]
VIEWS: dict[Group, tuple[str, ...]] = {
    "features": names.DATA_VIEWS,
    "embeddings": names.EMBEDDING_VIEWS,
    "trending": (),
}
BLOCK = 2_000  # rows per call of Feast: its protobuf values cost about 20 KB a row with full histories
WATCHED_DAYS = 30
EDITIONS = 1_000_000  # microseconds to a second; the stamps of a view's rows are whole seconds


class Params(stage.Params):
    views: list[Group] = Field(
        ["features", "trending"],
        description="what to bring: features (views and watched sets), trending (lists), embeddings (after a deploy)",
    )


def main(params: Params, settings: Settings) -> stage.Result:
    lake = datasets.lake(settings)
    client = online.connect(settings.redis_url, online.WRITE_TIMEOUT)
    with online.reachable():
        client.ping()  # before the imports and scans that an absent Redis would waste
    counts: dict[str, int] = {}
    for group in params.views:
        written = _write(group, lake, client, settings, params.day)
        mark = online.Freshness(
            str(params.day),
            params.run,
            datasets.end_of(params.day).timestamp(),
            time.time(),
            sum(written.values()),
        )
        online.mark_fresh(client, group, mark)
        log.info("%s: %s", group, written)
        counts |= written
    return {"written": counts, "day": str(params.day)}


def _write(group: Group, lake: Lake, client: online.Client, settings: Settings, day: date) -> dict[str, int]:
    if group == "trending":
        return write_lists(lake, client, day)
    feast = store.apply(settings, online.WRITE_TIMEOUT)
    written = write_views(feast, lake, client, group, day)
    if group == "features":
        as_of = datasets.end_of(day).timestamp()
        written["watched"] = online.add_watched(client, watched(lake, day), as_of)
    return written


def write_views(feast: FeatureStore, lake: Lake, client: online.Client, group: Group, day: date) -> dict[str, int]:
    """Write the newest rows of a group's views as of the end of a day, and what the API keeps of them.

    Only partitions since the day that Redis already shows are read; all of them when it shows none. A backfill of a
    day before that leaves profiles alone, which know no time.
    """
    mark = online.freshness(client, group)
    since = date.fromisoformat(mark.day) if mark else date.min
    edition = online.next_edition(client) % EDITIONS
    written: dict[str, int] = {}
    for view in VIEWS[group]:
        days = [d for d in lake.days(datasets.feature_view(view), until=day) if d >= min(since, day)]
        if days:
            rows = newest_rows(lake, view, days)
            _push(feast, view, rows, edition)
            written[view] = rows.num_rows
            if since <= day:
                shoppers.write_profiles(client, profiles(view, rows))
            log.info("%s: %d rows", view, rows.num_rows)
    return written


def profiles(view: str, rows: pa.Table) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the API has to know of each user, of the rows of one view; nothing of a view that it needs nothing of."""
    columns, made = PROFILE.get(view, ((), dict))
    if columns:
        for user_id, *values in zip(*(rows.column(name).to_pylist() for name in ("user_id", *columns)), strict=True):
            yield user_id, made(*values)


def _history(items: list[str] | None) -> dict[str, Any]:
    newest = list(dict.fromkeys(reversed(items or [])))[: shoppers.RECENT]
    return {"items": newest[::-1]}


PROFILE: Mapping[str, tuple[tuple[str, ...], Callable[..., dict[str, Any]]]] = {
    "user_profile": (
        ("region", "age_group", "preferences"),
        lambda region, age, stated: {"region": region or "", "age_group": age or "", "preferences": stated or []},
    ),
    "user_categories": (("top_categories",), lambda names: {"favourites": names or []}),
    "user_history": (("history_items",), _history),
    "user_activity": (("events_total",), lambda events: {"events": int(events or 0)}),
}


def newest_rows(lake: Lake, view: str, days: list[date]) -> pa.Table:
    """The newest row of every entity among some partitions of a view."""
    key = names.ENTITY_OF_VIEW[view]
    columns = [key, "event_timestamp", *(field.name for field in definitions.SCHEMAS[view])]
    table = lake.read_days(datasets.feature_view(view), days, columns)
    order = pc.sort_indices(table, sort_keys=[(key, "ascending"), ("event_timestamp", "descending")])
    ids = table.column(key).take(order).combine_chunks()
    first = pa.concat_arrays([pa.array([True] * min(len(ids), 1), pa.bool_()), pc.not_equal(ids[1:], ids[:-1])])
    return table.take(order.filter(first))


def _push(feast: FeatureStore, view: str, rows: pa.Table, edition: int) -> None:
    for start in range(0, rows.num_rows, BLOCK):
        frame = rows.slice(start, BLOCK).to_pandas()
        frame["event_timestamp"] += pd.Timedelta(microseconds=edition)
        with online.reachable():
            feast.write_to_online_store(view, frame)


def watched(lake: Lake, day: date) -> Iterator[tuple[str, dict[str, float]]]:
    """Per known user, the items of its positive events in the last 30 days and the epoch seconds of the last one."""
    days = lake.days(datasets.EVENTS, until=day)
    days = [d for d in days if d > day - timedelta(days=WATCHED_DAYS)]
    found = [_acted_on(lake, d) for d in days]
    if not found:
        return
    merged = pa.concat_tables(found).group_by(["user_id", "item_id"]).aggregate([("time", "max")])
    columns = merged.sort_by("user_id").to_pydict()
    rows = zip(columns["user_id"], columns["item_id"], columns["time_max"], strict=True)
    for user, items in groupby(rows, key=lambda row: row[0]):
        yield user, {item: seconds for _, item, seconds in items}


def _acted_on(lake: Lake, day: date) -> pa.Table:
    rows = lake.read(datasets.EVENTS, day, ["user_id", "item_id", "event", "event_time"])
    rows = rows.filter(pc.is_in(rows.column("event"), pa.array(events.POSITIVE))).drop_columns("event")
    rows = rows.filter(rows.column("user_id").is_valid())
    micros = rows.column("event_time").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).cast(pa.float64())
    rows = rows.drop_columns("event_time").append_column("time", pc.divide(micros, 1e6))
    newest = rows.group_by(["user_id", "item_id"]).aggregate([("time", "max")])
    return newest.rename_columns({"time_max": "time"})


def write_lists(lake: Lake, client: online.Client, day: date) -> dict[str, int]:
    """Write the trending and co-visitation lists of a day; lists that no longer exist leave Redis."""
    trending = _ranked(lake, datasets.TRENDING, day, ["scope", "key"], "item_id", "score")
    together = _ranked(lake, datasets.COVISITATION, day, ["kind", "item_id"], "other_id", "lift")
    return {
        "trending": online.replace_lists(
            client, "trending", ((online.trending_key(*key), ranked) for key, ranked in trending)
        ),
        "covisitation": online.replace_lists(
            client, "covisitation", ((online.covisit_key(*key), ranked) for key, ranked in together)
        ),
    }


def _ranked(
    lake: Lake, dataset: Dataset, day: date, keys: list[str], item: str, score: str
) -> Iterator[tuple[tuple[str, str], online.Ranked]]:
    """The lists of a dataset, best first, as ((key, key), [(item, score)])."""
    table = lake.read(dataset, day, [*keys, "rank", item, score])
    columns = table.sort_by([(name, "ascending") for name in (*keys, "rank")]).to_pydict()
    rows = zip(*(columns[name] for name in (*keys, item, score)), strict=True)
    for key, group in groupby(rows, key=lambda row: (row[0] or "", row[1] or "")):
        yield key, [(row[2], row[3]) for row in group]
