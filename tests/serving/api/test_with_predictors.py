"""The API with the real predictor processes of a whole release: killed one after the other, and told of new items."""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_release
import pytest

from recsys import inference_client
from recsys.inference import RetrievalRequest
from recsys.settings import REPOSITORY, ROLES, Changes, Role, Settings, child_environment
from serving.api.contract import Rung

pytestmark = pytest.mark.services

START_SECONDS = 120
RECOVERY_SECONDS = 8
POLL = 0.2
NEW = {
    "item_id": "new-candle",
    "title": "Item new",
    "category": "Home > Candles",
    "brand": "b1",
    "tags": ["new"],
    "price": 6.0,
    "created_at": "2024-03-09T12:00:00Z",
    "available": True,
}


@pytest.fixture
def platform(settings: Settings, own_redis: Any) -> Settings:
    """A storage root whose blue release is live, and the user u1 in a Redis of its own."""
    settings = settings.model_copy(update={"changes": Changes(poll=POLL)})
    fake_release.publish(settings)
    fake_release.known_user(settings, "u1", ["i1", "i5"])
    releases = Path(settings.storage.root) / "releases"
    shutil.copy(releases / "blue.json", releases / "live.json")
    return settings


class Processes:
    """Both predictors, which a test may kill and start again."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._running: dict[Role, subprocess.Popen[bytes]] = {}

    def start(self, *roles: Role) -> None:
        """Returns when they are ready."""
        environment = child_environment(self._settings, RECSYS_CHANGES__POLL=str(POLL))
        for role in roles:
            with (self._folder / f"{role}.log").open("wb") as log:
                command = [sys.executable, "-m", f"serving.predictors.{role}", "--colour", "blue"]
                self._running[role] = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        for role in roles:
            wait_until_ready(self._settings, role, self._running[role], self._folder / f"{role}.log")

    def kill(self, *roles: Role) -> None:
        for role in roles:
            self._running[role].kill()
        for role in roles:
            self._running[role].wait(10)


@pytest.fixture
def processes(platform: Settings, tmp_path: Path) -> Iterator[Processes]:
    """Both predictors, ready."""
    made = Processes(platform, tmp_path)
    try:
        made.start(*ROLES)
        yield made
    finally:
        made.kill(*ROLES)


def wait_until_ready(settings: Settings, role: Role, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with inference_client.BlockingClient(settings.predictor_address(role, "blue")) as client:
        while not client.ready(role):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


async def test_the_ladder_under_real_predictors(platform: Settings, processes: Any, own_redis: Any, shop: Any) -> None:
    async with shop.running(shop.patient(platform), predictors=False) as world:
        page = await world.page(user_id="u1", count=10)
        assert (page["rung"], page["degraded"]) == ("ranked", False)
        assert len(page["items"]) == 10
        assert all(item["title"] and item["reason"] for item in page["items"])
        similar = await world.page(surface="similar", item_id="i1", count=3)
        assert similar["rung"] == "retrieval"
        assert "i1" not in [item["item_id"] for item in similar["items"]]
        session = await world.page(session_id="new", headers={"X-Last-Item": "i2"}, count=3)
        assert session["rung"] == "ranked"
        stranger = await world.page(session_id="new", count=3)
        assert stranger["rung"] in ("trending", "static")

        await under_load(world, own_redis.kill)
        assert (await world.page(user_id="u1", count=5))["degraded"]
        own_redis.start()
        await recovered(world)

        def kill_everything() -> None:
            own_redis.kill()
            processes.kill(*ROLES)

        answers = await under_load(world, kill_everything)
        assert answers[-1]["rung"] == "static"
        own_redis.start()
        processes.start(*ROLES)
        await recovered(world)

        answers = await under_load(world, lambda: processes.kill("ranking"))
        assert {page["rung"] for page in answers} == {"ranked", "retrieval"}
        answers = await under_load(world, lambda: processes.kill("retrieval"))
        assert answers[-1]["rung"] == "history"  # what she bought before, in a shop of repeat purchases
        assert all(len(page["items"]) == 5 for page in answers)


async def under_load(world: Any, kill: Callable[[], None]) -> list[dict[str, Any]]:
    """Pages asked for before, while and after something is killed; every one is a 200 that says what it stands on."""
    pages = [await world.page(user_id="u1", count=5)]
    asking = [asyncio.create_task(world.page(user_id="u1", count=5)) for _ in range(10)]
    await asyncio.sleep(0.01)  # so that calls are under way
    await asyncio.to_thread(kill)
    asking += [asyncio.create_task(world.page(user_id="u1", count=5)) for _ in range(10)]
    pages.extend(await asyncio.gather(*asking))
    pages.append(await world.page(user_id="u1", count=5))
    assert all(page["rung"] in list(Rung) for page in pages)
    assert all(page["degraded"] for page in pages if page["rung"] != "ranked")
    return pages


async def recovered(world: Any) -> None:
    """By itself, soon after the parts are back: a pause of the circuit and a connection made anew."""
    started = time.monotonic()
    while (page := await world.page(user_id="u1", count=5))["degraded"] or page["rung"] != "ranked":
        assert time.monotonic() - started < RECOVERY_SECONDS, page
        await asyncio.sleep(0.05)


async def test_a_page_is_explained_and_replayed_for_the_shopper_of_then(
    platform: Settings, processes: Any, shop: Any
) -> None:
    async with shop.running(shop.patient(platform), predictors=False) as world:
        page = await world.page(user_id="u1", count=10)
        assert page["rung"] == "ranked"
        bought, path = "i5", f"/api/v1/explain/{page['request_id']}"
        found = (await world.http.get(path, params={"item_id": bought})).json()
        assert found["features"]["retrieval_score"]["value"] == pytest.approx(found["retrieval"]["score"], abs=1e-4)
        event = {"event_id": "e1", "user_id": "u1", "session_id": "s1", "item_id": "i9", "event": "purchase"}
        event |= {"event_time": "2024-03-09T12:00:00Z"}
        assert (await world.http.post("/api/v1/events", json={"events": [event]})).status_code == 202
        again = (await world.http.get(path, params={"item_id": bought})).json()
        assert again == found
        replayed = (await world.http.get(f"/api/v1/replay/{page['request_id']}")).json()
        assert (replayed["same"], replayed["because"]) == (True, [])
        other = await world.page(user_id="u1", count=10)
        path = f"/api/v1/explain/{other['request_id']}"
        assert (await world.http.get(path, params={"item_id": bought})).json()["features"] != found["features"]


async def test_a_new_item_reaches_pages_within_seconds(platform: Settings, processes: Any, shop: Any) -> None:
    async with shop.running(shop.patient(platform), predictors=False) as world:
        answer = await world.http.put("/api/v1/items", json={"items": [NEW]})
        assert answer.status_code == 202
        accepted = time.monotonic()
        found = await shown(world, lambda item: item is not None, surface="similar", item_id="i1", count=60)
        assert time.monotonic() - accepted < 5 * POLL + 2  # the polls of two processes, and the first call of the tower
        assert (found["reason"], found["source"]) == ("Similar to Item 1", "similar")  # i1 is a candle, too
        assert (found["title"], found["price"]) == ("Item new", 6.0)

        home = await shown(world, lambda item: item is not None, user_id="u1", count=100)
        assert home["sources"][:2] == ["personal", "new"]
        assert home["reason"] == true_reason(platform)

        await world.http.put("/api/v1/items", json={"items": [NEW | {"price": 4.0}]})
        await shown(world, lambda item: item["price"] == 4.0, surface="similar", item_id="i1", count=60)

        processes.kill("retrieval")
        processes.start("retrieval")
        with inference_client.BlockingClient(platform.predictor_address("retrieval", "blue")) as client:
            assert "new-candle" in client.retrieve(RetrievalRequest(query_item="i1", k=60)).item_ids

        await world.http.delete("/api/v1/items/new-candle")
        await shown(world, lambda item: item is None, surface="similar", item_id="i1", count=60)
        await shown(world, lambda item: item is None, user_id="u1", count=100)
        with inference_client.BlockingClient(platform.predictor_address("retrieval", "blue")) as client:
            assert "new-candle" not in client.retrieve(RetrievalRequest(query_item="i1", k=200)).item_ids


async def shown(world: Any, wanted: Callable[[Any], bool], **asked: Any) -> Any:
    """How the new item is shown, on whichever page, once it is as wanted; None where it is not."""
    deadline = time.monotonic() + 20
    while True:
        page = await world.page(**asked)
        items = page["items"]
        while page["cursor"]:
            page = await world.page(**asked, cursor=page["cursor"])
            items += page["items"]
        found = next((item for item in items if item["item_id"] == "new-candle"), None)
        if wanted(found):
            return found
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def true_reason(settings: Settings) -> str:
    """What may be said of the new item on u1's home page, proved by asking for u1 without the item that is named."""
    with inference_client.BlockingClient(settings.predictor_address("retrieval", "blue")) as client:

        def asked(user_id: str) -> tuple[float, str]:
            found = client.retrieve(RetrievalRequest(user_id=user_id, k=200))
            place = found.item_ids.tolist().index("new-candle")
            return float(found.scores[place]), str(found.evidence[place])

        score, named = asked("u1")
        if not named:
            return "Picked for you"
        fake_release.known_user(settings, "u1 without it", [item for item in ("i1", "i5") if item != named])
        assert asked("u1 without it")[0] < score
        return f"Because you bought Item {named[1:]}"
