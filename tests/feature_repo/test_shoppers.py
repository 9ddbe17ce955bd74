"""What the API knows of a shopper at this moment, against a real Redis."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict

import pytest

from feature_repo import online, shoppers
from feature_repo.shoppers import Profile, Shopper
from recsys.inference import Deed
from recsys.settings import Settings

pytestmark = pytest.mark.services
AS_OF = 1_000 * 86_400.0
ANN = Profile("France", "25-34", ("Toys",), ("Home", "Toys"), ("cup", "mug"), 7)


@pytest.fixture
def writer(online_settings: Settings) -> Iterator[online.Client]:
    with online.connect(online_settings.redis_url) as client:
        yield client


@pytest.fixture
async def client(online_settings: Settings) -> AsyncIterator[online.AsyncClient]:
    async with online.connect_async(online_settings.redis_url) as client:
        yield client


async def remember(client: online.AsyncClient, user_id: str, session_id: str, *deeds: Deed) -> None:
    async with client.pipeline(transaction=False) as pipe:
        for deed in deeds:
            shoppers.remember(pipe, user_id, session_id, deed)
        await pipe.execute()


async def test_a_stranger_is_nobody(client: online.AsyncClient) -> None:
    assert await shoppers.read(client, "nobody", "none", AS_OF) == Shopper()
    assert await shoppers.read(client, "", "", AS_OF) == Shopper()


async def test_one_read_brings_all_that_is_known(writer: online.Client, client: online.AsyncClient) -> None:
    assert shoppers.write_profiles(writer, [("ann", asdict(ANN))]) == 1
    online.add_watched(writer, [("ann", {"mug": AS_OF - 1})], AS_OF)
    online.write_feeds(writer, [("ann", [("plate", 0.5)])])
    await remember(client, "ann", "s1", Deed(5, "view", "pot"), Deed(9, "purchase", "cup"))
    found = await shoppers.read(client, "ann", "", AS_OF)
    assert found.profile == ANN
    assert found.recent == (Deed(5, "view", "pot"), Deed(9, "purchase", "cup"))
    assert found.watched == {"mug", "pot", "cup"}
    assert found.feed == [("plate", 0.5)]
    assert found.items == ("cup", "pot", "mug")  # newest first; the cup again
    assert found.interactions == 9


async def test_who_logs_in_during_a_visit_keeps_what_the_visit_saw(client: online.AsyncClient) -> None:
    await remember(client, "", "s1", Deed(5, "view", "pot"))
    await remember(client, "ann", "s1", Deed(9, "view", "cup"))
    assert [deed.item_id for deed in (await shoppers.read(client, "ann", "s1", AS_OF)).recent] == ["pot", "cup"]
    assert [deed.item_id for deed in (await shoppers.read(client, "ann", "", AS_OF)).recent] == ["cup"]
    assert [deed.item_id for deed in (await shoppers.read(client, "", "s1", AS_OF)).recent] == ["pot", "cup"]


async def test_an_event_that_is_remembered_twice_counts_once(client: online.AsyncClient) -> None:
    await remember(client, "ann", "", Deed(5, "view", "pot"), Deed(5, "view", "pot"), Deed(6, "view", "pot"))
    assert (await shoppers.read(client, "ann", "", AS_OF)).interactions == 2


async def test_only_the_newest_events_are_kept(client: online.AsyncClient) -> None:
    await remember(client, "ann", "", *(Deed(n, "view", f"i{n}") for n in range(60)))
    found = await shoppers.read(client, "ann", "", AS_OF)
    assert len(found.recent) == shoppers.RECENT
    assert (found.recent[0].time, found.recent[-1].time) == (10, 59)
    assert await client.ttl("recent:u:ann") in range(shoppers.RECENT_SECONDS - 5, shoppers.RECENT_SECONDS + 1)


async def test_what_a_shopper_states_stands_before_the_profile(
    writer: online.Client, client: online.AsyncClient
) -> None:
    shoppers.write_profiles(writer, [("ann", asdict(ANN))])
    shoppers.write_profiles(writer, [("ann", {"events": 8})])  # the other fields stay
    assert (await shoppers.read(client, "ann", "", AS_OF)).preferences == ("Toys",)
    await shoppers.state(client, "ann", ["Garden", "Köln > Ehrenfeld"])
    assert (await shoppers.read(client, "ann", "", AS_OF)).preferences == ("Garden", "Köln > Ehrenfeld")


def test_what_was_bought_is_in_the_cart_no_more_until_it_is_put_there_again() -> None:
    deeds = [Deed(1, "add_to_cart", "mug"), Deed(2, "add_to_cart", "cup"), Deed(3, "purchase", "mug")]
    assert Shopper(recent=tuple(deeds)).cart == ("cup",)
    assert Shopper(recent=tuple(deeds)).bought == {"mug"}
    assert Shopper(recent=(*deeds, Deed(4, "add_to_cart", "mug"))).cart == ("mug", "cup")  # newest first


async def test_some_users_are_those_of_readable_history_before_others(
    writer: online.Client, client: online.AsyncClient
) -> None:
    events = {"zoe": 20, "ann": 7, "bob": 3, "eve": 0, "max": 5_000}
    shoppers.write_profiles(writer, [(name, {"events": count}) for name, count in events.items()])
    assert [name for name, _ in await shoppers.some(client, 3)] == ["ann", "zoe", "bob"]
    assert [name for name, _ in await shoppers.some(client, 9)] == ["ann", "zoe", "bob", "max"]
