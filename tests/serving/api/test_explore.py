"""Exploration slots: a set number, exact propensities, no rule broken, guaranteed exposure and feedback."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo import arms
from serving.api import contexts, explore, followed
from serving.api.metrics import Metrics

pytestmark = pytest.mark.services
NOW = datetime.now(UTC)
NEW = {
    "item_id": "new",
    "title": "New thing",
    "category": "Toys > big",
    "created_at": NOW,
    "available": True,
    "regions": [],
    "tags": [],
}
HOME = """
home:
  about: shopper
  phase: 3
  sources: {personal: 20}
  rules: {max_run: 3, max_share: 0.4}
  explore: {policy: %s, share: 0.1, newcomer: 0.2, epsilon: 0.5}
"""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the surfaces is seen by the next request."""
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)


def configure(world: Any, policy: str = "thompson") -> None:
    world.settings_file().write_text(HOME % policy)


def explored(page: dict[str, Any]) -> dict[int, str]:
    return {place: item["item_id"] for place, item in enumerate(page["items"]) if item["source"] == "explore"}


@pytest.mark.parametrize("policy", ["thompson", "epsilon_greedy", "linear"])
async def test_a_page_has_its_share_of_exploration_and_says_so(world: Any, policy: str) -> None:
    configure(world, policy)
    page = await world.page(user_id="ann", count=10)
    # ann has 3 interactions, so she is a newcomer: a fifth of ten, never the first place.
    assert sorted(explored(page)) == [3, 7]
    shown = [item["item_id"] for item in page["items"]]
    assert len(set(shown)) == 10
    assert {item["reason"] for item in page["items"] if item["source"] == "explore"} == {"Exploring"}


async def test_the_log_has_the_propensity_of_every_place(world: Any) -> None:
    configure(world)
    page = await world.page(user_id="ann", count=10)
    world.app.state.parts.decisions.close()
    [segment] = (Path(world.settings.storage.root) / "bus" / "decisions").glob("*.jsonl")
    [record] = [json.loads(line) for line in segment.read_text().splitlines()]
    for place, item in enumerate(record["items"]):
        assert (item["propensity"] < 1) == (place in explored(page))
        assert bool(item["explored_by"]) == (place in explored(page))
    assert set(record["items"][3]["explored_by"]) == {"name", "version", "edition"}
    assert record["facts"]["explored"] == 2


async def test_logged_propensities_are_how_often_it_happens(world: Any) -> None:
    configure(world)
    counts: Counter[str] = Counter()
    chances: dict[str, float] = {}
    rounds = 400
    for number in range(rounds):
        page = await world.page(user_id="ann", count=10, request_id=f"replay-{number}")
        item_id = page["items"][3]["item_id"]
        counts[item_id] += 1
        answer = await world.http.get(f"/api/v1/explain/{page['request_id']}", params={"item_id": item_id})
        chances[item_id] = answer.json()["exploration"]["propensity"]
    for item_id, chance in chances.items():
        deviation = (chance * (1 - chance) / rounds) ** 0.5
        assert abs(counts[item_id] / rounds - chance) < 5 * deviation + 1 / rounds, item_id
    assert sum(chances.values()) > 0.95  # arms that never came have the rest


async def test_the_same_request_id_draws_the_same_page(world: Any) -> None:
    configure(world)
    pages = [await world.page(user_id="ann", count=10, request_id="the-same-one") for _ in range(3)]
    assert pages[0]["items"] == pages[1]["items"] == pages[2]["items"]


async def test_exploration_keeps_the_rules_and_shows_nothing_that_may_not_be_shown(world: Any) -> None:
    configure(world)
    for number in range(40):
        page = await world.page(user_id="ann", count=10, request_id=f"rules-{number}")
        found = set(explored(page).values())
        assert not found & {"i1", "i2", "i3", "i7", "i11"}  # sold out, of Norway, known
        tops = Counter(item["category"].split(" > ")[0] for item in page["items"])
        assert max(tops.values()) <= 4
        categories = [item["category"] for item in page["items"]]
        assert all(len(set(categories[k : k + 4])) > 1 for k in range(len(categories) - 3))


async def test_what_shoppers_do_with_an_item_changes_its_chances(world: Any) -> None:
    configure(world)
    explorer = world.app.state.parts.explorer
    live = world.app.state.parts.watcher.current
    page = await world.page(user_id="ann", count=10)
    liked, ignored = explored(page).values()
    body = {"session_id": "s", "request_id": page["request_id"], "event_time": NOW.isoformat()}
    events = [
        body | {"event_id": f"{item}-{kind}-{n}", "item_id": item, "event": kind}
        for n in range(40)
        for item, kinds in ((liked, ("impression", "click")), (ignored, ("impression",)))
        for kind in kinds
    ]
    answer = await world.http.post("/api/v1/events", json={"events": events})
    assert answer.status_code == 202, answer.text
    await explorer.flush()
    before = explorer.pool
    await explorer.follow(live)
    known = dict(zip(live.catalogue.ids[explorer.pool.rows], explorer.pool.posterior.mean, strict=True))
    assert known[liked] > 0.5 > known[ignored]
    assert explorer.pool.edition != before.edition
    newest = explorer.pool
    await explorer.follow(live)
    assert explorer.pool is newest, "nothing more is known, so nothing is drawn anew"


