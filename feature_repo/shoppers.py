"""What the API itself knows about a shopper at this moment, in the online store: one round trip.

    profile:<user_id>         hash, the fields of `Profile` as JSON, written daily by `materialize`
    stated:<user_id>          JSON list: categories that the shopper named as theirs, written by the API
    recent:u:<user_id>        list of the last positive events, newest first, written by the API as they arrive
    recent:s:<session_id>     the same for a visit, whoever it is
    watched:<user_id>         see `feature_repo.online`
    feed:<user_id>            see `feature_repo.online`

Feast's hashes hold what the day's batch knew; only the predictors read them. What lies here is small, is what the
candidate sources need, and is as new as the last event: an event is in `recent` before its 202 leaves, and the API
sends it along with the next request of the same shopper. A visitor who logs in during a visit is known by both keys.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from feature_repo import dismissals, online
from feature_repo.dismissals import Dismissal
from feature_repo.events import EventType
from feature_repo.online import AsyncClient, Client, Ranked
from recsys.inference import Deed
from recsys.settings import Dismissals

RECENT = 50  # events; a visit seldom has more, and a model sees 100 of a history
RECENT_SECONDS = 2 * online.SECONDS_PER_DAY  # by then the daily run has brought them to the feature store
STATED_SECONDS = 365 * online.SECONDS_PER_DAY
SCANS, SCANNED = 20, 1_000  # at most 20,000 keys are looked at for a few users: some 10 ms
READABLE = range(5, 61)  # events: enough to know somebody, few enough to follow


@dataclass(frozen=True)
class Profile:
    """What the day's batch knew about a user.

    Attributes:
        region: country. age_group: band such as "25-34". Both "" where unknown.
        preferences: categories that the user stated at sign-up.
        favourites: most general categories by activity, heaviest first.
        items: of the history, oldest first, each once, the newest `RECENT`.
        events: positive events since the beginning.
    """

    region: str = ""
    age_group: str = ""
    preferences: tuple[str, ...] = ()
    favourites: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    events: int = 0

    @classmethod
    def decode(cls, found: Mapping[bytes, bytes]) -> Self:
        """From the fields of the hash; those that nobody wrote are empty."""
        values = {name.decode(): orjson.loads(value) for name, value in found.items()}
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Shopper:
    """Who asks, as the API knows them; a stranger has nothing.

    Attributes:
        profile: of the day's batch.
        stated: categories that the shopper named since; they stand before those of the profile.
        recent: positive events that arrived since, oldest first, each once; without those that the shopper took back
            by a later no to the item.
        watched: items that the user acted on in the 30 days before the request, taken back or not.
        feed: the user's precomputed feed; empty when it is older than 30 minutes.
        dismissed: what the shopper said no to, and did not take back, oldest first.
    """

    profile: Profile = Profile()
    stated: tuple[str, ...] = ()
    recent: tuple[Deed, ...] = ()
    watched: frozenset[str] = frozenset()
    feed: Ranked = field(default_factory=list)
    dismissed: tuple[Dismissal, ...] = ()

    @property
    def preferences(self) -> tuple[str, ...]:
        return self.stated or self.profile.preferences

    @property
    def refused(self) -> frozenset[str]:
        """Items that the shopper said no to, whether that still hides them or not."""
        return frozenset(no.name for no in self.dismissed if no.scope == dismissals.ITEM)

    @property
    def items(self) -> tuple[str, ...]:
        """Items of the history and of this moment, newest first, each once; without what was refused since."""
        newest, refused = [deed.item_id for deed in reversed(self.recent)], self.refused
        history = (item for item in reversed(self.profile.items) if item not in refused)
        return tuple(dict.fromkeys([*newest, *history]))

    @property
    def bought(self) -> frozenset[str]:
        """What was bought lately."""
        return frozenset(deed.item_id for deed in self.recent if deed.event == EventType.PURCHASE)

    @property
    def cart(self) -> tuple[str, ...]:
        """What was put in the cart lately, and not bought or taken out since, newest first."""
        held: dict[str, None] = {}
        for deed in self.recent:
            if deed.event in (EventType.ADD_TO_CART, EventType.PURCHASE):
                held.pop(deed.item_id, None)
            if deed.event == EventType.ADD_TO_CART:
                held[deed.item_id] = None
        return tuple(reversed(held))

    @property
    def interactions(self) -> int:
        """Positive events, as far as they are known and not taken back; one that both sides know counts twice for a
        day."""
        return self.profile.events + len(self.recent)


def profile_key(user_id: str) -> str:
    return f"profile:{user_id}"


def stated_key(user_id: str) -> str:
    return f"stated:{user_id}"


def recent_keys(user_id: str, session_id: str) -> list[str]:
    """Where the events of a visitor lie: under the user, the visit, or both."""
    return [f"recent:{kind}:{name}" for kind, name in (("u", user_id), ("s", session_id)) if name]


async def read(
    client: AsyncClient, user_id: str, session_id: str, now: float, held: Dismissals | None = None
) -> Shopper:
    """A shopper, in one round trip.

    Args:
        client: from `online.connect_async`.
        user_id, session_id: "" for none.
        now: epoch seconds of the request (transforms.request_time); what is older than 30 days is not watched.
        held: how long each kind of no keeps its target away; None: as the settings are shipped.

    Raises:
        Retryable: Redis does not answer in time.
    """
    recent = recent_keys(user_id, session_id)
    if not recent:
        return Shopper()
    asked: list[online.Command] = [("LRANGE", key, 0, RECENT - 1) for key in recent]
    asked.append(dismissals.question(user_id, session_id))
    if user_id:
        asked += [
            ("HGETALL", profile_key(user_id)),
            ("ZRANGEBYSCORE", online.watched_key(user_id), now - online.WATCHED_SECONDS, "+inf"),
            ("MGET", stated_key(user_id), online.feed_key(user_id)),
        ]
    with online.reachable():
        replies = await client.ask(*asked)
    deeds = {Deed.decode(line.decode()) for lines in replies[: len(recent)] for line in lines}
    newest = tuple(sorted(deeds)[-RECENT:])
    no = dismissals.answer(replies[len(recent)], user_id, newest, now, held or Dismissals())
    kept = _not_taken_back(newest, no)
    if not user_id:
        return Shopper(recent=kept, watched=frozenset(deed.item_id for deed in {*newest} - {*kept}), dismissed=no)
    profile, watched, (stated, feed) = replies[len(recent) + 1 :]
    return Shopper(
        Profile.decode(dict(zip(profile[::2], profile[1::2], strict=True))),
        tuple(orjson.loads(stated)) if stated else (),
        kept,
        frozenset(item.decode() for item in watched) | {deed.item_id for deed in newest},
        online.decode(feed),
        no,
    )


def _not_taken_back(deeds: tuple[Deed, ...], dismissed: Iterable[Dismissal]) -> tuple[Deed, ...]:
    """Without those to an item before a no to it: they say nothing of taste any more, and hold nothing in the cart."""
    until = {no.name: no.time for no in dismissed if no.scope == dismissals.ITEM}  # the latest of several is last
    return tuple(deed for deed in deeds if dismissals.MS * deed.time > until.get(deed.item_id, -1)) if until else deeds


def remember(pipe: Any, user_id: str, session_id: str, deed: Deed) -> None:
    """Add commands to a pipeline that put one event before the shopper's next request.

    An event that is remembered twice counts once: `read` keeps each deed once.
    """
    for key in recent_keys(user_id, session_id):
        pipe.lpush(key, deed.encode())
        pipe.ltrim(key, 0, RECENT - 1)
        pipe.expire(key, RECENT_SECONDS)


async def state(client: AsyncClient, user_id: str, preferences: Sequence[str]) -> None:
    """Keep the categories that a shopper named; the next request sees them. Raises Retryable."""
    with online.reachable():
        await client.set(stated_key(user_id), orjson.dumps(list(preferences)), ex=STATED_SECONDS)


async def some(client: AsyncClient, count: int) -> list[tuple[str, Profile]]:
    """A few users for a person to look at, those of readable history before others with one. Which they are is up to
    Redis, and the same while no key comes or goes. Raises Retryable."""
    readable: dict[str, Profile] = {}
    others: dict[str, Profile] = {}
    cursor = 0
    with online.reachable():
        for _ in range(SCANS):
            cursor, keys = await client.scan(cursor, match=profile_key("*"), count=SCANNED)
            async with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hgetall(key)
                values: list[Any] = await pipe.execute()
            for key, value in zip(keys, values, strict=True):
                profile = Profile.decode(value)
                if profile.events:
                    found = readable if profile.events in READABLE else others
                    found[key.decode().removeprefix(profile_key(""))] = profile
            if not cursor or len(readable) >= count:
                break
    return [*sorted(readable.items()), *sorted(others.items())][:count]


def write_profiles(client: Client, profiles: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
    """Write some fields of the profile of each user, and leave the others; returns how many users.

    Raises:
        Retryable: Redis goes away; calling again repairs.
    """
    written = 0
    with online.reachable():
        for block in online.blocks(profiles):
            with client.pipeline(transaction=False) as pipe:
                for user_id, fields in block:
                    pipe.hset(
                        profile_key(user_id),
                        mapping={name: orjson.dumps(value) for name, value in fields.items()},
                    )
                pipe.execute()
            written += len(block)
    return written
