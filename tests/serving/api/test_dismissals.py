"""A shopper's no is in the very next response, on every surface, rung and page; and so is taking it back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from feature_repo import arms, online
from serving.api import contexts, followed

pytestmark = pytest.mark.services
SECONDS = 1_709_287_200  # 2024-03-01T10:00:00Z
NOES = ("skip", "dislike", "remove_from_cart", "return", "refund")
SURFACES: Sequence[dict[str, Any]] = (
    {"surface": "home"},
    {"surface": "home_rules"},
    {"surface": "email"},
    {"surface": "trending"},
    {"surface": "similar", "item_id": "i20"},
    {"surface": "because_you_viewed"},
    {"surface": "cart", "cart": ["i5"]},
    {"surface": "category", "category": "Toys"},
)
_ids = iter(range(10**9))


@pytest.fixture(autouse=True)
def _read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)


async def tell(world: Any, event: str, *, at: float = 0.0, who: dict[str, str] | None = None, **target: Any) -> None:
    """Send one event of ann, or of somebody else, so many seconds after ten o'clock."""
    body = {"event_id": f"no-{next(_ids)}", "session_id": "s1", "event": event} | (who or {"user_id": "ann"}) | target
    seconds = SECONDS + at
    stamp = np.datetime64(int(1000 * seconds), "ms").item().isoformat(timespec="milliseconds") + "Z"
    answer = await world.http.post("/api/v1/events", json=body | {"event_time": stamp})
    assert answer.status_code == 202, answer.text


def ids(page: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in page["items"]]


async def walk(world: Any, **ask: Any) -> list[str]:
    """Items of all pages."""
    page = await world.page(**ask)
    found = ids(page)
    while page["cursor"]:
        page = await world.page(**ask, cursor=page["cursor"])
        found += ids(page)
    return found


async def why(world: Any, page: dict[str, Any], item_id: str) -> dict[str, Any]:
    answer = await world.http.get(f"/api/v1/explain/{page['request_id']}", params={"item_id": item_id})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("event", NOES)
@pytest.mark.parametrize("who", [{"user_id": "ann"}, {"session_id": "s1"}, {"user_id": "ann", "session_id": "s1"}])
async def test_the_top_of_the_page_is_not_there_after_a_no(world: Any, event: str, who: dict[str, str]) -> None:
    sent = {"user_id": who.get("user_id") or None, "session_id": "s1"}
    first = (await world.page(**who, count=10))["items"][0]["item_id"]
    await tell(world, event, item_id=first, who={k: v for k, v in sent.items() if v})
    assert first not in ids(await world.page(**who, count=60))


async def test_a_no_of_an_anonymous_visit_is_known_when_the_visitor_logs_in(world: Any) -> None:
    await tell(world, "dislike", item_id="i0", who={"session_id": "s1"})
    assert "i0" in ids(await world.page(user_id="ann", count=60))
    assert "i0" not in ids(await world.page(user_id="ann", session_id="s1", count=60))


@pytest.mark.parametrize("asked", SURFACES)
async def test_nothing_dismissed_is_on_any_surface_or_page(world: Any, asked: dict[str, Any]) -> None:
    who = {"user_id": "ann", "session_id": "s1"}
    page = await world.page(**who, **asked, count=3)
    gone = set(ids(page))
    for item_id in gone:
        await tell(world, "dislike", item_id=item_id)
    await tell(world, "unsubscribe", category="Toys > small")
    toys = {f"i{n}" for n in range(60) if n % 8 == 4}
    found = await walk(world, **who, **asked, count=7)
    assert len(found) == len(set(found))
    assert not set(found) & (gone | toys)
    # The cursor of the page before the no's leads to none of them either.
    later = await world.page(**who, **asked, count=3, cursor=page["cursor"])
    assert not set(ids(later)) & (gone | toys)
    replayed = await world.http.get(f"/api/v1/replay/{later['request_id']}")
    assert replayed.json()["same"], replayed.text


