"""Which releases an API process knows, and for how long."""

from pathlib import Path
from typing import Any

import pytest

from recsys.settings import Settings
from serving.api.watcher import Watcher


@pytest.fixture
def watching(settings: Settings) -> Watcher:
    return Watcher(Path(settings.storage.root), remembers=600.0)


async def switched(watching: Watcher, settings: Settings, shop: Any, name: str) -> None:
    shop.publish(settings, name)
    assert await watching.refresh()
    await watching.look()


def retired(watching: Watcher) -> list[str]:
    return [found.release_id for found, _ in watching.retired]


async def test_the_release_before_is_remembered_but_holds_no_colour(
    watching: Watcher, settings: Settings, shop: Any
) -> None:
    for name in ("r1", "r2"):
        await switched(watching, settings, shop, name)
    assert watching.holding("r1") is None
    found = watching.remembered("r1")
    assert found is not None
    assert (found.release_id, watching.remembered("r0")) == ("r1", None)


async def test_a_release_that_comes_back_is_known_once(watching: Watcher, settings: Settings, shop: Any) -> None:
    for name in ("r1", "r2", "r1", "r2"):
        await switched(watching, settings, shop, name)
    assert (watching.current.release_id, retired(watching)) == ("r2", ["r1"])


async def test_no_release_is_remembered_for_longer_than_cursors_are_good(
    watching: Watcher, settings: Settings, shop: Any
) -> None:
    watching.remembers = 0.0
    for name in ("r1", "r2"):
        await switched(watching, settings, shop, name)
    assert (watching.remembered("r1"), retired(watching)) == (None, [])
