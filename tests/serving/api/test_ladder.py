"""Each rung, by really stopping the part above it."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from recsys import inference
from recsys.settings import Settings

pytestmark = pytest.mark.services


def reasons(page: dict[str, Any]) -> set[str]:
    return {item["reason"] for item in page["items"]}


@pytest.mark.usefixtures("nothing_to_explore")
async def test_ranker_down_the_order_is_that_of_retrieval(world: Any) -> None:
    await world.ranking.stop()
    page = await world.page(user_id="ann", count=3)
    assert (page["rung"], page["degraded"]) == ("retrieval", True)
    assert [item["item_id"] for item in page["items"]] == ["i59", "i58", "i57"]
    assert await world.metric('recsys_api_falls_total{stage="ranking",why="down"}') == 1


async def test_ranker_late_the_order_is_that_of_retrieval(online_settings: Settings, shop: Any) -> None:
    api = shop.patient(online_settings).api.model_copy(update={"ranking_deadline_ms": 50})
    settings = online_settings.model_copy(update={"api": api})
    shop.publish(settings)
    shop.fill(settings.redis_url)
    async with shop.running(settings) as world:
        world.ranking.delay = 1.0
        started = time.perf_counter()
        page = await world.page(user_id="ann", count=3)
        assert time.perf_counter() - started < 0.8
        assert page["rung"] == "retrieval"
        assert await world.metric('recsys_api_falls_total{stage="ranking",why="late"}') == 1
        # After five in a row the breaker opens and nobody waits any more.
        for _ in range(5):
            await world.page(user_id="ann", count=3)
        assert await world.metric('recsys_api_falls_total{stage="ranking",why="open"}') >= 1


async def test_a_caller_in_a_hurry_gets_the_next_rung_in_time_and_shuts_nothing_to_others(world: Any) -> None:
    world.ranking.delay = 1.0  # the ranker's own deadline is 2 s
    for _ in range(6):
        started = time.perf_counter()
        page = await world.page(user_id="ann", count=3, headers={"X-Deadline-Ms": "150"})
        assert time.perf_counter() - started < 0.8
        assert (page["rung"], page["degraded"]) == ("retrieval", True)
    assert await world.metric('recsys_api_falls_total{stage="ranking",why="deadline"}') == 6
    assert (await world.page(user_id="ann", headers={"X-Deadline-Ms": "60000"}))["rung"] == "ranked"


async def test_a_deadline_that_is_over_already_is_answered_from_memory(world: Any) -> None:
    page = await world.page(user_id="ann", count=3, headers={"X-Deadline-Ms": "1"})
    assert (page["rung"], page["degraded"], len(page["items"])) == ("static", True, 3)
    assert world.retrieval.asked == []


@pytest.mark.parametrize(("given", "status"), [("soon", 400), ("1.5", 400), ("0", 422), ("-1", 422), ("9" * 400, 422)])
async def test_a_deadline_that_is_none_is_refused(world: Any, given: str, status: int) -> None:
    answer = await world.get(headers={"X-Deadline-Ms": given})
    assert answer.status_code == status
    assert answer.json()["detail"].startswith("x-deadline-ms: Input should be")


@pytest.mark.usefixtures("nothing_to_explore")
async def test_retrieval_down_the_page_is_trending_and_begins_with_the_favourite_category(world: Any) -> None:
    await world.retrieval.stop()
    page = await world.page(user_id="ann", count=5)
    assert (page["rung"], page["degraded"]) == ("trending", True)
    # There is no list of Books, ann's favourites, so what is popular where she is serves.
    assert reasons(page) == {"Popular with ages 25-34 in Germany", "Popular in Germany"}
    with redis.Redis.from_url(world.settings.redis_url) as store:
        store.zadd("watched:bob", {"i44": 1709200000.0, "i48": 1709200000.0, "i5": 1709200000.0})
    page = await world.page(user_id="bob", count=5)
    assert [item["reason"] for item in page["items"]][:2] == ["Popular in Toys"] * 2


@pytest.mark.usefixtures("nothing_to_explore")
async def test_retrieval_down_a_precomputed_feed_is_better_than_trending(world: Any, shop: Any) -> None:
    from feature_repo import online

    with online.connect(world.settings.redis_url) as store:
        online.write_feeds(store, [("ann", shop.ranked(33, 34))])
    await world.retrieval.stop()
    page = await world.page(user_id="ann", count=2)
    assert page["rung"] == "feed"
    assert [(item["item_id"], item["reason"]) for item in page["items"]] == [
        ("i33", "Picked for you"),
        ("i34", "Picked for you"),
    ]


async def test_retrieval_down_similar_items_are_those_bought_and_viewed_together(world: Any) -> None:
    await world.retrieval.stop()
    page = await world.page(surface="similar", item_id="i5", count=3)
    assert page["rung"] == "covisitation"
    assert [(item["item_id"], item["reason"]) for item in page["items"]] == [
        ("i6", "Often bought with Thing 5"),
        ("i7", "Often bought with Thing 5"),
        ("i9", "Often viewed with Thing 5"),
    ]
    page = await world.page(surface="similar", item_id="i8", count=2)
    assert (page["rung"], page["items"][0]["reason"]) == ("trending", "Popular in big")


async def test_redis_down_the_predictors_still_serve_and_the_page_says_what_is_missing(fragile: Any) -> None:
    fragile.redis.kill()
    page = await fragile.page(user_id="ann", count=3)
    assert (page["rung"], page["degraded"]) == ("ranked", True)
    assert "could not be left out" in page["notes"][0]


async def test_everything_down_the_static_list_of_the_release_serves(fragile: Any) -> None:
    fragile.redis.kill()
    await fragile.retrieval.stop()
    await fragile.ranking.stop()
    for parameters in ({"user_id": "ann"}, {}, {"surface": "trending"}):
        page = await fragile.page(count=20, **parameters)
        assert (page["rung"], page["degraded"]) == ("static", True)
        assert page["items"][0]["item_id"] == "i30"
        assert len(page["items"]) == 20
    page = await fragile.page(surface="category", category="Toys > big", count=3)
    assert [item["item_id"] for item in page["items"]] == ["i8", "i0", "i16"]
    page = await fragile.page(surface="similar", item_id="i5", count=3)
    assert page["rung"] == "static"
    assert {item["category"].split(" > ")[0] for item in page["items"]} == {"Home"}


async def test_parts_that_come_back_are_used_again(world: Any) -> None:
    await world.retrieval.stop()
    assert (await world.page(user_id="ann"))["rung"] == "trending"
    await world.retrieval.start()
    for _ in range(100):
        page = await world.page(user_id="ann")
        if page["rung"] == "ranked":
            return
        time.sleep(0.05)
    raise AssertionError(f"still {page['rung']}")


async def test_before_any_release_the_answer_is_503_with_retry_after(online_settings: Settings, shop: Any) -> None:
    async with shop.running(online_settings) as world:
        answer = await world.get(user_id="ann")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
        assert "run the daily pipeline" in answer.json()["detail"]
        assert (await world.http.get("/health/ready")).status_code == 503
        assert (await world.http.get("/health/live")).json() == {"status": "live"}
        shop.publish(online_settings)
        await world.app.state.parts.watcher.refresh()
        assert (await world.http.get("/health/ready")).json()["release_id"] == "r1"


async def test_a_predictor_that_talks_nonsense_is_a_fall_not_an_error(world: Any) -> None:
    def nonsense(request: Any) -> Any:
        raise RuntimeError("out of order")

    world.retrieval.answer = nonsense
    page = await world.page(user_id="ann")
    assert page["rung"] == "trending"


async def test_scores_that_are_no_numbers_are_a_fall_not_an_order(world: Any) -> None:
    def broken(request: Any) -> Any:
        scores = np.full(len(request.item_ids), np.nan, np.float32)
        return inference.RankingResponse(scores, scores, scores, scores, scores)

    world.ranking.answer = broken
    page = await world.page(user_id="ann", count=2)
    assert (page["rung"], page["items"][0]["item_id"]) == ("retrieval", "i59")


@pytest.mark.usefixtures("nothing_to_explore")
async def test_the_decision_log_holds_the_page_whole(world: Any) -> None:
    page = await world.page(user_id="ann", count=2)
    world.app.state.parts.decisions.close()
    [segment] = (Path(world.settings.storage.root) / "bus" / "decisions").glob("*.jsonl")
    [record] = [json.loads(line) for line in segment.read_text().splitlines()]
    assert record["request_id"] == page["request_id"]
    assert record["ask"]["user_id"] == "ann"
    assert (record["release_id"], record["rung"]) == ("r1", "ranked")
    assert record["policy"] == {"name": "deterministic", "version": 1}
    assert [(i["item_id"], i["position"], i["propensity"]) for i in record["items"]] == [("i0", 0, 1.0), ("i5", 1, 1.0)]
    assert record["facts"]["quality"] == 1
    assert record["facts"]["dropped"] == {"unavailable": 1, "region": 1, "seen": 3}
    assert record["timings"]["retrieval"] > 0