@pytest.mark.parametrize("stopped", ["ranking", "retrieval"])
async def test_every_rung_leaves_dismissed_items_out(world: Any, stopped: str) -> None:
    await getattr(world, stopped).stop()
    for asked in SURFACES:
        for _ in range(2):
            page = await world.page(user_id="ann", **asked, count=5)
            first = page["items"][0]["item_id"]
            await tell(world, "skip", item_id=first)
            again = await walk(world, user_id="ann", **asked, count=5)
            assert first not in again, asked
            assert again, asked


async def test_feeds_lists_and_histories_leave_dismissed_items_out(world: Any, shop: Any) -> None:
    config = "fed: {about: shopper, phase: 1, sources: {feed: 10, popular: 10}}"
    world.settings_file().write_text(config)
    with online.connect(world.settings.redis_url) as store:
        online.write_feeds(store, [("ann", shop.ranked(31, 32, 33))])
    assert ids(await world.page(user_id="ann", surface="fed", count=2)) == ["i31", "i32"]
    await tell(world, "dislike", item_id="i31")
    page = await world.page(user_id="ann", surface="fed", count=2)
    assert (ids(page), page["rung"]) == (["i32", "i33"], "feed")


async def test_an_item_dismissed_between_two_pages_is_on_no_later_one(world: Any) -> None:
    everything = await walk(world, user_id="ann", count=10)
    first = await world.page(user_id="ann", count=10)
    for item_id in everything[10:13]:
        await tell(world, "skip", item_id=item_id)
    second = await world.page(user_id="ann", count=10, cursor=first["cursor"])
    assert not set(ids(second)) & set(everything[10:13])
    assert len(second["items"]) == 10
    found = await why(world, second, everything[10])
    assert (found["verdict"], found["rule"]) == ("filtered", "dismissed")
    # A page that was laid out before, and is asked for again, shows it no more.
    await tell(world, "dislike", item_id=ids(second)[0])
    again = await world.page(user_id="ann", count=10, cursor=first["cursor"])
    assert ids(again) == ids(second)[1:]
    for page in (first, second):
        assert (await world.http.get(f"/api/v1/replay/{page['request_id']}")).json()["same"]


async def test_where_all_that_is_left_is_dismissed_the_pages_end(world: Any) -> None:
    first = await world.page(user_id="ann", count=10)
    for name in ("Toys", "Home", "Garden", "Books"):
        await tell(world, "unsubscribe", category=name)
    second = await world.page(user_id="ann", count=10, cursor=first["cursor"])
    assert (second["items"], second["cursor"]) == ([], None)
    page = await world.page(user_id="ann", count=10)
    assert (page["items"], page["cursor"]) == ([], None)


async def test_an_unsubscribed_category_is_away_with_all_below_it_until_undone(world: Any) -> None:
    before = await walk(world, user_id="bob", count=20)
    await tell(world, "unsubscribe", category="Toys", who={"user_id": "bob"})
    found = await walk(world, user_id="bob", count=20)
    assert {f"i{n}" for n in range(0, 60, 4)} & set(before)
    assert not {f"i{n}" for n in range(0, 60, 4)} & set(found)
    page = await world.page(user_id="bob", surface="category", category="Toys > big", count=5)
    assert page["items"] == []
    assert page["notes"] == ["the shopper unsubscribed from Toys; an undo of it shows its items again"]
    told = await why(world, await world.page(user_id="bob", count=20), "i8")
    assert (told["verdict"], told["rule"]) == ("filtered", "unsubscribed")
    assert told["because"] == "hidden: you unsubscribed from Toys"
    await tell(world, "undo", category="Toys", at=1, who={"user_id": "bob"})
    assert set(await walk(world, user_id="bob", count=20)) == set(before)


async def test_an_unsubscribed_brand_is_away(world: Any) -> None:
    await tell(world, "unsubscribe", brand="Acme")
    assert (await world.page(user_id="ann"))["items"] == []  # all that this shop has
    await tell(world, "undo", brand="Acme", at=1)
    assert len((await world.page(user_id="ann"))["items"]) == 20


