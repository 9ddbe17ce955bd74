"""The stage `email` against the API, served by a real server on a port."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
import uvicorn

from feature_repo import online, shoppers
from pipelines import datasets, email, pages
from pipelines.datasets import RunId
from pipelines.pages import Caller, Pace
from recsys.errors import Retryable, UsageError
from recsys.settings import Settings
from serving.api import auth, limits

pytestmark = pytest.mark.services

DAY = date(2026, 3, 10)
YESTERDAY = date(2026, 3, 9)


def publish(settings: Settings, day: date, *users: str) -> None:
    events = {"user_id": list(users), "event": ["view"] * len(users)}
    datasets.lake(settings).write(datasets.EVENTS, day, pa.table(events))


def made(settings: Settings, day: date = DAY) -> list[dict[str, Any]]:
    return datasets.lake(settings).read(datasets.EMAIL, day).to_pylist()


async def run(settings: Settings, run: str = "r", day: date = DAY, **options: Any) -> dict[str, Any]:
    params = email.Params(day=day, run=RunId(run), **options)
    return await asyncio.to_thread(email.main, params, settings)


@contextlib.asynccontextmanager
async def served(world: Any) -> AsyncIterator[None]:
    """The API of a world on its port; its parts live already."""
    settings: Settings = world.settings
    config = uvicorn.Config(world.app, settings.network.host, settings.network.api, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        await serving


async def test_every_active_user_has_the_items_of_a_page(world: Any) -> None:
    publish(world.settings, date(2026, 2, 8), "gone")  # 30 days before the day, one too many
    publish(world.settings, YESTERDAY, "ann", "bob")
    publish(world.settings, DAY, "ann", "new")
    async with served(world):
        result = await run(world.settings)
        assert {name: result[name] for name in ("users", "without_items", "rows", "asked", "kept", "degraded")} == {
            "users": 3, "without_items": 0, "rows": 30, "asked": 3, "kept": 0, "degraded": 0,
        }  # fmt: skip
        assert result["users_per_second"] > 0
        rows = made(world.settings)
        assert [row["user_id"] for row in rows] == ["ann"] * 10 + ["bob"] * 10 + ["new"] * 10
        assert [row["position"] for row in rows[:10]] == list(range(10))
        assert {row["release_id"] for row in rows} == {"r1"}
        assert len({row["request_id"] for row in rows}) == 3
        assert rows[0]["title"] == f"Thing {rows[0]['item_id'][1:]}"
        assert "i3" not in [row["item_id"] for row in rows[:10]]  # ann has it

        # A day that is run again replaces itself, from the events of then, and no other day.
        publish(world.settings, DAY, "eve")
        await run(world.settings, day=YESTERDAY, active_days=1, count=2)
        await run(world.settings, count=1, active_days=1)
        assert [(row["user_id"], row["position"]) for row in made(world.settings)] == [("eve", 0)]
        assert len(made(world.settings, YESTERDAY)) == 4
        assert list((datasets.run_folder(world.settings, RunId("r")) / "email").iterdir()) == []


async def test_nobody_active_is_an_empty_day(world: Any) -> None:
    datasets.lake(world.settings).write(
        datasets.EVENTS, DAY, pa.table({"user_id": pa.array([None], pa.string()), "event": ["view"]})
    )
    async with served(world):
        assert (await run(world.settings))["users"] == 0
    assert datasets.lake(world.settings).read(datasets.EMAIL, DAY).schema.equals(email.SCHEMA)


async def test_a_run_that_failed_goes_on_where_it_ended(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(email, "PART", 2)
    monkeypatch.setattr(pages, "PATIENCE", 0.5)
    users = [f"u{n}" for n in range(5)]
    publish(world.settings, DAY, *users)
    with online.connect(world.settings.redis_url) as store:  # retrieval is asked about those who are known
        shoppers.write_profiles(store, [(user, {"items": ["i5"], "events": 1}) for user in users])
    watcher, answer = world.app.state.parts.watcher, world.retrieval.answer
    release = watcher.current

    def loses_the_release(request: Any) -> Any:
        if request.user_id == "u2":
            watcher.current = None  # as before a first release: 503 for all who come later
        return answer(request)

    async with served(world):
        await run(world.settings, count=1)
        world.retrieval.answer = loses_the_release
        with pytest.raises(Retryable, match="answered 503: no release is live yet"):
            await run(world.settings, in_flight=1)
        assert len(made(world.settings)) == 5  # the earlier partition, whole
        watcher.current, world.retrieval.answer = release, answer
        world.retrieval.asked.clear()
        result = await run(world.settings)
        assert (result["users"], result["kept"], result["asked"]) == (5, 2, 3)
        assert {request.user_id for request in world.retrieval.asked} == {"u2", "u3", "u4"}
        assert len(made(world.settings)) == 50


async def test_an_api_that_is_away_ends_the_stage_at_once_and_says_how_to_start_it(world: Any) -> None:
    publish(world.settings, DAY, "ann")
    started = time.monotonic()
    with pytest.raises(Retryable, match=r"the API does not answer at .*; `recsys up` starts it"):
        await run(world.settings)
    assert time.monotonic() - started < 5


async def test_an_api_that_restarts_costs_a_pause(world: Any) -> None:
    pace = Pace(4)
    async with Caller(world.settings, {"surface": "email"}, pace) as caller:
        asking = asyncio.create_task(caller.pages(["ann", "bob"]))
        await asyncio.sleep(0.2)
        assert caller.retries
        async with served(world):
            found = await asking
    assert [page["surface"] for page in found] == ["email", "email"]


async def test_a_request_that_is_refused_is_not_repeated(world: Any) -> None:
    async with served(world), Caller(world.settings, {"surface": "moon"}, Pace(4)) as caller:
        with pytest.raises(UsageError, match="no surface 'moon'"):
            await caller.pages(["ann"])
        assert caller.retries == 0


async def test_too_many_requests_wait_as_long_as_the_api_says(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEADLINE", 2.0)  # a busy test machine is no reason to let a request pass
    entry = {"name": "local", "sha256": auth.digest(world.key), "scopes": sorted(auth.SCOPES), "rate": 1}
    auth.write_private(auth.keys_file(world.settings), json.dumps({"keys": [entry]}))
    world.app.state.keys = auth.Keys(world.settings)
    pace = Pace(4)
    async with served(world), Caller(world.settings, {"surface": "email"}, pace) as caller:
        started = time.monotonic()
        found = await caller.pages(["ann"] * 8)  # five at once, and then one a second
        assert time.monotonic() - started >= 0.9
    assert len(found) == 8
    assert caller.retries >= 1
    assert pace.width == 1


async def test_a_strained_api_is_asked_by_one_at_a_time(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PROMISE_MS", 700.0)  # which a busy test machine keeps
    world.ranking.delay = 0.8
    pace = Pace(4)
    async with served(world), Caller(world.settings, {"surface": "email"}, pace) as caller:
        await caller.pages(["ann"] * 4)
        assert pace.width == 1
        assert pace.rest() > 0
        world.ranking.delay = 0.0
        await caller.pages(["ann"] * (pages.CALM + 5))
        assert pace.width > 1
