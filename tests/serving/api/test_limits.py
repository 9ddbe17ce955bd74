"""How often a client may ask: the rule itself, its answers, and that it never takes the service down."""

import asyncio
import json
import math
import socket
import time
from typing import Any

import httpx
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from feature_repo import online
from recsys.errors import Permanent
from recsys.settings import Settings
from serving.api import auth
from serving.api.limits import SCRIPT, Limits
from serving.api.metrics import Metrics
from serving.api.problems import Problem

pytestmark = pytest.mark.services


@pytest.fixture
def limited(world: Any) -> Any:
    """The key "slow" may ask twice a second, ten times at once."""
    entry = {"name": "slow", "sha256": auth.digest("slow"), "scopes": sorted(auth.SCOPES), "rate": 2}
    world.app.state.keys = _keys(world.settings, entry)
    return world


def _keys(settings: Settings, entry: dict[str, Any]) -> auth.Keys:
    auth.write_private(auth.keys_file(settings), json.dumps({"keys": [entry]}))
    return auth.Keys(settings)


async def ask(world: Any, key: str = "slow") -> httpx.Response:
    return await world.get(count=1, headers={"X-API-Key": key})


async def test_after_the_burst_a_client_is_told_when_to_come_again(limited: Any) -> None:
    answers = [await ask(limited) for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 10  # five seconds' worth
    assert answers[0].headers["RateLimit-Policy"] == '"default";q=10;w=5'
    assert answers[0].headers["RateLimit"] == '"default";r=9;t=1'
    # The requests themselves take time, in which the quota grows again.
    refused = next(a for a in [await ask(limited) for _ in range(10)] if a.status_code == 429)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["RateLimit"] == '"default";r=0;t=5'
    assert refused.json()["detail"] == "at most 2 requests a second, 10 at once; come again after 1 s"


async def test_the_local_key_has_no_limit_and_costs_no_round_trip(world: Any) -> None:
    assert "RateLimit" not in (await world.get(count=1)).headers
    with redis.Redis.from_url(world.settings.redis_url) as store:
        assert store.keys("limit:*") == []


@pytest.mark.parametrize("rate", [-1, "many", float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused_at_start(settings: Settings, rate: Any) -> None:
    entry = {"name": "a", "sha256": auth.digest("a"), "scopes": [], "rate": rate}
    with pytest.raises(Permanent, match=r"rate of|float"):
        _keys(settings, entry)


@bounds(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(interval=st.integers(100_000, 10_000_000), burst=st.integers(1, 20), asked=st.integers(1, 40))
def test_at_once_exactly_the_burst_passes(redis_url: str, interval: int, burst: int, asked: int) -> None:
    with online.connect(redis_url) as store:
        store.delete("limit:one")
        started = time.monotonic()
        answers = [store.eval(SCRIPT, 1, "limit:one", interval, burst * interval) for _ in range(asked)]
        grown = math.ceil((time.monotonic() - started) * 1_000_000 / interval)
    passed = sum(wait == 0 for wait, _ in answers)
    assert min(burst, asked) <= passed <= min(asked, burst + grown)
    assert all(0 <= wait <= interval and whole <= burst * interval for wait, whole in answers)


async def test_the_quota_grows_again_and_clients_are_counted_apart(redis_url: str) -> None:
    store = online.connect_async(redis_url)
    limits = Limits(store, burst_seconds=0.05, metrics=Metrics())
    await store.delete("limit:key:a", "limit:key:b")
    await limits.take("key:a", 20)
    with pytest.raises(Problem):
        await limits.take("key:a", 20)
    await limits.take("key:b", 20)
    await asyncio.sleep(0.06)
    await limits.take("key:a", 20)
    assert 0 < await store.pttl("limit:key:a") <= 50  # and leaves nothing behind
    await store.aclose()


@pytest.mark.parametrize("port_is", ["closed", "silent"])
async def test_without_redis_requests_pass_are_counted_and_soon_do_not_wait(settings: Settings, port_is: str) -> None:
    with socket.create_server(("127.0.0.1", settings.network.redis)) as silent:  # takes connections, and never answers
        if port_is == "closed":
            silent.close()
        await _pass_without_redis(settings, port_is)


async def _pass_without_redis(settings: Settings, port_is: str) -> None:
    metrics, store = Metrics(), online.connect_async(settings.redis_url)
    limits = Limits(store, burst_seconds=1, metrics=metrics)
    started = time.perf_counter()
    assert [await limits.take("key:a", 1) for _ in range(50)] == [{}] * 50
    assert time.perf_counter() - started < 0.5  # five deadlines of 20 ms, then the breaker is open
    counted = {
        sample.labels["why"]: sample.value
        for metric in metrics.falls.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["stage"] == "limit"
    }
    assert counted == {"down" if port_is == "closed" else "late": 5, "open": 45}
    await store.aclose()