async def test_a_page_stays_full_though_most_of_the_popular_items_are_unsubscribed(world: Any) -> None:
    world.settings_file().write_text("all: {about: shopper, phase: 1, sources: {catalogue: 10}}")
    for name in ("Toys", "Home"):
        await tell(world, "unsubscribe", category=name, who={"user_id": "bob"})
    page = await world.page(user_id="bob", surface="all", count=10)
    assert len(page["items"]) == 9  # ten are proposed, of which one is for Norway only
    assert {item["category"].split(" > ")[0] for item in page["items"]} == {"Garden", "Books"}


async def test_an_undo_takes_back_every_earlier_no_and_no_later_one(world: Any) -> None:
    for event in ("skip", "dislike"):
        await tell(world, event, item_id="i0")
    await tell(world, "skip", item_id="i4", at=5)
    for item_id in ("i0", "i4"):
        for _ in range(2):
            await tell(world, "undo", item_id=item_id, at=3)
    found = ids(await world.page(user_id="ann", count=60))
    assert ("i0" in found, "i4" in found) == (True, False)


@pytest.mark.parametrize("event", ["purchase", "like", "add_to_cart"])
async def test_a_later_wish_lifts_a_skip_but_not_an_earlier_one(world: Any, event: str) -> None:
    world.app.state.parts.watcher.current.catalogue.meta["allow_repeats"] = True
    await tell(world, "skip", item_id="i0", at=5)
    await tell(world, event, item_id="i0", at=3)
    assert "i0" not in ids(await world.page(user_id="ann", count=60))
    await tell(world, event, item_id="i0", at=9)
    assert "i0" in ids(await world.page(user_id="ann", count=60))


async def test_the_cart_follows_a_removal_and_its_undo(world: Any) -> None:
    for place, item_id in enumerate(("i40", "i5")):
        await tell(world, "add_to_cart", item_id=item_id, at=place)
    assert ids(await world.page(user_id="ann", surface="cart"))[:2] == ["i6", "i9"]  # what goes with i5
    await tell(world, "remove_from_cart", item_id="i5", at=9)
    await world.page(user_id="ann", surface="cart")
    assert world.retrieval.asked[-1].query_item == "i40"
    assert [deed.item_id for deed in world.retrieval.asked[-1].recent] == ["i40"]
    await tell(world, "undo", item_id="i5", at=10)
    assert ids(await world.page(user_id="ann", surface="cart"))[:2] == ["i6", "i9"]


@pytest.mark.usefixtures("nothing_to_explore")
async def test_no_reason_names_what_was_returned(world: Any) -> None:
    page = await world.page(user_id="ann", count=10)
    assert page["items"][0]["reason"] == "Because you bought Thing 58"
    await tell(world, "return", item_id="i58")
    assert "Thing 58" not in json.dumps(await world.page(user_id="ann", count=10))
    later = await world.page(user_id="ann", count=10, cursor=page["cursor"])
    assert later["items"]
    assert "Thing 58" not in json.dumps(later)


async def test_what_was_had_before_and_returned_is_not_offered_again(online_settings: Any, shop: Any) -> None:
    settings = shop.patient(online_settings)
    shop.publish(settings, meta={"allow_repeats": True})
    shop.fill(settings.redis_url)
    async with shop.running(settings) as world:
        world.settings_file().write_text("had: {about: shopper, phase: 1, sources: {again: 10}}")
        assert ids(await world.page(user_id="ann", surface="had")) == ["i7", "i3"]
        await tell(world, "return", item_id="i7")
        assert ids(await world.page(user_id="ann", surface="had")) == ["i3"]


async def test_what_came_before_a_no_is_no_taste_any_more(world: Any) -> None:
    await tell(world, "view", item_id="i30")
    await tell(world, "view", item_id="i31", at=1)
    await tell(world, "dislike", item_id="i31", at=2)
    page = await world.page(user_id="ann", surface="because_you_viewed", count=3)
    assert world.retrieval.asked[-1].query_item == "i30"
    assert [deed.item_id for deed in world.retrieval.asked[-1].recent] == ["i30"]
    assert "i31" not in ids(page)


