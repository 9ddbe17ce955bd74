"""A page made again from its record: the same where nothing has changed, and otherwise what has changed is named."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.inference import HEADS, RankingResponse
from serving.api import explore, followed
from serving.api.explore import Slot
from serving.api.sources.candidates import Pool

pytestmark = pytest.mark.services
HOME = """
home:
  about: shopper
  phase: 3
  sources: {personal: 20, popular: 10}
  scores: {fresh: %s, session: 0.5}
  rules: {diversity: mmr, strength: 0.3, max_share: %s}
  explore: {policy: %s, share: 0.2, newcomer: 0.2, epsilon: 0.5}
"""
TRIAL = """
home:
  trial:
    surfaces: [home]
    traffic: [0, 100]
    variants: {a: {objectives: {click: 1}}, b: {objectives: {click: 1}}}
"""


@pytest.fixture(autouse=True)
def _read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)


@pytest.fixture
async def shown(world: Any) -> dict[str, Any]:
    """The first page of ann, who has just viewed i20, with exploration and every rule."""
    configure(world)
    return await world.page(user_id="ann", count=10, headers={"X-Last-Item": "i20"}, exclude=["i6"])


def configure(world: Any, fresh: float = 1.2, max_share: float = 0.5, policy: str = "thompson") -> None:
    world.settings_file().write_text(HOME % (fresh, max_share, policy))


async def replayed(world: Any, request_id: str) -> dict[str, Any]:
    answer = await world.http.get(f"/api/v1/replay/{request_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("policy", ["thompson", "epsilon_greedy", "linear"])
async def test_where_nothing_has_changed_the_same_page_comes_out(world: Any, policy: str) -> None:
    configure(world, policy=policy)
    page = await world.page(user_id="ann", count=10, headers={"X-Last-Item": "i20"}, exclude=["i6"])
    assert page["rung"] == "ranked"
    found = await replayed(world, page["request_id"])
    assert found == {
        "request_id": page["request_id"],
        "release_id": "r1",
        "surface": "home",
        "rung": "ranked",
        "same": True,
        "places": found["places"],
        "exploration": "drawn again",
        "differences": [],
        "because": [],
    }
    assert found["places"] == len(page["items"])


@pytest.mark.parametrize(
    "asked",
    [
        {"user_id": "ann"},
        {"session_id": "s"},
        {"user_id": "new"},
        {"surface": "similar", "item_id": "i5"},
        {"surface": "cart", "cart": ["i5"]},
        {"surface": "category", "category": "Toys"},
        {"surface": "trending", "region": "Germany"},
        {"surface": "because_you_viewed", "user_id": "ann"},
    ],
)
async def test_every_surface_as_it_is_shipped_is_replayed(world: Any, asked: dict[str, Any]) -> None:
    page = await world.page(count=5, **asked)
    found = await replayed(world, page["request_id"])
    assert (found["same"], found["rung"], found["because"]) == (True, page["rung"], [])


async def test_a_page_is_the_same_though_the_shopper_is_another_now(world: Any, shown: dict[str, Any]) -> None:
    event = {"event_id": "e1", "user_id": "ann", "session_id": "s", "item_id": "i44", "event": "purchase"}
    answer = await world.http.post("/api/v1/events", json={"events": [event | {"event_time": "2024-03-01T00:00:00Z"}]})
    assert answer.status_code == 202
    assert (await replayed(world, shown["request_id"]))["same"]


async def test_a_later_page_is_replayed_with_its_first(world: Any, shown: dict[str, Any]) -> None:
    second = await world.page(user_id="ann", count=10, exclude=["i6"], cursor=shown["cursor"])
    for page in (shown, second):
        found = await replayed(world, page["request_id"])
        assert (found["request_id"], found["same"], found["places"]) == (page["request_id"], True, 20)
        assert found["exploration"] == "drawn again"


async def test_what_was_watched_between_two_pages_is_known_to_the_second_alone(
    world: Any, shown: dict[str, Any]
) -> None:
    drawn = [item["item_id"] for item in shown["items"] if item["source"] == "explore"]
    sent = {"user_id": "ann", "session_id": "s", "event": "complete", "event_time": "2024-03-01T00:00:00Z"}
    events = [sent | {"event_id": item_id, "item_id": item_id} for item_id in drawn]
    assert (await world.http.post("/api/v1/events", json={"events": events})).status_code == 202
    await world.page(user_id="ann", count=10, exclude=["i6"], cursor=shown["cursor"])
    found = await replayed(world, shown["request_id"])
    assert (found["same"], found["places"], found["exploration"]) == (True, 20, "drawn again")


async def test_a_rule_that_has_changed_shows_where_and_is_named(world: Any, shown: dict[str, Any]) -> None:
    configure(world, max_share=0.2)
    found = await replayed(world, shown["request_id"])
    assert not found["same"]
    assert found["because"] == ["the rules of the surface have changed since: rules.max_share was 0.5 and is 0.2"]
    first = found["differences"][0]
    assert first["recorded"]["item_id"] == shown["items"][first["position"]]["item_id"]
    assert first["replayed"]["item_id"] != first["recorded"]["item_id"]


async def test_a_surface_that_asks_other_sources_now_replays_what_these_said_then(
    world: Any, shown: dict[str, Any]
) -> None:
    world.settings_file().write_text(HOME.replace("popular: 10", "feed: 3") % (1.2, 0.5, "thompson"))
    assert (await replayed(world, shown["request_id"]))["same"]


async def test_scores_that_have_changed_are_told_from_weights_that_have(world: Any, shown: dict[str, Any]) -> None:
    answer = world.ranking.answer

    def refreshed(asked: Any) -> RankingResponse:
        found = answer(asked)
        return replace(found, **{name: getattr(found, name)[::-1].copy() for name in ("scores", *HEADS)})

    world.ranking.answer = refreshed
    found = await replayed(world, shown["request_id"])
    [why] = found["because"]
    assert why.endswith("candidates otherwise: the features of items were refreshed since")
    assert not found["same"]

    world.ranking.answer = lambda asked: replace(answer(asked), scores=answer(asked).scores / 2)
    found = await replayed(world, shown["request_id"])
    assert found["because"] == ["the ranker blends its heads by other weights since (predictors.blend)"]
    moved = [d for d in found["differences"] if d["recorded"]["item_id"] == d["replayed"]["item_id"]]
    assert moved[0]["replayed"]["score"] == pytest.approx(moved[0]["recorded"]["score"] / 2)


async def test_rounding_is_no_difference(world: Any, shown: dict[str, Any]) -> None:
    answer = world.ranking.answer
    noise = np.float32(1 + 1e-6)
    world.ranking.answer = lambda asked: replace(answer(asked), scores=answer(asked).scores * noise)
    assert (await replayed(world, shown["request_id"]))["same"]


def test_slots_of_before_keep_their_places_and_show_no_item_twice() -> None:
    rows = np.array([10, 11, 12, 13])
    nothing = np.zeros(4, np.int64)
    pool = Pool([], rows, nothing, nothing, np.zeros(4, np.float32), np.zeros((4, 0), bool), nothing)
    before = {1: Slot(-1, 12, 0.5, {"name": "thompson"}), 3: Slot(-1, 99, 0.5, {"name": "thompson"})}
    for page, expected in ((6, [13, 12, 10, 99, 11]), (3, [13, 12, 10])):
        slate = explore.as_before([3, 0, 2, 1], pool, before, page)
        assert [slot.row for slot in slate] == expected
        assert [bool(slot.policy) for slot in slate] == [row in (12, 99) for row in expected]


async def test_what_is_known_of_the_arms_is_an_edition_until_more_is_known(world: Any, shown: dict[str, Any]) -> None:
    parts = world.app.state.parts
    arm = next(item["item_id"] for item in shown["items"] if item["source"] == "explore")
    body = {"session_id": "s", "request_id": shown["request_id"], "item_id": arm, "event": "impression"}

    async def seen(name: str) -> str:
        event = body | {"event_id": name, "event_time": "2024-03-01T00:00:00Z"}
        assert (await world.http.post("/api/v1/events", json={"events": [event]})).status_code == 202
        await parts.explorer.flush()
        await parts.explorer.follow(parts.watcher.current)
        return parts.explorer.pool.edition

    first = await seen("e1")
    await parts.explorer.follow(parts.watcher.current)
    assert parts.explorer.pool.edition == first, "a while later, with the same counts"
    assert await seen("e2") != first


async def test_exploration_slots_stay_where_the_arms_are_known_otherwise(world: Any, shown: dict[str, Any]) -> None:
    explorer = world.app.state.parts.explorer
    explorer.pool = replace(explorer.pool, edition="another", rows=explorer.pool.rows[::-1])
    found = await replayed(world, shown["request_id"])
    assert (found["same"], found["exploration"]) == (True, "as recorded")


async def test_exploration_slots_of_a_later_page_are_not_shown_on_an_earlier_one(
    world: Any, shown: dict[str, Any]
) -> None:
    second = await world.page(user_id="ann", count=10, exclude=["i6"], cursor=shown["cursor"])
    arm = next(item["item_id"] for item in second["items"] if item["source"] == "explore")
    explorer = world.app.state.parts.explorer
    explorer.pool = replace(explorer.pool, edition="another")
    lifted = HOME.replace("session: 0.5", "session: 0.5, business: [{items: [ARM], factor: 50}]").replace("ARM", arm)
    world.settings_file().write_text(lifted % (1.2, 0.5, "thompson"))
    found = await replayed(world, shown["request_id"])
    assert found["exploration"] == "as recorded"
    assert arm not in [
        difference["replayed"]["item_id"] for difference in found["differences"] if difference["replayed"]
    ]


async def test_a_catalogue_that_has_changed_is_what_is_left_to_be_the_reason(world: Any, shown: dict[str, Any]) -> None:
    explored = next(item for item in shown["items"] if item["source"] == "explore")
    assert (await world.http.delete(f"/api/v1/items/{explored['item_id']}")).status_code == 202
    await world.app.state.parts.changed.poll(world.app.state.parts.watcher)
    found = await replayed(world, shown["request_id"])
    assert found["because"] == ["the catalogue or the program has changed since"]
    assert explored["item_id"] in [difference["recorded"]["item_id"] for difference in found["differences"]]


async def test_a_new_item_that_is_gone_leaves_its_place_to_others(world: Any) -> None:
    world.ranking.answer = lambda asked: _equal(len(asked.item_ids))
    new = {"item_id": "new", "title": "New", "category": "Toys > big", "created_at": "2024-02-29T00:00:00Z"}
    parts = world.app.state.parts
    assert (await world.http.put("/api/v1/items", json={"items": [new | {"available": True}]})).status_code == 202
    await parts.changed.poll(parts.watcher)
    page = await world.page(user_id="ann", count=60)
    assert (await world.http.delete("/api/v1/items/new")).status_code == 202
    await parts.changed.poll(parts.watcher)
    found = await replayed(world, page["request_id"])
    assert "1 candidates have left the catalogue since" in found["because"]
    assert "new" in [difference["recorded"]["item_id"] for difference in found["differences"]]


def _equal(count: int) -> RankingResponse:
    return RankingResponse(*[np.full(count, 0.5, np.float32)] * 5)


async def test_a_variant_is_replayed_as_its_surface_is_now(world: Any) -> None:
    experiments = world.settings_file().with_name("experiments.yaml")
    experiments.write_text(TRIAL)
    page = await world.page(user_id="ann", count=10)
    assert page["variants"]
    assert (await replayed(world, page["request_id"]))["same"]
    experiments.write_text("")
    answer = world.ranking.answer
    world.ranking.answer = lambda asked: replace(answer(asked), scores=answer(asked).scores / 2)
    found = await replayed(world, page["request_id"])
    assert found["because"] == [
        f"the variant {page['variants']['trial']} of the experiment trial can serve no more",
        "the rules of the surface have changed since: objectives.click was 1.0 and is None",
    ]


async def test_without_the_ranker_nothing_is_replayed_and_no_shopper_notices(world: Any, shown: dict[str, Any]) -> None:
    answers, world.ranking.answer = world.ranking.answer, lambda _: 1 / 0
    for _ in range(10):
        answer = await world.http.get(f"/api/v1/replay/{shown['request_id']}")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:recsys:problem:no-ranking")
    world.ranking.answer = answers
    assert (await world.page(user_id="ann", count=5))["rung"] == "ranked"


async def test_a_surface_and_a_release_that_are_gone_are_410(world: Any, shop: Any, shown: dict[str, Any]) -> None:
    world.settings_file().write_text("gone: {about: shopper, phase: 1, sources: {popular: 10}}")
    page = await world.page(surface="gone", count=5)
    world.settings_file().write_text("")
    answer = await world.http.get(f"/api/v1/replay/{page['request_id']}")
    assert (answer.status_code, answer.json()["type"]) == (410, "urn:recsys:problem:surface-gone")
    shop.publish(world.settings, "r2")
    await world.app.state.parts.watcher.refresh()
    answer = await world.http.get(f"/api/v1/replay/{shown['request_id']}")
    assert (answer.status_code, answer.json()["type"]) == (410, "urn:recsys:problem:release-gone")
