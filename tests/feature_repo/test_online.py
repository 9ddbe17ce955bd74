"""Keys and codecs of the online store, against a real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from feature_repo import online, shoppers
from recsys.errors import Retryable
from recsys.settings import Settings

DAY = 86_400.0
AS_OF = 1_000 * DAY

ranked = st.lists(st.tuples(st.text(max_size=12), st.floats(-1e6, 1e6)), max_size=8)


@pytest.fixture
def client(online_settings: Settings) -> Iterator[online.Client]:
    with online.connect(online_settings.redis_url) as client:
        yield client


@pytest.fixture
async def reader(online_settings: Settings) -> AsyncIterator[online.AsyncClient]:
    async with online.connect_async(online_settings.redis_url) as reader:
        yield reader


@given(ranked)
def test_lists_survive_the_codec(rows: list[tuple[str, float]]) -> None:
    found = online.decode(online.encode(rows))
    assert [item for item, _ in found] == [item for item, _ in rows]
    assert [score for _, score in found] == pytest.approx([score for _, score in rows], rel=1e-5)


@pytest.mark.services
async def test_one_read_brings_lists_whole(client: online.Client, reader: online.AsyncClient) -> None:
    mugs, none = online.trending_key("region", "Köln > Ehrenfeld"), online.trending_key("global")
    online.replace_lists(client, "trending", [(mugs, [("mug", 2.5), ("cup", 1.0)])])
    assert await online.read_lists(reader, [mugs, none]) == {mugs: [("mug", 2.5), ("cup", 1.0)], none: []}
    assert await online.read_lists(reader, []) == {}


@pytest.mark.services
def test_a_feed_is_forgotten_after_half_an_hour(client: online.Client) -> None:
    online.write_feeds(client, [("ann", [("plate", 0.5)])])
    assert client.ttl(online.feed_key("ann")) in range(online.FEED_SECONDS - 5, online.FEED_SECONDS + 1)


@pytest.mark.services
def test_a_list_that_vanished_leaves_and_other_groups_stay(client: online.Client) -> None:
    online.replace_lists(client, "trending", [("trending:category:toys", [("car", 1.0)]), ("trending:global:", [])])
    online.replace_lists(client, "covisitation", [("covisit:bought:car", [("track", 1.0)])])
    assert online.replace_lists(client, "trending", [("trending:global:", [("cup", 1.0)])]) == 1
    assert sorted(client.keys("*:*:*")) == [b"covisit:bought:car", b"trending:global:"]
    assert online.replace_lists(client, "trending", []) == 0
    assert client.get("trending:global:") is None


@pytest.mark.services
async def test_watched_items_expire_30_days_after_they_were_watched(
    client: online.Client, reader: online.AsyncClient
) -> None:
    online.add_watched(client, [("ann", {"old": AS_OF - 31 * DAY, "mid": AS_OF - 20 * DAY, "new": AS_OF - DAY})], AS_OF)
    assert (await shoppers.read(reader, "ann", "", AS_OF)).watched == {"mid", "new"}
    assert (await shoppers.read(reader, "ann", "", AS_OF + 11 * DAY)).watched == {"new"}
    assert client.ttl(online.watched_key("ann")) == pytest.approx(29 * DAY, abs=5)


@pytest.mark.services
def test_a_nightly_run_forgets_nothing_that_was_watched_since(client: online.Client) -> None:
    live = AS_OF + 3_600
    online.add_watched(client, [("ann", {"mug": live})], live)
    online.add_watched(client, [("ann", {"mug": AS_OF - 25 * DAY, "cup": AS_OF - 25 * DAY})], AS_OF)
    assert client.zscore(online.watched_key("ann"), "mug") == live
    assert client.ttl(online.watched_key("ann")) == pytest.approx(30 * DAY, abs=5)


@pytest.mark.services
def test_freshness_says_which_day_readers_see(client: online.Client) -> None:
    mark = online.Freshness("2026-03-01", "r1", AS_OF, AS_OF + 60, 7)
    assert online.freshness(client, "trending") is None
    online.mark_fresh(client, "trending", mark)
    assert online.freshness(client, "trending") == mark


async def test_a_missing_redis_is_retryable_and_soon_known(settings: Settings) -> None:
    started = time.monotonic()
    async with online.connect_async(settings.redis_url) as reader:
        with pytest.raises(Retryable, match="is Redis up"):
            await online.read_lists(reader, ["trending:global:"])
    assert time.monotonic() - started < 1


async def test_a_redis_that_hangs_is_given_up(hanging_url: str) -> None:
    started = time.monotonic()
    async with online.connect_async(hanging_url) as reader:
        with pytest.raises(Retryable, match="Timeout"):
            await online.read_lists(reader, ["trending:global:"])
    assert time.monotonic() - started < 4 * online.READ_TIMEOUT


@pytest.mark.services
async def test_replies_come_in_the_order_of_the_commands(reader: online.AsyncClient) -> None:
    asked: list[online.Command] = [("SET", "k", b"1", "EX", 60), ("MGET", "k", "none"), ("RPUSH", "l", "a", "b")]
    assert await reader.ask(*asked) == [b"OK", [b"1", None], 2]


@pytest.mark.services
async def test_what_redis_refuses_is_said_and_costs_the_others_nothing(reader: online.AsyncClient) -> None:
    first, refused, last = await reader.each(("ECHO", "a"), ("SET", "k", b"1", "EX", -1), ("ECHO", "b"))
    assert (first, type(refused), last) == (b"a", redis.ResponseError, b"b")
    with pytest.raises(redis.ResponseError, match="expire"):
        await reader.ask(("ECHO", "a"), ("SET", "k", b"1", "EX", -1))
    assert await reader.ask(("ECHO", "c")) == [b"c"]


@pytest.mark.services
async def test_who_gave_up_leaves_no_reply_to_the_next(reader: online.AsyncClient) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await reader.ask(("BLPOP", "none", 1))
    assert await reader.ask(("ECHO", "mine")) == [b"mine"]


@pytest.mark.services
async def test_a_connection_that_redis_closed_while_it_lay_idle_is_made_anew(
    client: online.Client, reader: online.AsyncClient
) -> None:
    await asyncio.gather(*(reader.ask(("ECHO", "a")) for _ in range(3)))
    client.client_kill_filter(_type="normal")
    assert await reader.ask(("ECHO", "b")) == [b"b"]


@pytest.mark.services
async def test_a_client_that_is_closed_leaves_no_connection(client: online.Client, reader: online.AsyncClient) -> None:
    alone = len(client.client_list())
    await asyncio.gather(*(reader.ask(("ECHO", "a")) for _ in range(3)))
    assert len(client.client_list()) == alone + 3
    await reader.aclose()
    async with asyncio.timeout(2):  # Redis notices a moment later
        while len(client.client_list()) > alone:
            await asyncio.sleep(0.01)


def test_clients_do_not_retry() -> None:
    with online.connect("redis://127.0.0.1:1/0") as client:
        retry = client.get_retry()
    assert isinstance(client, redis.Redis)
    assert retry is not None
    assert retry.get_retries() == 0
