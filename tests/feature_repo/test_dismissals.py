"""What a shopper does not want: the rule, and the same rule as Redis keeps it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from feature_repo import dismissals, online, shoppers
from feature_repo.dismissals import KEPT_DAYS, LIFTS, MS_PER_DAY, Said
from feature_repo.events import NEGATIVE
from recsys.inference import Deed
from recsys.settings import Dismissals, Settings

DAY = 86_400
NOW = 1_000 * DAY

TARGETS = st.sampled_from([("item", "cup"), ("item", "mug"), ("category", "Home > Mugs"), ("brand", "Acme")])
NOES = st.sampled_from([*NEGATIVE, "undo"])


@st.composite
def spoken(draw: st.DrawFn, events: st.SearchStrategy[str], days: tuple[int, int] = (0, 20)) -> Said:
    event = draw(events)
    scope, name = draw(TARGETS)
    if event not in ("unsubscribe", "undo"):
        scope, name = "item", draw(st.sampled_from(["cup", "mug"]))
    return Said(1_000 * (NOW - DAY + draw(st.integers(*days))), event, scope, name)


EVERYTHING = st.lists(spoken(st.one_of(NOES, st.sampled_from([*LIFTS]))), max_size=12)


def test_a_no_stands_until_it_is_taken_back() -> None:
    no = Said(5, "dislike", "item", "mug")
    assert dismissals.fold([no]) == (no,)
    assert dismissals.fold([no, Said(5, "undo", "item", "mug")]) == ()
    assert dismissals.fold([no, Said(4, "undo", "item", "mug")]) == (no,), "an older undo takes back no newer no"
    assert dismissals.fold([no, Said(6, "undo", "item", "cup")]) == (no,)
    assert dismissals.fold([no, Said(6, "undo", "category", "mug")]) == (no,)
    again = Said(7, "dislike", "item", "mug")
    assert dismissals.fold([no, Said(6, "undo", "item", "mug"), again]) == (again,)


@pytest.mark.parametrize(
    ("no", "lifted_by"),
    [
        ("skip", {"purchase", "add_to_cart", "begin_checkout", "like", "add_to_wishlist", "undo"}),
        ("remove_from_cart", {"purchase", "add_to_cart", "begin_checkout", "undo"}),
        ("dislike", {"purchase", "like", "undo"}),
        ("return", {"purchase", "undo"}),
        ("refund", {"purchase", "undo"}),
        ("unsubscribe", {"undo"}),
    ],
)
def test_a_later_wish_lifts_what_it_contradicts(no: str, lifted_by: set[str]) -> None:
    said = Said(5, no, "item", "mug")
    later = {event for event in [*LIFTS, "undo"] if not dismissals.fold([said, Said(6, event, "item", "mug")])}
    assert later == lifted_by
    for event in LIFTS:
        for time in (4, 5):  # who puts an item into the cart and out of it in one second has it out
            assert dismissals.fold([Said(time, event, "item", "mug"), said]) == (said,)


@given(EVERYTHING, st.randoms())
def test_the_order_of_arrival_does_not_matter_and_what_comes_twice_counts_once(said: list[Said], random: Any) -> None:
    other = [*said, *said[:3]]
    random.shuffle(other)
    assert dismissals.fold(other) == dismissals.fold(said)


@given(EVERYTHING)
def test_one_no_of_a_kind_stands_and_none_that_was_not_said(said: list[Said]) -> None:
    standing = dismissals.fold(said)
    assert set(standing) <= {one for one in said if one.event in NEGATIVE}
    assert len({(one.event, one.scope, one.name) for one in standing}) == len(standing)
    for one in standing:
        after = [other for other in said if other[2:] == one[2:] and other.time > one.time]
        assert "undo" not in [other.event for other in after]
    undone = [*said, *(Said(1_000 * NOW, "undo", scope, name) for _, _, scope, name in said)]
    assert dismissals.fold(undone) == ()


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ({"event": "skip", "item_id": "mug", "category": "Home"}, [("item", "mug")]),
        ({"event": "unsubscribe", "category": "Home > Mugs"}, [("category", "Home > Mugs")]),
        ({"event": "unsubscribe", "category": "Home", "brand": "A"}, [("category", "Home"), ("brand", "A")]),
        ({"event": "unsubscribe", "category": "Home", "item_id": "mug"}, [("category", "Home")]),
        ({"event": "unsubscribe", "item_id": "mug"}, [("item", "mug")]),
        ({"event": "undo", "item_id": "mug", "brand": "Acme"}, [("item", "mug"), ("brand", "Acme")]),
        ({"event": "view", "item_id": "mug"}, []),
        ({"event": "impression", "item_id": "mug"}, []),
        ({"event": "search", "query": "mug"}, []),
        ({"event": "undo"}, []),
    ],
)  # fmt: skip
def test_what_an_event_says(sent: dict[str, Any], found: list[tuple[str, str]]) -> None:
    said = dismissals.statements(sent | {"event_time": 5.25})
    assert [(one.scope, one.name) for one in said] == found
    assert {(one.time, one.event) for one in said} <= {(5250, sent["event"])}


@pytest.fixture
async def client(online_settings: Settings) -> AsyncIterator[online.AsyncClient]:
    async with online.connect_async(online_settings.redis_url, online.WRITE_TIMEOUT) as client:
        yield client


async def say(client: online.AsyncClient, user_id: str, session_id: str, *said: Said) -> None:
    """What the API writes when these arrive."""
    async with client.pipeline(transaction=False) as pipe:
        for one in said:
            if one.event in LIFTS:
                shoppers.remember(pipe, user_id, session_id, Deed(one.time // 1_000, one.event, one.name))
            dismissals.remember(pipe, user_id, session_id, one)
        await pipe.execute()


async def standing(client: online.AsyncClient, user_id: str, session_id: str = "", now: float = NOW) -> set[Said]:
    found = (await shoppers.read(client, user_id, session_id, now)).dismissed
    return {Said(*no[:4]) for no in found}


@pytest.mark.services
@hypothesis(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVERYTHING, st.lists(st.sampled_from([("ann", ""), ("ann", "s1"), ("", "s1")]), min_size=12, max_size=12))
async def test_redis_keeps_what_the_rule_says_in_whatever_order_it_arrives(
    client: online.AsyncClient, said: list[Said], who: list[tuple[str, str]]
) -> None:
    await client.flushall()
    for one, (user_id, session_id) in zip(said, who, strict=False):
        await say(client, user_id, session_id, one)
    assert await standing(client, "ann", "s1") == set(dismissals.fold(said))


@pytest.mark.services
async def test_what_was_said_outlives_the_recent_events_and_what_lifted_it_as_well(client: online.AsyncClient) -> None:
    dislike, skip = Said(1_000 * NOW, "dislike", "item", "mug"), Said(1_000 * NOW, "skip", "item", "cup")
    await say(client, "ann", "", dislike, skip, Said(1_000 * NOW + 5, "add_to_cart", "item", "cup"))
    await client.delete("recent:u:ann")
    assert await standing(client, "ann") == {dislike}
    assert await client.ttl("dismissed:u:ann") in range(365 * DAY - 5, 365 * DAY + 1)
    assert await standing(client, "ann", now=NOW + 364 * DAY) == {dislike}
    assert await standing(client, "ann", now=NOW + 366 * DAY) == set()


@pytest.mark.services
async def test_each_kind_hides_for_its_time(client: online.AsyncClient) -> None:
    for kind in NEGATIVE:
        await say(client, "ann", "", Said(1_000 * NOW, kind, "item", kind))

    async def hiding(days: float, held: Dismissals | None = None) -> set[str]:
        found = await shoppers.read(client, "ann", "", NOW + days * DAY, held)
        return {no.event for no in found.dismissed if no.hides}

    assert await hiding(0.9) == set(NEGATIVE)
    assert await hiding(1.1) == set(NEGATIVE) - {"remove_from_cart"}
    assert await hiding(7.1) == set(NEGATIVE) - {"remove_from_cart", "skip"}
    assert await hiding(181) == {"unsubscribe"}
    assert await hiding(0, Dismissals(skip_days=0, remove_from_cart_days=0)) == set(NEGATIVE) - {
        "skip",
        "remove_from_cart",
    }


@pytest.mark.services
async def test_what_is_kept_is_bounded_and_skips_push_no_dislike_out(client: online.AsyncClient) -> None:
    dislike = Said(1_000 * (NOW - 30 * DAY), "dislike", "item", "mug")
    skips = [Said(1_000 * (NOW - n), "skip", "item", f"i{n}") for n in range(2 * dismissals.MOST)]
    await say(client, "ann", "", dislike, *skips)
    found = await standing(client, "ann")
    assert len(found) == dismissals.MOST
    assert {dislike, *skips[: dismissals.MOST - 1]} == found, "the oldest skips are gone"


@pytest.mark.services
async def test_who_says_no_to_nothing_has_no_key(client: online.AsyncClient) -> None:
    await say(client, "ann", "s1", *(Said(1_000 * NOW, event, "item", "mug") for event in LIFTS))
    assert await client.keys("dismissed:*") == []


@pytest.mark.services
async def test_of_two_users_of_one_visit_each_has_their_own(client: online.AsyncClient) -> None:
    anonymous, ann = Said(1_000 * NOW, "skip", "item", "cup"), Said(1_000 * NOW, "dislike", "item", "mug")
    await say(client, "", "s1", anonymous)
    await say(client, "ann", "s1", ann)
    assert await standing(client, "ann", "s1") == {anonymous, ann}
    assert await standing(client, "ann") == {ann}
    assert await standing(client, "bob", "s1") == {anonymous}
    assert await standing(client, "", "s1") == {anonymous, ann}, "the visit, whoever it is"
    assert await standing(client, "", "s2") == await standing(client, "bob", "s2") == set()


@pytest.mark.services
async def test_what_was_taken_back_is_in_no_cart_and_no_history_but_was_watched(client: online.AsyncClient) -> None:
    def at(time: int, event: str, item: str) -> Said:
        return Said(1_000 * (NOW + time), event, "item", item)

    profile = {"items": ["plate", "mug"], "events": 5}
    with online.connect(f"redis://{_address(client)}") as writer:
        shoppers.write_profiles(writer, [("ann", profile)])
    await say(client, "ann", "", at(1, "add_to_cart", "cup"), at(2, "purchase", "mug"), at(3, "add_to_cart", "pot"))
    await say(client, "ann", "", at(4, "remove_from_cart", "cup"), at(5, "return", "mug"))
    found = await shoppers.read(client, "ann", "", NOW)
    assert (found.cart, found.bought, found.items) == (("pot",), frozenset(), ("pot", "plate"))
    assert found.watched == {"cup", "mug", "pot"}
    assert found.refused == {"cup", "mug"}
    assert found.interactions == 6, "five of the profile, and one that was not taken back"
    await say(client, "ann", "", at(6, "undo", "cup"))
    assert (await shoppers.read(client, "ann", "", NOW)).cart == ("pot", "cup")
    await say(client, "ann", "", at(7, "remove_from_cart", "cup"), at(8, "add_to_cart", "cup"))
    assert (await shoppers.read(client, "ann", "", NOW)).cart == ("cup", "pot")


def _address(client: online.AsyncClient) -> str:
    options = client.connection_pool.connection_kwargs
    return f"{options['host']}:{options['port']}/{options['db']}"


@pytest.mark.parametrize("kind", [*NEGATIVE])
def test_no_setting_asks_for_longer_than_is_kept(kind: str) -> None:
    name = {"refund": "return"}.get(kind, kind)
    [limit] = [rule.le for rule in Dismissals.model_fields[f"{name}_days"].metadata if hasattr(rule, "le")]
    assert limit == KEPT_DAYS[kind]
    assert KEPT_DAYS["undo"] >= KEPT_DAYS[kind]
    assert 2 * (4e9 * 1_000 + KEPT_DAYS[kind] * MS_PER_DAY) < 2**53, "a score is exact"
