"""Changes leave the online store once every release that may serve contains them, and not before."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo import arms, changes, events, online
from feature_repo.changes import Overlay
from models import artifact, catalogue
from models.release import Reference, Release, ReleaseId
from pipelines import contained, ledger
from recsys.settings import Services, Settings

pytestmark = pytest.mark.services
AS_OF = "2024-03-01T00:00:00+00:00"
THEN = datetime(2024, 1, 1, tzinfo=UTC)


def item(name: str, **columns: Any) -> dict[str, Any]:
    filled = {"item_id": name, "title": name, "category": "Home", "created_at": THEN, "available": True}
    return dict.fromkeys(events.ITEMS.names) | filled | columns


@pytest.fixture
def store(online_settings: Settings) -> Iterator[online.Client]:
    with online.connect(online_settings.redis_url) as client:
        yield client


def serve(settings: Settings, name: str, *rows: dict[str, Any]) -> None:
    """Bring a release live whose catalogue is these items."""
    root = Path(settings.storage.root)
    with artifact.draft(root / "models", kind="catalogue", run=name, as_of=AS_OF) as draft:
        catalogue.write(draft.path, pa.Table.from_pylist(list(rows), events.ITEMS.arrow()), {})
    made = draft.finished
    reference = Reference(made.manifest.version, str(made.path.relative_to(root)), made.digest)
    release = Release(ReleaseId(name), AS_OF, AS_OF, "blue", {"catalogue": reference}, "ranking_v1", None, "deploy")
    with ledger.held(root) as book:
        book.switch(replace(release, colour=book.idle))


def forget(settings: Settings, keep: int = 2) -> int:
    with ledger.held(Path(settings.storage.root)) as book:
        return contained.forget(settings, book, keep)


def held(store: online.Client) -> dict[str, Any]:
    return changes.newer(store, Overlay()).items


def age(store: online.Client, weeks: int) -> None:
    """Move the time on: all changes are so much older."""
    for item_id in store.zrange("{changes}:order", 0, -1):
        store.zadd("{changes}:order", {item_id: int((time.time() - weeks * 7 * 86_400) * changes.MICRO)})


def test_a_change_outlives_weeks_without_a_release_and_leaves_with_the_last_that_lacks_it(
    online_settings: Settings, store: online.Client
) -> None:
    mug, lamp, dear = item("mug", price=4.0), item("lamp"), item("mug", price=9.0)
    serve(online_settings, "r1", mug, item("recalled"))
    arms.run(store, changes.put({"recalled": None, "lamp": lamp, "mug": dear}))
    age(store, weeks=8)
    arms.run(store, changes.put({"other": None}))
    assert forget(online_settings) == 0
    assert held(store) == {"recalled": None, "lamp": lamp, "mug": dear, "other": None}

    serve(online_settings, "r2", dear, lamp)
    assert forget(online_settings) == 0, "a rollback to r1 would put the recalled item on the shelf"
    serve(online_settings, "r3", dear)
    assert forget(online_settings) == 2
    assert held(store) == {"lamp": lamp, "other": None}, "r3 lacks the lamp, and the other is too young"


def test_a_change_is_not_taken_out_while_a_run_that_does_not_know_it_may_be_on_its_way(
    online_settings: Settings, store: online.Client
) -> None:
    serve(online_settings, "r1", item("mug"))
    arms.run(store, changes.put({"lamp": None}))
    assert forget(online_settings) == 0
    assert held(store) == {"lamp": None}


def test_vectors_leave_with_their_release(online_settings: Settings, store: online.Client) -> None:
    serve(online_settings, "r1", item("mug"))
    for name in ("r0", "r1"):
        changes.write_vectors(store, name, [("mug", 7, np.zeros(2, np.float32))])
    forget(online_settings)
    assert store.keys("{changes}:vectors:*") == [b"{changes}:vectors:r1"]


def test_a_store_that_is_away_stops_no_deployment(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    away = settings.model_copy(update={"services": Services(redis_url="redis://127.0.0.1:1/0")})
    serve(away, "r1", item("mug"))
    assert forget(away) == 0
    assert "stay in the online store" in caplog.text
