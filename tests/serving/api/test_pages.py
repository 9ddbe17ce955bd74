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

from serving.api import pages, shelf
from serving.api.contract import Ask, Rung
from serving.api.funnel import Shown, Slate
from serving.api.pages import Cursor, Kept

pytestmark = pytest.mark.services


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
    asked = {"user_id": "ann", "count": 10, "headers": {"X-Request-ID": "the-same-id"}}
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


@limits(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.floats(-1e6, 1e6), st.text(max_size=40)), max_size=50))
def test_a_slate_is_read_as_it_was_kept(rows: list[tuple[str, float, str]]) -> None:
    sources = ["personal", "feed"]
    items = [
        Shown(item_id, score, "personal", sources, reason, 0.5, {"name": "thompson"}, [0.25])
        for item_id, score, reason in rows
    ]
    kept = Kept("r1", "q1", Slate(Rung.RANKED, items, degraded=True))
    assert Kept.unpack(kept.pack()) == kept


@given(st.binary(max_size=200))
def test_what_is_kept_is_compressed_and_what_others_kept_is_left_alone(value: bytes) -> None:
    assert shelf.unpacked(shelf.packed(value)) == value
    assert len(shelf.packed(20 * value)) < 40 + 2 * len(value)
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


async def test_requests_at_once_do_not_mix(world: Any) -> None:
    known = await world.page(user_id="ann", count=5)
    new = await world.page(user_id="new", count=5)
    answers = await asyncio.gather(*(world.page(user_id=("ann", "new")[n % 2], count=5) for n in range(20)))
    for n, answer in enumerate(answers):
        assert answer["items"] == (known, new)[n % 2]["items"]