@pytest.mark.usefixtures("nothing_to_explore")
async def test_what_is_like_a_disliked_item_is_dampened_and_says_so(world: Any) -> None:
    config = "home: {about: shopper, phase: 2, sources: {personal: 60}, rules: {max_run: 0, max_share: 1}}"
    world.settings_file().write_text(config)
    before = await world.page(user_id="ann", count=10)
    await tell(world, "dislike", item_id="i0")
    page = await world.page(user_id="ann", count=10)
    assert ids(page)[0] not in ids(before)
    near = await why(world, page, "i4")
    assert near["verdict"] == "outranked"
    assert near["because"].endswith("; dampened: similar to Thing 0, which you dismissed")
    assert near["dampened"]["item_id"] == "i0"
    factor = near["dampened"]["factor"]
    assert 0.4 < factor < 0.5, "0.4 for the same embedding, a moment after"
    assert near["relevance"] == pytest.approx(0.96 * factor, rel=1e-4)
    far = await why(world, page, "i57")
    assert (far["dampened"], "dampened" in far["because"]) == (None, False)
    hidden = await why(world, page, "i0")
    assert (hidden["verdict"], hidden["rule"]) == ("filtered", "dismissed")
    assert hidden["because"] == "hidden: you dismissed it (disliked)"
    skipped = {"user_id": "bob", "session_id": "s2"}
    await tell(world, "view", item_id="i59", who=skipped)
    await tell(world, "skip", item_id="i0", who=skipped)
    weak = await why(world, await world.page(**skipped, count=10), "i4")
    assert factor < weak["dampened"]["factor"] < 1


async def test_a_surface_may_dampen_nothing(world: Any) -> None:
    await tell(world, "dislike", item_id="i0")
    world.settings_file().write_text("home: {about: shopper, phase: 2, sources: {personal: 60}, scores: {dampen: 0}}")
    page = await world.page(user_id="ann", count=10)
    assert (await why(world, page, "i4"))["dampened"] is None


async def test_the_log_and_the_record_hold_what_was_hidden_and_dampened(world: Any) -> None:
    await tell(world, "dislike", item_id="i20")
    await tell(world, "unsubscribe", category="Toys > small", at=1)
    page = await world.page(user_id="ann", count=10)
    await tell(world, "skip", item_id=ids(page)[0], at=2)
    second = await world.page(user_id="ann", count=10, cursor=page["cursor"])
    for made in (page, second):
        replay = (await world.http.get(f"/api/v1/replay/{made['request_id']}")).json()
        assert (replay["same"], replay["places"]) == (True, 20), replay
    world.app.state.parts.decisions.close()
    [segment] = (Path(world.settings.storage.root) / "bus" / "decisions").glob("*.jsonl")
    first, later = [json.loads(line)["facts"] for line in segment.read_text().splitlines()]
    said = [
        [1000 * SECONDS, "dislike", "item", "i20", True],
        [1000 * (SECONDS + 1), "unsubscribe", "category", "Toys > small", True],
    ]
    assert first["dismissed"] == said
    # i20 is a small toy as well: a candidate counts for the first filter that took it.
    assert (first["dropped"]["dismissed"], first["dropped"]["unsubscribed"]) == (1, 6)
    assert first["changed"]["dampening"] > 10
    assert later["dismissed"] == [*said, [1000 * (SECONDS + 2), "skip", "item", ids(page)[0], True]]


async def test_a_change_of_the_dampening_is_why_a_replay_differs(world: Any) -> None:
    config = "home: {about: shopper, phase: 2, sources: {personal: 60}, scores: {dampen: %s}}"
    world.settings_file().write_text(config % 0.6)
    await tell(world, "dislike", item_id="i0")
    page = await world.page(user_id="ann", count=10)
    world.settings_file().write_text(config % 0.1)
    replay = (await world.http.get(f"/api/v1/replay/{page['request_id']}")).json()
    assert (replay["same"], "scores.dampen was 0.6 and is 0.1" in replay["because"][0]) == (False, True)


