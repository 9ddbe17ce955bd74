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
from recsys.settings import REPOSITORY, ROLES, Network, Role, Services, Settings, Storage, child_environment

pytestmark = pytest.mark.services

START_SECONDS = 120


@pytest.fixture
def platform(tmp_path: Path, redis_url: str, port_block: Callable[[], int]) -> Settings:
    """A storage root whose blue release is live, and the user u1 in a database of Redis that others do not use."""
    settings = Settings(
        storage=Storage(root=str(tmp_path / "var")),
        network=Network(base_port=port_block()),
        services=Services(redis_url=redis_url.removesuffix("/0") + "/6"),
    )
    fake_release.publish(settings)
    fake_release.known_user(settings, "u1", ["i1", "i5"])
    releases = Path(settings.storage.root) / "releases"
    shutil.copy(releases / "blue.json", releases / "live.json")
    return settings


@pytest.fixture
def processes(platform: Settings, tmp_path: Path) -> Iterator[dict[Role, subprocess.Popen[bytes]]]:
    """Both predictors, ready."""
    environment = child_environment(platform, RECSYS_SERVICES__REDIS_URL=platform.redis_url)
    started: dict[Role, subprocess.Popen[bytes]] = {}
    for role in ROLES:
        with (tmp_path / f"{role}.log").open("wb") as log:
            command = [sys.executable, "-m", f"serving.predictors.{role}", "--colour", "blue"]
            started[role] = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        for role, process in started.items():
            wait_until_ready(platform, role, process, tmp_path / f"{role}.log")
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.wait(10)


def wait_until_ready(settings: Settings, role: Role, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with inference.BlockingClient(settings.predictor_address(role, "blue")) as client:
        while not client.ready(role):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


async def test_the_ladder_under_real_predictors(platform: Settings, processes: Any, shop: Any) -> None:
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

        answers = await under_load(world, processes["ranking"])
        assert {page["rung"] for page in answers} == {"ranked", "retrieval"}
        answers = await under_load(world, processes["retrieval"])
        assert answers[-1]["rung"] == "history"  # what she bought before, in a shop of repeat purchases
        assert all(len(page["items"]) == 5 for page in answers)


async def under_load(world: Any, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """Pages asked for before, while and after a process is killed; every one is a 200."""
    pages = [await world.page(user_id="u1", count=5)]
    asking = [asyncio.create_task(world.page(user_id="u1", count=5)) for _ in range(10)]
    process.kill()
    pages.extend(await asyncio.gather(*asking))
    process.wait(10)
    pages.append(await world.page(user_id="u1", count=5))
    return pages
