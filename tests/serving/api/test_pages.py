"""Pages of one request fit together, whatever happens between them."""

import asyncio
import time
import zlib
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from serving.api import followed, ordering, pages, shelf
from serving.api.contract import Ask
from serving.api.pages import Cursor

pytestmark = pytest.mark.services


EXPLORING = """
home:
  about: shopper
  phase: 3
  sources: {personal: 20}
  rules: {max_run: 0, max_share: 1.0}
  explore: {policy: thompson, share: 0.2, newcomer: 0.2}
"""


async def walk(world: Any, **parameters: Any) -> list[list[str]]:
    """Item ids of all pages."""
    found, cursor = [], ""
    while cursor is not None:
        page = await world.page(cursor=cursor, **parameters)
        found.append([item["item_id"] for item in page["items"]])
        cursor = page["cursor"]
    return found


async def test_pages_never_repeat_an_item_and_reach_every_one(world: Any) -> None:
    for count in (7, 20, 54):
        found = await walk(world, user_id="ann", count=count)
        every = [item for page in found for item in page]
        assert len(every) == len(set(every)) == 55  # 60 without the sold out, the Norwegian and the three known
        assert all(len(page) == count for page in found[:-1])


@pytest.mark.usefixtures("nothing_to_explore")
async def test_a_later_page_describes_its_items_as_the_first_would(world: Any) -> None:
    whole = await world.page(user_id="ann", count=60)
    first = await world.page(user_id="ann", count=10)
    second = await world.page(user_id="ann", count=10, cursor=first["cursor"])
    at_once = {item["item_id"]: item for item in whole["items"]}
    assert [item for page in (first, second) for item in page["items"]] == [
        at_once[item["item_id"]] for page in (first, second) for item in page["items"]
    ]
    assert {item["reason"] for item in second["items"]} == {"Because you bought Thing 58"}


async def test_a_later_page_explores_with_nothing_that_the_shopper_has_watched_since(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)
    world.settings_file().write_text(EXPLORING)

    def explored(page: dict[str, Any]) -> set[str]:
        return {item["item_id"] for item in page["items"] if item["source"] == "explore"}

    asked = {"user_id": "ann", "count": 10}
    cursors = [(await world.page(**asked, request_id="one-and-the-same"))["cursor"] for _ in range(2)]
    before = explored(await world.page(**asked, cursor=cursors[0]))
    assert len(before) == 2
    for number, item_id in enumerate(before):
        event = {"event_id": f"w{number}", "user_id": "ann", "session_id": "s", "item_id": item_id, "event": "complete"}
        body = {"events": [event | {"event_time": "2024-03-01T00:00:00Z"}]}
        assert (await world.http.post("/api/v1/events", json=body)).status_code == 202
    after = explored(await world.page(**asked, cursor=cursors[1]))
    assert len(after) == 2
    assert not after & before


@pytest.mark.usefixtures("nothing_to_explore")
@pytest.mark.parametrize("method", ["mmr", "dpp"])
async def test_what_was_shown_long_ago_changes_no_page(
    world: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)
    rules = f"{{max_run: 2, max_share: 1.0, diversity: {method}, strength: 0.9}}"
    home = f"home: {{about: shopper, phase: 3, sources: {{personal: 60}}, rules: {rules}}}"
    world.settings_file().write_text(home)
    found = await walk(world, user_id="ann", count=5)
    assert sum(map(len, found)) > 40
    monkeypatch.setattr(ordering, "_mattering", lambda shown, worth, near: list(shown))
    assert await walk(world, user_id="ann", count=5) == found
    monkeypatch.setattr(ordering, "_mattering", lambda shown, worth, near: list(shown[-1:]))
    assert await walk(world, user_id="ann", count=5) != found, "what is near does"


async def test_an_item_that_has_left_keeps_its_place_and_changes_no_draw(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)
    world.settings_file().write_text(EXPLORING.replace("20", "60"))
    parts, drawn = world.app.state.parts, []
    mixed = parts.explorer.mixed
    monkeypatch.setattr(parts.explorer, "mixed", lambda page, *others: drawn.append(page) or mixed(page, *others))
    new = {"item_id": "new", "title": "New", "category": "Toys > big", "created_at": "2024-02-29T00:00:00Z"}
    assert (await world.http.put("/api/v1/items", json={"items": [new | {"available": True}]})).status_code == 202
    await parts.changed.poll(parts.watcher)
    await parts.explorer.follow(parts.watcher.current)
    page, found = await world.page(user_id="ann", count=10, request_id="one-request"), []
    found.append(page)
    while "new" not in [item["item_id"] for item in page["items"]]:
        page = await world.page(user_id="ann", count=10, cursor=page["cursor"])
        found.append(page)
    assert (await world.http.delete("/api/v1/items/new")).status_code == 202
    await parts.changed.poll(parts.watcher)
    asked = {"item_id": "i13"}
    assert (await world.http.get("/api/v1/explain/one-request", params=asked)).status_code == 200
    while page["cursor"]:
        page = await world.page(user_id="ann", count=10, cursor=page["cursor"])
        found.append(page)
    assert drawn == [f"one-request/{number}" for number in range(len(found))]
    shown = [[item["source"] == "explore" for item in page["items"]] for page in found]
    assert [any(page) for page in shown] == [True] * 4 + [False] * (len(found) - 4), "none beyond forty items"


async def test_a_page_whose_page_before_is_lost_says_so(world: Any) -> None:
    first = await world.page(user_id="ann", count=10)
    kept = await world.app.state.parts.pages.behind(first["request_id"], 1.0)
    second = await world.page(user_id="ann", count=10, cursor=first["cursor"])
    slate_id = world.app.state.parts.pages.read(Ask(user_id="ann", count=10, cursor=second["cursor"])).slate_id
    world.app.state.parts.pages.keep(slate_id, kept)  # as if the second had never been kept
    third = await world.page(user_id="ann", count=10, cursor=second["cursor"])
    assert len(third["items"]) == 10
    assert third["notes"] == ["the page before is lost; this page may repeat items of it"]


