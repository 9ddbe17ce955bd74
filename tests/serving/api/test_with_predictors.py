"""The API with the real predictor processes of a whole release, killed one after the other."""

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

from recsys import inference
from recsys.settings import REPOSITORY, ROLES, Role, Settings, child_environment
from serving.api.contract import Rung

pytestmark = pytest.mark.services

START_SECONDS = 120
RECOVERY_SECONDS = 8


@pytest.fixture
def platform(settings: Settings, own_redis: Any) -> Settings:
    """A storage root whose blue release is live, and the user u1 in a Redis of its own."""
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

    def start(self) -> None:
        """Returns when both are ready."""
        environment = child_environment(self._settings)
        for role in ROLES:
            with (self._folder / f"{role}.log").open("wb") as log:
                command = [sys.executable, "-m", f"serving.predictors.{role}", "--colour", "blue"]
                self._running[role] = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        for role, process in self._running.items():
            wait_until_ready(self._settings, role, process, self._folder / f"{role}.log")

    def kill(self, *roles: Role) -> None:
        for role in roles:
            self._running[role].kill()
        for role in roles:
            self._running[role].wait(10)


@pytest.fixture
def processes(platform: Settings, tmp_path: Path) -> Iterator[Processes]:
    made = Processes(platform, tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.kill(*ROLES)


def wait_until_ready(settings: Settings, role: Role, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with inference.BlockingClient(settings.predictor_address(role, "blue")) as client:
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
        processes.start()
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
