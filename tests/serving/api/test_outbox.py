"""What goes to Redis beside the requests."""

import asyncio
import logging
from typing import Any

import pytest
import redis.asyncio

from feature_repo import online
from serving.api import shelf
from serving.api.outbox import Outbox
from serving.api.shelf import Shelf

pytestmark = pytest.mark.services
DEAD = "redis://127.0.0.1:1/0"


@pytest.fixture
async def store(redis_url: str) -> Any:
    client = online.connect_async(redis_url.removesuffix("/0") + "/7")
    yield client
    await client.flushdb()
    await client.aclose()


async def trips(store: Any) -> int:
    """Packages that Redis has read so far."""
    return int((await store.info("stats"))["total_reads_processed"])


async def test_what_one_turn_puts_goes_in_one_round_trip(store: Any) -> None:
    outbox = Outbox(store)
    await outbox.put("k", b"0", 60)  # the connection is made
    before = await trips(store)
    written = [outbox.put(f"k{n}", b"%d" % n, 60) for n in range(50)]
    await asyncio.gather(*written)
    assert await trips(store) == before + 2  # the values, and the question itself
    assert (await store.get("k7"), await store.ttl("k7")) == (b"7", 60)


async def test_what_is_put_while_others_are_on_their_way_follows(store: Any) -> None:
    outbox = Outbox(store)
    first = outbox.put("k", b"1", 60)
    await asyncio.sleep(0)
    second = outbox.put("k", b"2", 60)
    await outbox.flush()
    assert first.done()
    assert second.done()
    assert await store.get("k") == b"2"


async def test_a_value_that_redis_does_not_take_says_so_and_the_others_go(store: Any) -> None:
    outbox = Outbox(store)
    wrong, right = outbox.put("k", b"1", -1), outbox.put("l", b"2", 60)
    await outbox.flush()
    assert isinstance(wrong.exception(), redis.ResponseError)
    assert right.exception() is None
    assert await store.get("l") == b"2"


async def test_a_reader_that_gave_up_holds_nobody_up(store: Any) -> None:
    outbox = Outbox(store)
    gone, here = outbox.put("k", b"1", 60), outbox.put("l", b"2", 60)
    gone.cancel()
    await outbox.flush()
    assert here.exception() is None


async def test_without_redis_a_shelf_forgets_and_is_never_full(caplog: pytest.LogCaptureFixture) -> None:
    store = online.connect_async(DEAD)
    outbox = Outbox(store)
    kept = Shelf(store, outbox, "page", 60)
    for round_ in range(2):
        for n in range(shelf.WRITES + 10):
            kept.put(f"k{n}", b"%d" % round_)
        assert await kept.get("k7", 0.1) == b"%d" % round_  # from memory, while it is under way
        await outbox.flush()
        await asyncio.sleep(0)
        assert await kept.get("k7", 0.1) is None
    assert caplog.text.count("values of page are not kept until further notice") == 1
    await store.aclose()


async def test_a_shelf_says_once_that_it_keeps_again(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outbox = Outbox(store)
    kept = Shelf(store, outbox, "page", -1)  # Redis refuses to keep for less than nothing
    for seconds in (-1, -1, 60, 60):
        kept._seconds = seconds
        kept.put("k", b"1")
        await outbox.flush()
        await asyncio.sleep(0)
    refused, again = caplog.messages
    assert refused.startswith("values of page are not kept")
    assert again == "values of page are kept again"