async def test_the_linear_policy_learns_who_likes_what(world: Any) -> None:
    configure(world, "linear")
    explorer = world.app.state.parts.explorer
    live = world.app.state.parts.watcher.current
    page = await world.page(user_id="ann", count=10)
    await explorer.flush()  # what the outcomes will teach with is kept
    liked, ignored = explored(page).values()
    body = {"session_id": "s", "request_id": page["request_id"], "event_time": NOW.isoformat()}
    events = [body | {"event_id": f"{item}-seen", "item_id": item, "event": "impression"} for item in (liked, ignored)]
    events.append(body | {"event_id": "bought", "item_id": liked, "event": "purchase"})
    placed = page["items"][0]["item_id"]
    events.append(body | {"event_id": "other", "item_id": placed, "event": "purchase"})  # no arm taught it
    assert (await world.http.post("/api/v1/events", json={"events": events})).status_code == 202
    await explorer.flush()
    learnt = await arms.run_async(world.app.state.parts.store, arms.statistics(contexts.NAME, NOW.timestamp()))
    known = contexts.decode(await world.app.state.parts.store.get(contexts.key(page["request_id"])))
    assert learnt.moment.tolist() == known[liked]  # one reward of one
    rows = np.array([known[liked], known[ignored]])
    np.testing.assert_allclose(learnt.gram, rows.T @ rows)
    assert explorer.pool.linear.weights.shape == (1024, len(contexts.FEATURES))
    before = explorer.pool.linear.weights.mean(axis=0)
    await explorer.follow(live)
    after = explorer.pool.linear.weights.mean(axis=0)
    assert after @ np.array(known[liked]) > before @ np.array(known[liked])


async def test_what_a_policy_knows_of_a_shopper_and_an_arm(world: Any) -> None:
    configure(world, "linear")
    page = await world.page(user_id="ann", count=10)
    await world.app.state.parts.explorer.flush()
    known = contexts.decode(await world.app.state.parts.store.get(contexts.key(page["request_id"])))
    vectors = world.app.state.parts.watcher.current.vectors
    for item_id, row in known.items():
        number = int(item_id[1:])
        told = dict(zip(contexts.FEATURES, row, strict=True))
        assert told["one"] == 1.0
        assert told["likeness"] == pytest.approx(float(vectors[number] @ vectors[59]), abs=1e-5)
        assert told["popularity"] == pytest.approx((59 - number) / 59, abs=1e-5)
        assert told["favourite"] == float(number % 4 == 3)  # ann is busy with Books


async def test_a_new_item_is_shown_to_so_many_visitors_and_then_released(world: Any) -> None:
    parts = world.app.state.parts
    live = parts.watcher.current.changed({"new": NEW}, {})
    explorer = explore.Explorer(parts.store, parts.outbox, Metrics(), guarantee=3)
    for visitor, owed in (("a", True), ("b", True), ("b", True), ("c", True), ("d", False)):
        await explorer.follow(live)
        assert ("new" in explorer.pool.owed) == owed, visitor
        explorer.shown(f"page-{visitor}", {"new": [0.0] * 6}, visitor)
        await explorer.flush()


async def test_without_the_online_store_the_last_edition_explores_on(fragile: Any) -> None:
    configure(fragile)
    explorer = fragile.app.state.parts.explorer
    before = explorer.pool
    fragile.redis.kill()
    await explorer.follow(fragile.app.state.parts.watcher.current)
    assert explorer.pool is before
    assert await fragile.metric('recsys_api_falls_total{stage="arms",why="down"}') == 1
    assert explored(await fragile.page(user_id="ann", count=10))


async def test_no_arm_stands_behind_the_end_of_a_short_page(world: Any) -> None:
    world.settings_file().write_text(HOME.replace("personal: 20", "personal: 4") % "thompson")
    page = await world.page(session_id="somebody", count=20, headers={"X-Last-Item": "i20"})
    sources = [item["source"] for item in page["items"]]
    assert sources.count("explore") == 1
    assert sources[-1] != "explore"
    assert page["cursor"] is None


@pytest.mark.parametrize("policy", ["thompson", "epsilon_greedy", "linear"])
async def test_where_nothing_is_left_to_explore_the_order_stands(
    world: Any, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(world, policy)
    explorer = world.app.state.parts.explorer
    monkeypatch.setattr(explore, "ARMS", 0)
    await explorer.follow(world.app.state.parts.watcher.current)
    assert explorer.pool.rows.tolist() == []
    page = await world.page(user_id="ann", count=10)
    assert (len(page["items"]), explored(page)) == (10, {})