async def test_pages_stay_as_they_were_when_the_ranking_changes_between_them(world: Any) -> None:
    before = await walk(world, user_id="ann", count=10)
    first = await world.page(user_id="ann", count=10)
    await world.ranking.stop()
    await world.retrieval.stop()
    second = await world.page(user_id="ann", count=10, cursor=first["cursor"])
    assert [item["item_id"] for item in second["items"]] == before[1]
    assert (second["rung"], second["degraded"]) == ("ranked", False)


async def test_the_same_cursor_gives_the_same_page_again(world: Any) -> None:
    first = await world.page(user_id="ann", count=10)
    await world.app.state.parts.outbox.flush()  # now it comes from Redis
    pages_ = [await world.page(user_id="ann", count=10, cursor=first["cursor"]) for _ in range(2)]
    assert pages_[0]["items"] == pages_[1]["items"]


async def test_one_request_id_may_come_with_every_page(world: Any) -> None:
    asked = {"user_id": "ann", "count": 10, "request_id": "the-same-id"}
    first = await world.page(**asked)
    second = await world.page(**asked, cursor=first["cursor"])
    for page in (first, second):
        answer = await world.http.get(f"/api/v1/explain/the-same-id?item_id={page['items'][0]['item_id']}")
        assert (answer.status_code, answer.json()["verdict"]) == (200, "shown")


async def test_zero_is_the_first_page(world: Any) -> None:
    assert (await world.page(user_id="ann", cursor="0"))["items"] == (await world.page(user_id="ann"))["items"]


async def test_a_release_between_two_pages_is_told(world: Any, shop: Any) -> None:
    first = await world.page(user_id="ann", count=10)
    shop.publish(world.settings, "r2", count=30)  # the new catalogue has lost half of the items
    await world.app.state.parts.watcher.refresh()
    last = await world.page(user_id="ann", count=10, cursor=first["cursor"])
    assert last["release_id"] == "r1"
    assert "earlier release r1" in last["notes"][0]


async def test_a_lost_slate_is_made_anew_from_the_offset_and_says_so(world: Any) -> None:
    found = await walk(world, user_id="ann", count=10)
    first = await world.page(user_id="ann", count=10)
    await world.app.state.parts.outbox.flush()
    with redis.Redis.from_url(world.settings.redis_url) as store:
        for key in store.scan_iter("page:*"):
            store.delete(key)
    second = await world.page(user_id="ann", count=10, cursor=first["cursor"])
    assert [item["item_id"] for item in second["items"]] == found[1]
    assert "may repeat" in second["notes"][0]


async def test_an_expired_cursor_is_gone_and_says_how_to_go_on(world: Any) -> None:
    ask = Ask(user_id="ann", count=10)
    old = int(time.time()) - world.settings.api.page_seconds - 1
    token = world.app.state.parts.pages.token(Cursor("x", 10, 10, old, pages.asked(ask)))
    answer = await world.get(user_id="ann", count=10, cursor=token)
    assert answer.status_code == 410
    assert "leave it out" in answer.json()["detail"]


@pytest.mark.parametrize("other", [{"user_id": "bob"}, {"count": 11}, {"surface": "trending"}, {"region": "Norway"}])
async def test_a_cursor_is_good_for_its_own_question_only(world: Any, other: dict[str, Any]) -> None:
    first = await world.page(user_id="ann", count=10)
    answer = await world.get(**{"user_id": "ann", "count": 10, "cursor": first["cursor"]} | other)
    assert answer.status_code == 400
    assert "repeat those of its first page" in answer.json()["detail"]


async def test_a_changed_cursor_is_refused(world: Any) -> None:
    token = (await world.page(user_id="ann", count=10))["cursor"]
    for place in range(0, len(token), 5):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert (await world.get(user_id="ann", count=10, cursor=changed)).status_code == 400


@given(st.binary(max_size=200))
def test_what_is_kept_is_compressed_and_what_others_kept_is_left_alone(value: bytes) -> None:
    assert shelf.unpacked(shelf.packed(value)) == value
    assert len(shelf.packed(100 * value)) < 60 + 2 * len(value)
    assert shelf.unpacked(zlib.compress(value)) is None


@limits(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(slate=st.uuids(), offset=st.integers(0, 10**6), count=st.integers(1, 100), user=st.text(max_size=20))
def test_a_cursor_is_read_as_it_was_given(settings: Any, slate: Any, offset: int, count: int, user: str) -> None:
    kept = pages.Pages(settings, None, None)
    ask = Ask.model_construct(user_id=user, count=count)
    cursor = Cursor(str(slate), offset, count, int(time.time()), pages.asked(ask))
    token = kept.token(cursor)
    assert kept.read(ask.model_copy(update={"cursor": token})) == cursor
    other = pages.Pages(settings.model_copy(update={"seed": 1}), None, None)  # another process of the same installation
    assert other.read(ask.model_copy(update={"cursor": token})) == cursor


@pytest.mark.usefixtures("nothing_to_explore")
async def test_requests_at_once_do_not_mix(world: Any) -> None:
    known = await world.page(user_id="ann", count=5)
    new = await world.page(user_id="new", count=5)
    answers = await asyncio.gather(*(world.page(user_id=("ann", "new")[n % 2], count=5) for n in range(20)))
    for n, answer in enumerate(answers):
        assert answer["items"] == (known, new)[n % 2]["items"]
