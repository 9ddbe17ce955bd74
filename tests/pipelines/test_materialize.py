"""What the offline tables say is what the online store answers, on a real Redis."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from feature_repo import definitions, events, names, online, shoppers, store
from pipelines import datasets, materialize
from pipelines.datasets import Lake, RunId
from recsys.errors import Exit, Retryable
from recsys.settings import Settings

DAY = date(2026, 3, 10)
AS_OF = datasets.end_of(DAY)
pytestmark = pytest.mark.services


@pytest.fixture
def lake(online_settings: Settings) -> Lake:
    return datasets.lake(online_settings)


def run(settings: Settings, *views: materialize.Group, day: date = DAY) -> dict[str, int]:
    params = materialize.Params(day=day, run=RunId("r1"), views=list(views))
    written: dict[str, int] = materialize.main(params, settings)["written"]
    return written


def read(settings: Settings, *users: str, now: float = AS_OF.timestamp()) -> dict[str, shoppers.Shopper]:
    """What the API will know of each user."""

    async def ask() -> dict[str, shoppers.Shopper]:
        async with online.connect_async(settings.redis_url) as client:
            return {user: await shoppers.read(client, user, "", now) for user in users}

    return asyncio.run(ask())


def history(lake: Lake, day: date, rows: Mapping[str, Sequence[str]]) -> None:
    """A partition of user_history: per user the items of its history, one viewed each second."""
    count = len(rows)
    table = {
        "user_id": list(rows),
        "event_timestamp": pa.array([datasets.end_of(day)] * count, pa.timestamp("us", tz="UTC")),
        "history_items": pa.array(list(rows.values()), pa.list_(pa.string())),
        "history_events": pa.array([["view"] * len(items) for items in rows.values()], pa.list_(pa.string())),
        "history_times": pa.array([list(range(len(items))) for items in rows.values()], pa.list_(pa.int64())),
    }
    lake.write(datasets.feature_view("user_history"), day, pa.table(table))


def activity(lake: Lake, day: date, users: Sequence[str], spend: float) -> None:
    table: dict[str, Any] = {
        "user_id": list(users),
        "event_timestamp": pa.array([datasets.end_of(day)] * len(users), pa.timestamp("us", tz="UTC")),
    }
    for field in definitions.SCHEMAS["user_activity"]:
        kind = pa.float32() if field.name in names.USER_ACTIVITY else pa.int64()
        table[field.name] = pa.array([3.25 if kind == pa.float32() else 7] * len(users), kind)
    table["spend_30d"] = pa.array([spend] * len(users), pa.float32())
    lake.write(datasets.feature_view("user_activity"), day, pa.table(table))


def without_rows(lake: Lake, *views: str) -> None:
    """Empty partitions, such as `features` writes for a view on which nothing happened."""
    for view in views:
        fields = [(field.name, pa.null()) for field in definitions.SCHEMAS[view]]
        stamp = ("event_timestamp", pa.timestamp("us", tz="UTC"))
        schema = pa.schema([(names.ENTITY_OF_VIEW[view], pa.string()), stamp, *fields])
        lake.write(datasets.feature_view(view), DAY, schema.empty_table())


def purchases(lake: Lake, rows: Sequence[tuple[str | None, str, str, datetime]]) -> None:
    """Partitions of events: user, item, event type, time."""
    by_day: dict[date, list[dict[str, Any]]] = {}
    for number, (user, item, kind, when) in enumerate(rows):
        row = dict.fromkeys(events.EVENTS.names) | {"event_id": f"e{number}", "session_id": "s", "user_id": user}
        by_day.setdefault(when.date(), []).append(row | {"item_id": item, "event": kind, "event_time": when})
    for day, found in by_day.items():
        lake.write(datasets.EVENTS, day, pa.Table.from_pylist(found, events.EVENTS.arrow()))


def ranked(lake: Lake, rows: Sequence[tuple[str, str, int, str, float]]) -> None:
    columns = ("scope", "key", "rank", "item_id", "score")
    lake.write(datasets.TRENDING, DAY, pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))))
    together = {"item_id": ["mug"], "kind": ["bought"], "rank": [1], "other_id": ["cup"], "lift": [2.0], "support": [9]}
    lake.write(datasets.COVISITATION, DAY, pa.table(together))


def test_a_point_in_time_join_and_the_online_store_agree(online_settings: Settings, lake: Lake) -> None:
    history(lake, DAY - timedelta(days=3), {"ann": ["mug"], "bob": ["pot", "pan"]})
    history(lake, DAY, {"ann": ["mug", "cup", "mug"], "cid": []})
    activity(lake, DAY - timedelta(days=3), ["ann", "bob"], 1.5)
    activity(lake, DAY, ["ann"], 2.5)
    without_rows(lake, "user_profile", "user_categories")
    assert run(online_settings, "features") == {
        "user_profile": 0,
        "user_history": 3,
        "user_activity": 2,
        "user_categories": 0,
        "watched": 0,
    }
    known = read(online_settings, "ann", "nobody")
    assert known["ann"].profile == shoppers.Profile(items=("cup", "mug"), events=3)
    assert known["nobody"] == shoppers.Shopper()
    feast = store.connect(online_settings)
    users = ["ann", "bob", "cid", "nobody"]
    when = pd.Timestamp(AS_OF) + pd.Timedelta(hours=5)
    asked = pd.DataFrame({"user_id": users, "event_timestamp": [when] * len(users)})
    offline = store.historical(feast, "ranking_v1", "user_id", asked)
    online_values = store.read_online(feast, "ranking_v1", "user_id", users)
    for name, values in online_values.items():
        assert offline[name] == values, name
    assert online_values["history_items"] == [["mug", "cup", "mug"], ["pot", "pan"], [], []]
    assert online_values["spend_30d"] == [2.5, 1.5, None, None]


def test_a_join_into_the_past_sees_nothing_of_the_day_itself(online_settings: Settings, lake: Lake) -> None:
    history(lake, DAY - timedelta(days=1), {"ann": ["mug"]})
    history(lake, DAY, {"ann": ["mug", "cup"]})
    without_rows(lake, "user_profile", "user_categories")
    feast = store.apply(online_settings)
    moments = [AS_OF - timedelta(days=1, seconds=1), AS_OF - timedelta(seconds=1), AS_OF, AS_OF]
    asked = pd.DataFrame({"user_id": ["ann"] * 4, "event_timestamp": moments}, index=[7, 5, 3, 3])
    found = store.historical(feast, "retrieval_v1", "user_id", asked)
    assert found["history_items"] == [[], ["mug"], ["mug", "cup"], ["mug", "cup"]]


def test_a_rerun_wins_over_its_first_try_and_an_old_day_over_nobody(online_settings: Settings, lake: Lake) -> None:
    feast = store.connect(online_settings)
    for items in (["wrong"], ["right"]):
        history(lake, DAY, {"ann": items})
        run(online_settings, "features")
        assert store.online_user(feast, "ann")["history_items"] == items
    yesterday = DAY - timedelta(days=1)
    history(lake, yesterday, {"ann": ["old"], "bob": ["pot"]})
    run(online_settings, "features", day=yesterday)
    assert store.online_user(feast, "ann")["history_items"] == ["right"]
    assert store.online_user(feast, "bob")["history_items"] == ["pot"]


def test_a_backfill_leaves_what_the_api_knows_alone(online_settings: Settings, lake: Lake) -> None:
    history(lake, DAY, {"ann": ["mug"]})
    history(lake, DAY - timedelta(days=1), {"ann": ["pot"], "bob": ["pan"]})
    run(online_settings, "features")
    run(online_settings, "features", day=DAY - timedelta(days=1))
    known = read(online_settings, "ann", "bob")
    assert (known["ann"].profile.items, known["bob"].profile.items) == (("mug",), ("pan",))


def test_watched_sets_hold_what_known_users_acted_on_lately(online_settings: Settings, lake: Lake) -> None:
    hour = timedelta(hours=1)
    purchases(
        lake,
        [
            ("ann", "mug", "purchase", AS_OF - hour),
            ("ann", "mug", "view", AS_OF - 3 * hour),
            ("ann", "cup", "impression", AS_OF - hour),
            ("ann", "pan", "skip", AS_OF - hour),
            ("ann", "pot", "click", AS_OF - timedelta(days=30) + hour),
            ("ann", "jar", "click", AS_OF - timedelta(days=31)),
            (None, "mug", "view", AS_OF - hour),
        ],
    )
    assert run(online_settings, "features")["watched"] == 1
    with online.connect(online_settings.redis_url) as client:
        now = AS_OF.timestamp()
        assert read(online_settings, "ann", now=now)["ann"].watched == {"mug", "pot"}
        assert read(online_settings, "ann", now=now + 2 * 3600)["ann"].watched == {"mug"}
        assert client.zscore(online.watched_key("ann"), "mug") == now - 3600
        assert client.ttl(online.watched_key("ann")) == pytest.approx(30 * 86_400 - 3600, abs=10)


def test_trending_lists_arrive_in_order_and_leave_when_they_die(online_settings: Settings, lake: Lake) -> None:
    ranked(lake, [("global", "", 2, "cup", 1.0), ("global", "", 1, "mug", 4.0), ("category", "Toys", 1, "car", 3.0)])
    assert run(online_settings, "trending") == {"trending": 2, "covisitation": 1}
    everything, toys = online.trending_key("global"), online.trending_key("category", "Toys")
    also = online.covisit_key("bought", "mug")
    with online.connect(online_settings.redis_url) as client:
        found = [online.decode(value) for value in client.mget([everything, toys, also])]
        assert found == [[("mug", 4.0), ("cup", 1.0)], [("car", 3.0)], [("cup", 2.0)]]
        ranked(lake, [("global", "", 1, "cup", 1.0)])
        run(online_settings, "trending")
        found = [online.decode(value) for value in client.mget([everything, toys])]
        assert found == [[("cup", 1.0)], []]
        mark = online.freshness(client, "trending")
    assert mark is not None
    assert (mark.day, mark.run, mark.as_of, mark.count) == ("2026-03-10", "r1", AS_OF.timestamp(), 2)


def test_embeddings_are_written_when_a_deploy_left_some(online_settings: Settings, lake: Lake) -> None:
    assert run(online_settings, "embeddings") == {}
    row = {
        "user_id": ["ann"],
        "event_timestamp": pa.array([AS_OF], pa.timestamp("us", tz="UTC")),
        "embedding": pa.array([[0.6, 0.8]], pa.list_(pa.float32())),
        "embedding_version": ["v1"],
    }
    lake.write(datasets.feature_view("user_embedding"), DAY, pa.table(row))
    assert run(online_settings, "embeddings") == {"user_embedding": 1}
    feast = store.connect(online_settings)
    found = feast.get_online_features(["user_embedding:embedding"], [{"user_id": "ann"}]).to_dict()
    assert found["embedding"][0] == pytest.approx([0.6, 0.8])


def test_a_missing_redis_may_be_tried_again(settings: Settings) -> None:
    with pytest.raises(Retryable) as error:
        run(settings, "features", day=datetime(2026, 3, 10, tzinfo=UTC).date())
    assert error.value.exit_code is Exit.RETRY
