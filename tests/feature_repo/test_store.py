"""The feature store on a real Redis: what readers on the request path rely on."""

import time
from datetime import UTC, datetime

import pandas as pd
import pytest
from feast.types import Array, Float32, Int64, String

from feature_repo import definitions, store
from recsys.errors import Permanent, Retryable
from recsys.settings import Services, Settings

WHEN = datetime(2026, 3, 1, tzinfo=UTC)


def at(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"services": Services(redis_url=url)})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:7000/3", "127.0.0.1:7000,db=3"),
        ("rediss://shop:p%40ss@cache", 'cache:6379,db=0,ssl=true,username="shop",password="p@ss"'),
    ],
)
def test_a_redis_url_in_feasts_notation(url: str, expected: str) -> None:
    timeouts = ",socket_timeout=0.5,socket_connect_timeout=0.5,retry=null"
    base, _, rest = expected.partition(",db=")
    database, _, extra = rest.partition(",")
    assert store.connection_string(url, 0.5) == f"{base},db={database}{timeouts}" + (f",{extra}" if extra else "")


@pytest.mark.parametrize("url", ["http://cache:6379", "redis://", "redis://:a%2Cb@cache"])
def test_a_redis_url_that_feast_cannot_express_is_refused(url: str) -> None:
    with pytest.raises(Permanent):
        store.connection_string(url, 0.5)


@pytest.mark.services
def test_known_and_unknown_users_come_from_one_read(online_settings: Settings) -> None:
    feast = store.connect(online_settings)
    row = {"user_id": ["ann"], "event_timestamp": [WHEN]}
    profile = {"region": ["DE"], "age_group": [None], "language": ["de"], "signup_time": [7], "preferences": [[]]}
    history = {"history_items": [["mug", "cup"]], "history_events": [["view", "purchase"]], "history_times": [[1, 2]]}
    feast.write_to_online_store("user_profile", pd.DataFrame(row | profile))
    feast.write_to_online_store("user_history", pd.DataFrame(row | history))
    found = store.read_online(feast, "ranking_v1", "user_id", ["ann", "nobody"])
    assert found["region"] == ["DE", None]
    assert found["age_group"] == [None, None]
    assert found["history_items"] == [["mug", "cup"], []]
    assert found["history_times"] == [[1, 2], []]
    assert found["preferences"] == [[], []]
    assert found["categories"] == [[], []]
    assert found["spend_30d"] == [None, None]
    assert store.online_session(feast, "s1") == {name: [] for name in history}


@pytest.mark.services
@pytest.mark.parametrize("service", ["retrieval_v1", "ranking_v1"])
def test_one_user_is_read_as_one_of_many(online_settings: Settings, service: str) -> None:
    """Ann has a value for everything, bob a profile of nulls, and the others nothing."""
    feast = store.connect(online_settings)
    sample = {Array(String): ["ü", ""], Array(Int64): [3, -1], Array(Float32): [0.1, 2.0]}
    sample |= {String: "DE", Int64: 7, Float32: 0.1}
    for view in ("user_profile", "user_history", "user_activity", "user_categories"):
        values = {field.name: [sample[field.dtype], None] for field in definitions.SCHEMAS[view]}
        row = {"user_id": ["ann", "bob"], "event_timestamp": [WHEN, WHEN]}
        feast.write_to_online_store(view, pd.DataFrame(row | values).head(2 if view == "user_profile" else 1))
    for user_id in ("ann", "bob", "nobody", ""):
        many = store.read_online(feast, service, "user_id", [user_id])
        one = store.online_user(feast, user_id, service)
        assert one == {name: value for name, [value] in many.items()}
        assert {name: type(value) for name, value in one.items()} == {n: type(value) for n, [value] in many.items()}


@pytest.mark.services
def test_the_registry_is_made_once_and_follows_the_definitions(online_settings: Settings) -> None:
    first = store.connect(online_settings)
    assert {view.name for view in first.list_feature_views()} == set(definitions.SCHEMAS)
    again = store.apply(online_settings)
    assert {service.name for service in again.list_feature_services()} == {
        "retrieval_v1",
        "ranking_v1",
        "session_v1",
        "items_v1",
    }


def test_a_missing_redis_is_retryable_within_a_second(settings: Settings) -> None:
    feast = store.connect(settings)
    started = time.monotonic()
    with pytest.raises(Retryable, match="is Redis up"):
        store.online_user(feast, "ann")
    assert time.monotonic() - started < 1


def test_a_redis_that_hangs_is_given_up(settings: Settings, hanging_url: str) -> None:
    feast = store.connect(at(settings, hanging_url))
    started = time.monotonic()
    with pytest.raises(Retryable):
        store.online_user(feast, "ann")
    assert time.monotonic() - started < 1.5
