"""Why an item is on a page, and the first thing that kept another away."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo import transforms
from feature_repo.dismissals import Dismissal
from recsys.inference import HEADS, RankingResponse
from recsys.settings import Settings
from serving.api import followed
from serving.api.contract import Rung
from serving.api.dossiers import Dossier, Facts, Laid, Proposer
from serving.api.slate import Shown
from serving.api.trace import Exposure
from serving.api.visit import Snapshot

pytestmark = pytest.mark.services


@pytest.fixture(autouse=True)
def _read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)


@pytest.fixture
async def short(online_settings: Settings, shop: Any, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """The world, with a slate of so many places."""
    patient = shop.patient(online_settings)
    settings = patient.model_copy(update={"api": patient.api.model_copy(update={"slate": request.param})})
    shop.publish(settings)
    shop.fill(settings.redis_url)
    async with shop.running(settings) as made:
        yield made


async def why(world: Any, page: dict[str, Any], item_id: str) -> dict[str, Any]:
    answer = await world.http.get(f"/api/v1/explain/{page['request_id']}", params={"item_id": item_id})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_shown_item_has_its_place_scores_and_sources(world: Any) -> None:
    page = await world.page(user_id="ann", count=5)
    found = await why(world, page, "i4")
    assert (found["verdict"], found["position"], found["title"]) == ("shown", 1, "Thing 4")
    assert found["because"] == "it is in place 2, page 1"
    assert found["sources"] == ["personal", "catalogue"]
    assert found["ranker"]["score"] == pytest.approx(0.96)
    assert found["relevance"] == pytest.approx(0.96)
    vectors = world.app.state.parts.watcher.current.vectors
    exact = float(vectors[4] @ vectors[59])
    assert found["retrieval"] == {"score": pytest.approx(exact, abs=1e-5), "rank": 56, "of": 60}
    assert (found["release_id"], found["surface"], found["rung"]) == ("r1", "home", "ranked")


@pytest.mark.parametrize(
    ("item_id", "rule", "because"),
    [
        ("i1", "unavailable", "it is not available"),
        ("i2", "region", "it may not be shown in the shopper's region"),
        ("i3", "seen", "the shopper knows it already"),
        ("i6", "request", "the request's own filters or exclusions leave it out"),
    ],
)
async def test_a_filtered_item_names_the_filter(world: Any, item_id: str, rule: str, because: str) -> None:
    page = await world.page(user_id="ann", count=5, exclude=["i6"])
    found = await why(world, page, item_id)
    assert (found["verdict"], found["rule"], found["because"]) == ("filtered", rule, because)
    assert found["position"] is None


async def test_an_item_that_no_source_proposed_has_the_rank_that_retrieval_gave_it(world: Any) -> None:
    config = "home: {about: shopper, phase: 2, sources: {personal: 5}}"
    (world.settings_file()).write_text(config)
    page = await world.page(user_id="ann", count=5)
    found = await why(world, page, "i0")
    assert (found["verdict"], found["because"]) == ("not_retrieved", "no source proposed it")
    assert found["retrieval"]["rank"] == 60


@pytest.mark.parametrize("short", [20], indirect=True)
async def test_an_item_that_was_not_good_enough_says_by_how_much(short: Any) -> None:
    page = await short.page(user_id="ann", count=20)
    found = await why(short, page, "i57")
    assert found["verdict"] == "outranked"
    assert found["because"].endswith("the pages so far have 20 places")
    assert found["missed_by"] > 0


async def test_an_item_that_an_exploring_place_displaced_is_told_how_many_explore(world: Any) -> None:
    page = await world.page(user_id="ann", count=10)
    explored = sum(item["source"] == "explore" for item in page["items"])
    world.app.state.parts.explorer.pool = None
    whole = await world.page(user_id="ann", count=10)
    displaced = {item["item_id"] for item in whole["items"]} - {item["item_id"] for item in page["items"]}
    assert len(displaced) == explored > 0
    for item_id in displaced:
        found = await why(world, page, item_id)
        assert found["verdict"] == "outranked"
        assert found["because"].endswith(f"have 10 places, of which {explored} explore")
        assert 0 < found["missed_by"] < 1, "beside what the order placed, not beside the arms"


@pytest.mark.parametrize("short", [5], indirect=True)
async def test_an_item_that_a_rule_held_back_names_the_rule(short: Any) -> None:
    page = await short.page(user_id="ann", count=5)  # i0 and i4 are the two Toys that a page of five may have
    found = await why(short, page, "i8")
    assert (found["verdict"], found["rule"]) == ("held_back", "category_share")
    assert found["because"] == "the rule category_share let others pass it"


async def test_a_later_page_is_explained_by_its_own_id(world: Any) -> None:
    first = await world.page(user_id="ann", count=5)
    second = await world.page(user_id="ann", count=5, cursor=first["cursor"])
    assert second["request_id"] != first["request_id"]
    found = await why(world, second, second["items"][0]["item_id"])
    assert (found["position"], found["because"]) == (5, "it is in place 6, page 2")


async def test_the_features_of_a_ranked_item_are_those_of_its_request(world: Any) -> None:
    page = await world.page(user_id="ann", count=5, headers={"X-Last-Item": "i20"})
    found = await why(world, page, "i4")
    assert list(found["features"]) == list(transforms.RANKING_FEATURES)
    first = transforms.RANKING_FEATURES[0]
    assert found["features"][first] == {"value": 4.0, "meaning": transforms.RANKING_DOCS[first]}
    assert (found["if_ranked"], found["notes"]) == (None, [])
    shown, asked = world.ranking.asked
    assert asked.features_of == "i4"
    assert (asked.visitor, asked.recent, asked.region) == (shown.visitor, shown.recent, shown.region)
    assert "i20" in shown.visitor
    assert asked.item_ids.tolist() == shown.item_ids.tolist()
    np.testing.assert_array_equal(asked.retrieval_scores, shown.retrieval_scores)


async def test_an_item_that_was_not_ranked_says_what_the_ranker_would_have_given_it(world: Any) -> None:
    page = await world.page(user_id="ann", count=5)
    found = await why(world, page, "i3")  # which she knows already
    assert (found["verdict"], found["ranker"]) == ("filtered", None)
    assert found["if_ranked"]["score"] == pytest.approx(0.97)
    assert found["if_ranked"]["place"] == 2, "i0 alone is better: i1 is sold out, i2 of Norway"
    assert found["features"][transforms.RANKING_FEATURES[0]]["value"] == 3.0
    assert world.ranking.asked[-1].item_ids.tolist() == [*world.ranking.asked[0].item_ids, "i3"]
    assert world.ranking.asked[-1].retrieval_scores[-1] == pytest.approx(0.9 - 0.8 * 56 / 59, abs=1e-6)


async def test_a_score_that_is_another_now_is_said_to_be(world: Any) -> None:
    page = await world.page(user_id="ann", count=5)
    answer, world.ranking.answer = world.ranking.answer, lambda asked: _raised(answer(asked))
    found = await why(world, page, "i4")
    assert found["notes"] == ["the ranker scores the item otherwise now than it did for the page"]
    assert found["ranker"]["score"] == pytest.approx(0.96), "as it was then"


async def test_without_the_ranker_the_rest_is_explained_and_no_shopper_notices(world: Any) -> None:
    page = await world.page(user_id="ann", count=5)
    answer, world.ranking.answer = world.ranking.answer, lambda _: 1 / 0
    for _ in range(10):
        found = await why(world, page, "i4")
    assert (found["verdict"], found["features"]) == ("shown", None)
    assert found["notes"] == ["the ranking predictor does not serve now, so there are no features; ask again"]
    world.ranking.answer = answer
    assert (await world.page(user_id="ann", count=5))["rung"] == "ranked", "ten failures have opened no circuit"
    assert world.app.state.parts.calls.quality.factor == 1.0


async def test_a_page_that_no_model_ranked_has_no_features(world: Any) -> None:
    page = await world.page(surface="trending", count=5)
    found = await why(world, page, page["items"][0]["item_id"])
    assert (found["features"], found["notes"]) == (None, ["no model ranked this page, so there are no features"])
    assert world.ranking.asked == []


async def test_a_record_of_another_version_is_as_good_as_none(world: Any) -> None:
    page = await world.page(user_id="ann", count=5)
    pages = world.app.state.parts.pages
    kept = await pages.behind(page["request_id"], 1.0)
    other = replace(kept, facts=replace(kept.facts, visit=replace(kept.facts.visit, surface={"about": "nothing"})))
    pages.keep("other", other)
    pages.answered(page["request_id"], "other")
    answer = await world.http.get(f"/api/v1/explain/{page['request_id']}", params={"item_id": "i4"})
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:recsys:problem:unknown-request")


def _raised(found: RankingResponse) -> RankingResponse:
    """The same, each score a tenth higher."""
    raised = {name: getattr(found, name) + np.float32(0.1) for name in ("scores", *HEADS)}
    return replace(found, **raised)


@pytest.mark.parametrize(
    ("request_id", "item_id", "status", "kind"),
    [
        ("unknown-request", "i4", 404, "unknown-request"),
        ("", "nope", 404, "unknown-item"),
        ("", "", 422, "rule-broken"),
    ],
)
async def test_a_question_that_has_no_answer_says_so(
    world: Any, request_id: str, item_id: str, status: int, kind: str
) -> None:
    page = await world.page(user_id="ann", count=5)
    answer = await world.http.get(f"/api/v1/explain/{request_id or page['request_id']}", params={"item_id": item_id})
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:recsys:problem:{kind}")


async def test_a_release_that_serves_no_more_explains_nothing(world: Any, shop: Any) -> None:
    page = await world.page(user_id="ann", count=5)
    shop.publish(world.settings, "r2")
    await world.app.state.parts.watcher.refresh()
    answer = await world.http.get(f"/api/v1/explain/{page['request_id']}", params={"item_id": "i4"})
    assert (answer.status_code, answer.json()["type"]) == (410, "urn:recsys:problem:release-gone")


@given(st.integers(0, 5), st.integers(0, 4))
def test_a_dossier_is_read_as_it_was_kept(n: int, dim: int) -> None:
    rng = np.random.default_rng(n)
    asked, surface = {"user_id": "ann"}, {"about": "shopper", "phase": 1, "sources": {"popular": 10}}
    visit = Snapshot(
        "q",
        7.5,
        asked,
        surface,
        {},
        {"items": ["i1"]},
        ["Toys"],
        ["7\tview\ti2"],
        1,
        (Dismissal(7, "unsubscribe", "brand", "b"),),
    )
    shown = [
        Shown("i1", 0.25, "personal", ["personal", "feed"], "Picked for you", 1.0, {}, []),
        Shown("ü", 0.0, "explore", ["explore"], "Exploring", 0.5, {"name": "thompson"}, [0.25]),
    ]
    laid = [Laid("e1", ["i3"], (Dismissal(7, "skip", "item", "i5", False),))]
    facts = Facts(
        "r1", "home", Rung.RANKED, "ann", True, 0.5, [Proposer("popular", "region", "Norway")], ["seen"], 5, {"new": 7},
        '{"é": 1}', ["", "i9"], ["", "view"], visit, [Exposure("e", "a", "user")], shown, laid, True,
    )  # fmt: skip
    own, retrieval, heads, score, relevance = (rng.random(s).astype(np.float32) for s in (n, n, (n, 4), n, n))
    kept = Dossier(
        facts, np.arange(n, dtype=np.int32), np.ones(n, np.uint32), np.ones(n, np.int16), np.full(n, -1, np.int8),
        own, retrieval, heads, score, relevance, rng.random(dim).astype(np.float32),
    )  # fmt: skip
    found = Dossier.unpack(kept.pack())
    assert found is not None
    assert found.facts == facts
    for name in ("rows", "proposed", "because", "dropped", "own", "retrieval", "heads", "score", "relevance", "query"):
        np.testing.assert_array_equal(getattr(found, name), getattr(kept, name), strict=True)


async def test_a_new_item_is_explained_though_another_has_left_since(world: Any) -> None:
    new = {"category": "Toys > big", "created_at": "2024-02-29T00:00:00Z", "available": True}
    items = [new | {"item_id": name, "title": f"Thing {name}"} for name in ("first", "second")]
    changed, watcher = world.app.state.parts.changed, world.app.state.parts.watcher
    assert (await world.http.put("/api/v1/items", json={"items": items})).status_code == 202
    await changed.poll(watcher)
    page = await world.page(user_id="ann", count=60)
    place = [item["item_id"] for item in page["items"]].index("second")
    assert (await world.http.delete("/api/v1/items/first")).status_code == 202
    await changed.poll(watcher)  # "second" has the row that "first" had
    found = await why(world, page, "second")
    assert (found["position"], found["title"]) == (place, "Thing second")
