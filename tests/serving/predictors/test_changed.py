"""The engines of both predictors while the catalogue changes, against a real Redis."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fake_models
import fake_release
import numpy as np
import pytest
import redis

from feature_repo import arms, changes, names, online, store
from feature_repo.changes import Change, Overlay
from models import catalogue, two_tower
from models.release import Release, Releases
from pipelines import datasets, embedding
from recsys.inference import RetrievalRequest
from recsys.settings import Services, Settings
from serving.predictors import items, retrieval, server
from serving.predictors.changed import Follower
from serving.predictors.retrieval import Retriever

pytestmark = pytest.mark.services
CANDLE = {
    "item_id": "new-candle",
    "title": "Item new",
    "description": None,
    "category": "Home > Candles",
    "tags": ["new"],
    "brand": "b1",
    "price": 6.0,
    "currency": "GBP",
    "regions": [],
    "created_at": datetime(2024, 3, 9, 12, tzinfo=UTC),
    "available": True,
}


@pytest.fixture
def shop(platform: Settings) -> Iterator[Settings]:
    """Settings of the platform with a poll every 50 ms, and no changes before or after."""
    made = platform.model_copy(update={"changes": platform.changes.model_copy(update={"poll": 0.05})})
    with redis.Redis.from_url(made.redis_url) as client:
        yield made
        client.delete("nothing", *client.keys("{changes}:*"))


def tell(settings: Settings, **changed: Any) -> None:
    with online.connect(settings.redis_url) as client:
        arms.run(client, changes.put({item.replace("_", "-"): row for item, row in changed.items()}))


def opened(settings: Settings, release: Release, releases: Releases) -> Retriever:
    return retrieval.open_engine(settings, release, server.verified("retrieval", release, releases))


def until(true: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def similar(engine: Retriever, item_id: str, k: int = 40) -> list[str]:
    found: list[str] = engine.answer(RetrievalRequest(query_item=item_id, k=k)).item_ids.tolist()
    return found


def test_an_item_is_found_as_soon_as_it_is_told_of_and_not_after_it_is_deleted(
    shop: Settings, release: Release, releases: Releases
) -> None:
    engine = opened(shop, release, releases)
    engine.warm_up()
    assert "new-candle" not in similar(engine, "i1")
    tell(shop, new_candle=CANDLE, i5=CANDLE | {"item_id": "i5", "available": False})
    until(lambda: "new-candle" in similar(engine, "i1"))
    assert "i5" not in similar(engine, "i1")
    assert len(similar(engine, "i1")) == 40
    near = engine.answer(RetrievalRequest(query_item="new-candle", k=20))
    assert "new-candle" not in near.item_ids
    assert sum(int(item[1:]) % 4 == 1 for item in near.item_ids) >= 15, "it is near the other candles"
    bought = engine.answer(RetrievalRequest(user_id="u1", k=3_000))
    place = bought.item_ids.tolist().index("new-candle")
    np.testing.assert_allclose(bought.scores[place], near.query @ bought.query, atol=1e-6)
    assert (np.diff(bought.scores) <= 0).all()
    tell(shop, new_candle=None, i5=None)
    until(lambda: "new-candle" not in similar(engine, "i1"))
    engine.close()

    restarted = opened(shop, release, releases)
    tell(shop, new_candle=CANDLE)
    restarted.warm_up()
    assert "new-candle" in similar(restarted, "i1"), "what was told before the start is there from the start"
    assert "i5" not in similar(restarted, "i1")
    restarted.close()


def test_a_new_item_gets_the_vector_that_a_build_would_give_it(
    shop: Settings, release: Release, releases: Releases
) -> None:
    engine = opened(shop, release, releases)
    engine.restock(Overlay({"new-candle": Change(7, CANDLE)}, 7))
    towers = two_tower.Towers.load(Path(shop.storage.root) / release.artifacts["retrieval"].path)
    held = catalogue.read(Path(shop.storage.root) / release.artifacts["catalogue"].path, {})
    [built] = embedding.embed_items(
        towers, held.changed({"new-candle": CANDLE}).items.slice(len(held)), datasets.end_of(fake_release.DAY)
    )
    with online.connect(shop.redis_url) as client:
        found = arms.run(client, changes.vectors("r1", {"new-candle": 7}, fake_models.DIM))
    np.testing.assert_allclose(found["new-candle"], built, atol=1e-6)
    np.testing.assert_allclose(engine.answer(RetrievalRequest(query_item="new-candle", k=1)).query, built, atol=1e-6)


def test_an_item_that_the_release_holds_needs_nothing_of_its_change(
    shop: Settings, release: Release, releases: Releases
) -> None:
    engine = opened(shop, release, releases)
    before = engine.answer(RetrievalRequest(user_id="u1", k=50))
    engine.restock(Overlay({"i9": Change(1, CANDLE | {"item_id": "i9"})}, 1))
    after = engine.answer(RetrievalRequest(user_id="u1", k=50))
    assert after.item_ids.tolist() == before.item_ids.tolist()
    with online.connect(shop.redis_url) as client:
        assert not client.exists("{changes}:vectors:r1")


def test_without_redis_the_last_changes_stay(
    shop: Settings, release: Release, releases: Releases, failures: Callable[[str, str], float]
) -> None:
    away = shop.model_copy(update={"services": Services(redis_url="redis://127.0.0.1:1/0")})
    engine = opened(away, release, releases)
    before = failures("changes", "Retryable")
    engine.warm_up()
    assert "i1" in similar(engine, "i5")
    until(lambda: failures("changes", "Retryable") >= before + 3)  # each look counts, and the next comes all the same
    with pytest.raises(Exception, match="online store"):
        engine.restock(Overlay({"new-candle": Change(7, CANDLE)}, 7))  # found, though nobody can be told its vector
    until(lambda: failures("changes", "Retryable") >= before + 6)
    assert "new-candle" in similar(engine, "i1")
    engine.close()


def test_what_an_engine_cannot_take_is_counted_and_tried_again(
    shop: Settings, failures: Callable[[str, str], float]
) -> None:
    asked: list[Overlay] = []

    def apply(overlay: Overlay) -> None:
        asked.append(overlay)
        if len(asked) < 3:
            raise ZeroDivisionError

    before = failures("changes", "ZeroDivisionError")
    follower = Follower(shop, apply)
    tell(shop, new_candle=CANDLE)
    follower.start()
    until(lambda: len(asked) == 3)
    follower.close()
    assert failures("changes", "ZeroDivisionError") == before + 2


def test_the_ranker_sees_new_content_at_once_and_no_statistics_of_new_items(
    shop: Settings, release: Release, releases: Releases
) -> None:
    opened = server.verified("ranking", release, releases)
    held = catalogue.read(opened["catalogue"].path, opened["catalogue"].manifest.meta)
    shown = items.Items(held, store.connect(shop), 300)
    before = shown.matrix
    dear = CANDLE | {"item_id": "i9", "price": 99.0, "category": "Toys > Cars"}
    shown.lay(Overlay({"new-candle": Change(1, CANDLE), "i9": Change(2, dear), "i5": Change(3, None)}, 3))
    matrix = shown.matrix
    new, changed = matrix.rows(["new-candle", "i9"])
    assert (matrix.category[new], matrix.category[changed]) == ("Home > Candles", "Toys > Cars")
    assert np.expm1(matrix.log_price[[new, changed]]).round(6).tolist() == [6.0, 99.0]
    popularity = list(names.ITEM_STATS).index("popularity")  # the block "item" begins with the statistics
    assert matrix.static[new, popularity] == 0
    assert matrix.static[changed, popularity] == before.static[before.row_of["i9"], popularity] > 0
    assert np.isnan(matrix.stats_time[new])
    fake_release.write_online(shop, "item_content", item_id="i9", price=50.0, category="Toys > Cars", title="Item 9")
    shown.refresh()
    assert np.expm1(shown.matrix.log_price[changed]).round(6) == 99.0, "a change is newer than the store"
    shown.lay(Overlay({}, 4))
    assert np.expm1(shown.matrix.log_price[changed]).round(6) == 50.0
    assert len(shown.matrix) == len(before)
