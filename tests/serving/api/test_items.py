"""The catalogue as it changes: on the disk before the answer, on pages within the polling time, and told what to do."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from feature_repo import changes, online
from feature_repo import events as schema
from feature_repo.changes import Overlay
from recsys.settings import Changes, Settings
from serving.api import auth, followed, items

pytestmark = pytest.mark.services
NEW = {
    "item_id": "new",
    "title": "New thing",
    "category": "Toys > big",
    "brand": "Acme",
    "price": 12.5,
    "currency": "EUR",
    "created_at": "2024-02-29T12:00:00Z",
    "available": True,
}
I8 = NEW | {"item_id": "i8", "title": "Thing 8", "price": 5.0, "created_at": "2023-01-01T00:00:00Z"}


@contextlib.asynccontextmanager
async def looking(settings: Settings, shop: Any) -> AsyncIterator[Any]:
    """As in conftest, with a look at the changes every 20 ms."""
    settings = shop.patient(settings).model_copy(update={"changes": Changes(poll=0.02)})
    shop.publish(settings)
    shop.fill(settings.redis_url)
    async with shop.running(settings) as made:
        yield made


@pytest.fixture
async def world(online_settings: Settings, shop: Any) -> AsyncIterator[Any]:
    async with looking(online_settings, shop) as made:
        yield made


async def put(world: Any, *rows: Any) -> httpx.Response:
    return await world.http.put("/api/v1/items", json={"items": list(rows)})


async def delete(world: Any, item_id: str) -> None:
    answer = await world.http.delete(f"/api/v1/items/{item_id}")
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1})


async def until(world: Any, true: Any) -> Any:
    """The live release once it is as asked."""
    deadline = time.monotonic() + 10
    while not true(world.app.state.parts.watcher.current):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return world.app.state.parts.watcher.current


def logged(settings: Settings) -> list[dict[str, Any]]:
    segments = sorted((Path(settings.storage.root) / "bus" / "items").glob("*.jsonl*"))
    return [json.loads(line) for segment in segments for line in segment.read_bytes().splitlines()]


async def ids(world: Any, **asked: Any) -> list[str]:
    return [item["item_id"] for item in (await world.page(**asked))["items"]]


async def test_a_change_is_on_the_disk_before_the_answer(world: Any) -> None:
    answer = await put(world, NEW, I8)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
    await delete(world, "i9")
    first, second, third = logged(world.settings)
    assert changes.checked(first["item"]) == changes.checked(
        dict.fromkeys(schema.ITEMS.names) | NEW | {"created_at": "2024-02-29T12:00:00+00:00"}
    )
    assert [line["item_id"] for line in (first, second, third)] == ["new", "i8", "i9"]
    assert third["item"] is None
    received = datetime.fromisoformat(third["received_at"])
    assert abs((datetime.now(UTC) - received).total_seconds()) < 60


async def test_a_new_item_is_known_everywhere_and_gone_when_it_is_deleted(world: Any) -> None:
    await put(world, NEW)
    live = await until(world, lambda live: live.shows("new"))
    assert live.newest.tolist() == [60]
    page = await world.page(user_id="ann", count=100)
    [shown] = [item for item in page["items"] if item["item_id"] == "new"]
    assert (shown["title"], shown["price"], shown["currency"]) == ("New thing", 12.5, "EUR")
    assert (shown["reason"], shown["source"]) == ("Among the latest in the catalogue", "new")
    assert (await world.page(surface="similar", item_id="new", count=3))["rung"] == "retrieval"
    assert world.retrieval.asked[-1].query_item == "new"
    first = await world.page(user_id="ann", count=2)
    await delete(world, "new")
    await until(world, lambda live: not live.shows("new"))
    assert "new" not in await ids(world, user_id="ann", count=100)
    assert (await world.get(surface="similar", item_id="new")).status_code == 404
    later, cursor = [], first["cursor"]
    while cursor:
        page = await world.page(user_id="ann", count=2, cursor=cursor)
        later += [item["item_id"] for item in page["items"]]
        cursor = page["cursor"]
    assert len(later) > 40
    assert "new" not in later, "nor on a later page of what was ranked before"


async def test_a_known_item_changes_and_goes(world: Any) -> None:
    assert "i8" in await ids(world, surface="category", category="Toys", count=40)
    await put(world, I8)
    live = await until(world, lambda live: live.prices[8] == 5.0)
    assert len(live.catalogue) == 60
    assert live.newest.tolist() == []
    [shown] = [i for i in (await world.page(surface="trending", category="Toys"))["items"] if i["item_id"] == "i8"]
    assert (shown["price"], shown["currency"], shown["title"]) == (5.0, "EUR", "Thing 8")
    await put(world, I8 | {"available": False})
    await until(world, lambda live: not live.shows("i8"))
    assert "i8" not in await ids(world, surface="category", category="Toys", count=40)
    await put(world, I8)
    await until(world, lambda live: live.shows("i8"))
    await delete(world, "i8")
    await until(world, lambda live: not live.shows("i8"))


async def test_one_that_is_back_in_the_catalogue_is_not_called_new(world: Any) -> None:
    await put(world, NEW | {"created_at": "2019-01-01T00:00:00Z"}, NEW | {"item_id": "newer"})
    live = await until(world, lambda live: live.shows("new"))
    assert [live.catalogue.ids[row] for row in live.newest] == ["newer"]


async def test_the_vector_of_a_new_item_comes_from_retrieval(world: Any) -> None:
    await put(world, NEW)
    live = await until(world, lambda live: live.shows("new"))
    assert live.vectors[np.array([59, 60])].tolist()[1] == [0.0, 0.0]
    with online.connect(world.settings.redis_url) as client:
        version = changes.newer(client, Overlay()).changes["new"].version
        changes.write_vectors(client, "r1", [("new", version, np.array([0.6, 0.8], np.float32))])
    await until(world, lambda live: live.vectors[np.array([60])].any())
    await world.page(user_id="ann", count=100)
    asked = dict(zip(world.ranking.asked[-1].item_ids, world.ranking.asked[-1].retrieval_scores, strict=True))
    assert asked["new"] == pytest.approx(0.8, abs=1e-6)  # retrieval's query is (0, 1)


async def test_a_release_that_holds_the_item_makes_the_change_void(world: Any, shop: Any) -> None:
    await put(world, NEW | {"item_id": "i60", "category": "Toys > big"})
    live = await until(world, lambda live: live.shows("i60"))
    assert len(live.catalogue) > live.shipped == 60
    shop.publish(world.settings, "r2", count=61)
    live = await until(world, lambda live: live.release_id == "r2")
    assert len(live.catalogue) == live.shipped == 61
    assert live.vectors.shape == (61, 2)
    assert "i60" not in [live.catalogue.ids[row] for row in live.newest if row >= live.shipped]


async def test_a_process_that_starts_knows_all_changes(world: Any, shop: Any) -> None:
    await put(world, NEW)
    await delete(world, "i7")
    async with shop.running(world.settings, predictors=False) as other:
        live = other.app.state.parts.watcher.current
        assert (live.shows("new"), live.shows("i7"), live.shows("i8")) == (True, False, True)


async def test_while_redis_is_away_the_catalogue_stays_and_changes_are_refused(
    settings: Settings, own_redis: Any, shop: Any
) -> None:
    async with looking(settings, shop) as world:
        await put(world, NEW)
        await until(world, lambda live: live.shows("new"))
        own_redis.kill()
        deadline = time.monotonic() + 10
        while not await world.metric('recsys_api_falls_total{stage="changes",why="down"}'):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        answer = await world.http.delete("/api/v1/items/new")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "send it again" in answer.json()["detail"]
        assert world.app.state.parts.watcher.current.shows("new")


@pytest.mark.parametrize(
    ("change", "status", "pointer", "words"),
    [
        ({"price": 1e16}, 422, "#/items/1/price", "less than"),
        ({"price": 0.0}, 422, "#/items/1/price", "greater than 0"),
        ({"price": "12"}, 400, "#/items/1/price", "number"),
        ({"colour": "red"}, 400, "#/items/1/colour", "Extra inputs"),
        ({"title": None}, 400, "#/items/1/title", "string"),
        ({"title": " "}, 422, "#/items/1/title", "at least 1"),
        ({"category": ""}, 422, "#/items/1/category", "at least 1"),
        ({"item_id": ""}, 422, "#/items/1/item_id", "at least 1"),
        ({"item_id": "i8"}, 422, "#/items/0/item_id", "comes more than once"),
        ({"item_id": "a\nb"}, 400, "#/items/1/item_id", "no control characters"),
        ({"available": "yes"}, 400, "#/items/1/available", "boolean"),
        ({"created_at": "2024-02-29T12:00:00"}, 400, "#/items/1/created_at", "timezone"),
        ({"created_at": (datetime.now(UTC) + timedelta(days=1)).isoformat()}, 422, "#/items/1/created_at", "future"),
        ({"created_at": "0001-01-01T00:00:00+01:00"}, 422, "#/items/1/created_at", "1970"),
        ({"tags": "toys"}, 400, "#/items/1/tags", "array"),
    ],
)
async def test_a_bad_item_is_refused_at_its_place_and_nothing_of_the_batch_is_taken(
    world: Any, change: dict[str, Any], status: int, pointer: str, words: str
) -> None:
    answer = await put(world, I8, NEW | change)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert words in answer.json()["detail"]
    assert logged(world.settings) == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (
            json.dumps({"items": [NEW | {"price": float("nan")}]}),
            400,
            "#/items/0/price: Input should be a finite number",
        ),
        (
            json.dumps({"items": [{k: v for k, v in NEW.items() if k != "title"}]}),
            400,
            "#/items/0/title: Field required",
        ),
        (json.dumps({"items": [NEW | {"item_id": f"n{n}"} for n in range(1001)]}), 422, "at most 1000 items"),
        ('{"items": []}', 422, "#/items"),
        (json.dumps(NEW), 400, "items: Field required"),
        (json.dumps({"items": [NEW | {"title": "\ud800"}]}), 400, "Invalid JSON"),
        ("{", 400, "Invalid JSON"),
    ],
)
async def test_a_bad_body_is_told_what_to_do(world: Any, body: str, status: int, words: str) -> None:
    answer = await world.http.put("/api/v1/items", content=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


async def test_a_thousand_items_at_once_and_ids_with_slashes(world: Any) -> None:
    assert (await put(world, *(NEW | {"item_id": f"n/{n}"} for n in range(1000)))).json() == {"accepted": 1000}
    await until(world, lambda live: len(live.catalogue) == 1060)
    await delete(world, "n/7")
    await until(world, lambda live: not live.shows("n/7") and live.shows("n/8"))


async def test_it_needs_a_scope_of_its_own(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)
    entry = {"name": "shop", "sha256": auth.digest("shop"), "scopes": [auth.READ, auth.WRITE]}
    auth.write_private(auth.keys_file(world.settings), json.dumps({"keys": [entry]}))
    for answer in (
        await world.http.put("/api/v1/items", json={"items": [NEW]}, headers={"X-API-Key": "shop"}),
        await world.http.delete("/api/v1/items/i1", headers={"X-API-Key": "shop"}),
    ):
        assert (answer.status_code, "catalogue:write" in answer.json()["detail"]) == (403, True)


def test_the_model_has_the_columns_of_the_schema() -> None:
    assert list(items.CatalogueItem.model_fields) == schema.ITEMS.names