@pytest.mark.parametrize("policy", ["thompson", "epsilon_greedy", "linear"])
async def test_a_dismissed_arm_is_drawn_for_nobody_who_dismissed_it(world: Any, policy: str) -> None:
    config = (
        "home: {about: shopper, phase: 3, sources: {personal: 60}, rules: {max_run: 0, max_share: 1}, "
        "explore: {policy: %s, share: 0.3, epsilon: 1}}"
    )
    world.settings_file().write_text(config % policy)
    pool = world.app.state.parts.explorer.pool
    gone = [item for item in pool.item_ids.tolist() if item != "i35"]
    for item_id in gone:
        await tell(world, "skip", item_id=item_id)
    page = await world.page(user_id="ann", count=10)
    explored = [item["item_id"] for item in page["items"] if item["source"] == "explore"]
    assert explored == ["i35"]
    answer = await why(world, page, "i35")
    assert answer["exploration"]["propensity"] == 1.0, "the one arm that was left"
    other = await world.page(user_id="bob", session_id="s2", count=10, headers={"X-Last-Item": "i7"})
    assert {item["item_id"] for item in other["items"] if item["source"] == "explore"} & set(gone)


async def test_a_no_is_no_second_trial_and_takes_back_what_its_kind_says(world: Any) -> None:
    explorer, store = world.app.state.parts.explorer, world.app.state.parts.store
    page = await world.page(user_id="ann", count=10, surface="home")
    await explorer.flush()
    arm, other, *_ = [item["item_id"] for item in page["items"] if item["source"] == "explore"]
    for item_id, events in ((arm, ("impression", "click", "dislike")), (other, ("impression", "skip"))):
        for event in events:
            await tell(world, event, item_id=item_id, request_id=page["request_id"])
    await explorer.flush()
    known = await arms.run_async(store, arms.counts([arm, other], SECONDS))
    assert known.successes.tolist() == [0, 0]
    assert known.failures.tolist() == [1, 1.25], "a trial each, and what the skip says"
    rows = contexts.decode(await store.get(contexts.key(page["request_id"])))
    learnt = await arms.run_async(store, arms.statistics(contexts.NAME, SECONDS))
    np.testing.assert_allclose(learnt.moment, -0.25 * np.array(rows[other]), atol=1e-9)
    both = np.array([rows[arm], rows[other]])
    np.testing.assert_allclose(learnt.gram, both.T @ both)


SAID = st.tuples(
    st.sampled_from(["ann", "bob", ""]),
    st.sampled_from([*NOES, "undo", "like"]),
    st.integers(0, 12),
    st.integers(0, 30),
)


@hypothesis(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(SAID, max_size=12))
async def test_nobodys_no_touches_another(world: Any, said: list[tuple[str, str, int, int]]) -> None:
    with online.connect(world.settings.redis_url) as store:
        for pattern in ("dismissed:*", "recent:*"):
            for key in store.scan_iter(pattern):
                store.delete(key)
    sessions = {"ann": "one", "bob": "one", "": "two"}  # ann and bob share a browser
    for user_id, event, number, at in said:
        who = {"session_id": sessions[user_id]} | ({"user_id": user_id} if user_id else {})
        await tell(world, event, item_id=f"i{number}", at=at, who=who)
    for user_id, session_id in sessions.items():
        hidden = {
            number
            for who, event, number, at in said
            if who == user_id
            and event in NOES
            and not any(
                (undo == "undo" and later >= at) or (undo == "like" and event in ("skip", "dislike") and later > at)
                for other, undo, item, later in said
                if other == user_id and item == number
            )
        }
        asked = {"surface": "similar", "item_id": "i50", "session_id": session_id, "user_id": user_id}
        found = set(await walk(world, **asked, count=30))
        visible = {f"i{n}" for n in range(60)} - {"i1", "i2", "i50"} - {f"i{n}" for n in hidden}
        assert found == visible
