"""THE keys and codecs of what lies in the online store beside Feast's own hashes.

    trending:<scope>:<key>     one ranked list, JSON {"items", "scores"}; scopes and keys are those of TRENDING
    covisit:<kind>:<item_id>   one ranked list; kinds are those of COVISITATION
    watched:<user_id>          sorted set of items the user acted on, score = epoch seconds of the last time
    feed:<user_id>             one ranked list, precomputed; gone after 30 minutes
    fresh:<what>               JSON of `Freshness`: which data readers see
    edition                    counter of batch writes
    keys:<what>                set of the list keys that `replace_lists` wrote, so that it can remove the dead ones

A list is one string and not a Redis list, so that any number of them arrives with one MGET. A watched set is a
sorted set, so that each item leaves it 30 days after it was watched and a reader that knows the time of the
request can cut exactly; the whole key expires 30 days after its newest item. Writers pipeline in blocks. Readers
take one round trip, do not retry and time out soon: the next rung of the ladder is the better use of the time.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

import orjson
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.errors import Retryable

Ranked = list[tuple[str, float]]
T = TypeVar("T")
Command = tuple[str | bytes | float, ...]
if TYPE_CHECKING:
    Client = redis.Redis[bytes]
    _AsyncClient = redis.asyncio.Redis[bytes]
else:
    # The type stubs make the classes generic in what they return; the classes themselves are not.
    Client, _AsyncClient = redis.Redis, redis.asyncio.Redis

SECONDS_PER_DAY = 86_400
WATCHED_SECONDS = 30 * SECONDS_PER_DAY
FEED_SECONDS = 30 * 60
READ_TIMEOUT = 0.25  # seconds; a healthy Redis answers in under 1 ms, and a request has 100 ms in all
WRITE_TIMEOUT = 30.0  # seconds; a pipelined block of a batch job may wait behind an AOF rewrite
BLOCK = 1_000  # commands per round trip of a writer: large enough to hide latency, small enough not to stall readers


def trending_key(scope: str, key: str = "") -> str:
    """Key of a trending list, such as ("region", "Germany") or ("global", "")."""
    return f"trending:{scope}:{key}"


def covisit_key(kind: str, item_id: str) -> str:
    """Key of the items also bought or also viewed with an item."""
    return f"covisit:{kind}:{item_id}"


def watched_key(user_id: str) -> str:
    return f"watched:{user_id}"


def feed_key(user_id: str) -> str:
    return f"feed:{user_id}"


def encode(ranked: Sequence[tuple[str, float]]) -> bytes:
    """A ranked list as compact JSON; scores keep six significant digits."""
    items = [item for item, _ in ranked]
    scores = [float(f"{score:.6g}") for _, score in ranked]
    return orjson.dumps({"items": items, "scores": scores})


def decode(value: bytes | None) -> Ranked:
    """What `encode` wrote; an absent list is an empty one."""
    if value is None:
        return []
    found = orjson.loads(value)
    return list(zip(found["items"], found["scores"], strict=True))


class AsyncClient(_AsyncClient):
    """redis-py's client, with a shorter way for what a request asks.

    Of the 0.08 to 0.14 ms of CPU that an MGET or a pipeline takes in redis-py, half and more goes into its pool,
    retries, metrics and a timeout for each reply, and a request makes three. Here commands go straight to a connection
    that lies idle, and all their replies have one timeout.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._idle: list[Any] = []

    async def ask(self, *commands: Command) -> list[Any]:
        """Replies to commands that may be repeated, in one round trip.

        Raises:
            redis.RedisError, OSError: Redis refuses a command, is away, or does not answer within the timeout.
        """
        replies = await self.each(*commands)
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise reply
        return replies

    async def each(self, *commands: Command) -> list[Any]:
        """The same; a command that Redis refuses has the error in place of its reply."""
        while self._idle:
            try:
                return await self._asked(self._idle.pop(), commands)
            except redis.ConnectionError:
                continue  # Redis has closed it while it lay idle
        return await self._asked(self.connection_pool.make_connection(), commands)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        while self._idle:
            await self._idle.pop().disconnect()
        await super().aclose(close_connection_pool)  # type: ignore[misc]  # the stubs are older than the client

    async def _asked(self, connection: Any, commands: Sequence[Command]) -> list[Any]:
        try:
            async with asyncio.timeout(self.connection_pool.connection_kwargs["socket_timeout"]):
                if not connection.is_connected:
                    await connection.connect()
                    connection.socket_timeout = None  # would make a timer for each reply
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                replies = [await _reply(connection) for _ in commands]
        except BaseException:  # cancellation as well: replies that nobody has read are the next one's otherwise
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return replies


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except redis.ResponseError as error:
        return error


@dataclass(frozen=True)
class Freshness:
    """Which data a group of keys was written from.

    Attributes:
        day: the data day, YYYY-MM-DD.
        run: the pipeline run that wrote it.
        as_of: epoch seconds up to which the data reach.
        written_at: epoch seconds of the write, wall clock.
        count: keys or rows written.
    """

    day: str
    run: str
    as_of: float
    written_at: float
    count: int


def connect(url: str, timeout: float = READ_TIMEOUT) -> Client:
    """A client that fails within `timeout` seconds and does not retry; writers pass WRITE_TIMEOUT."""
    return redis.Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
    )


def connect_async(url: str, timeout: float = READ_TIMEOUT) -> AsyncClient:
    """The same for asyncio."""
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": redis.asyncio.retry.Retry(NoBackoff(), 0),
        "protocol": 2,  # what `ask` returns is as Redis sends it, and RESP3 sends a hash in another shape
    }
    return cast(AsyncClient, AsyncClient.from_url(url, **options))


@contextmanager
def reachable() -> Iterator[None]:
    """Turn any failure of Redis into Retryable."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise Retryable(
            f"online store: {type(error).__name__}: {error}; is Redis up? `recsys status` shows it"
        ) from error


async def read_lists(client: AsyncClient, keys: Sequence[str]) -> dict[str, Ranked]:
    """Lists by key, in one round trip; an absent one is empty.

    Args:
        client: from `connect_async`.
        keys: from `trending_key` and `covisit_key`.

    Raises:
        Retryable: Redis does not answer in time.
    """
    with reachable():
        [found] = await client.ask(("MGET", *keys)) if keys else [[]]
    return dict(zip(keys, map(decode, found), strict=True))


def freshness(client: Client, what: str) -> Freshness | None:
    """Which data `what` ("features", "trending", "watched", "embeddings") was written from; None before the first
    write. Raises Retryable when Redis does not answer."""
    with reachable():
        value = client.get(f"fresh:{what}")
    return None if value is None else Freshness(**orjson.loads(value))


def mark_fresh(client: Client, what: str, mark: Freshness) -> None:
    """Say which data `what` now holds; the last step of a writer."""
    with reachable():
        client.set(f"fresh:{what}", orjson.dumps(mark))


def next_edition(client: Client) -> int:
    """A number that grows with every call; tells a re-run of a day from the run before it."""
    with reachable():
        return int(client.incr("edition"))


def replace_lists(client: Client, what: str, lists: Iterable[tuple[str, Ranked]]) -> int:
    """Write lists, then remove those that an earlier call for the same `what` wrote and this one did not.

    A reader sees every list whole, old or new. Raises Retryable when Redis goes away; calling again repairs.

    Returns:
        the number of lists written.
    """
    index, coming = f"keys:{what}", f"keys:{what}:coming"
    written = 0
    with reachable():
        client.delete(coming)
        for block in blocks(lists):
            with client.pipeline(transaction=False) as pipe:
                for key, ranked in block:
                    pipe.set(key, encode(ranked))
                pipe.sadd(coming, *(key for key, _ in block))
                pipe.execute()
            written += len(block)
        for dead in blocks(key for key in client.sdiff([index, coming]) if isinstance(key, bytes)):
            client.delete(*dead)
        client.sunionstore(index, [coming])
        client.delete(coming)
    return written


def add_watched(client: Client, rows: Iterable[tuple[str, Mapping[str, float]]], as_of: float) -> int:
    """Add what users acted on; what is older than 30 days at `as_of` leaves.

    Adding never removes what events of the day wrote meanwhile. The key's time to live is counted in data time: 30
    days after its newest item, so that a historic data set is not expired at birth.

    Args:
        client: from `connect`.
        rows: user id and, per item, epoch seconds of the last time.
        as_of: epoch seconds that the data reach.

    Returns:
        the number of users written.
    """
    users = 0
    with reachable():
        for block in blocks(rows):
            with client.pipeline(transaction=False) as pipe:
                for user_id, items in block:
                    _watch(pipe, watched_key(user_id), items, as_of)
                pipe.execute()
            users += len(block)
    return users


def _watch(pipe: Any, key: str, items: Mapping[str, float], as_of: float) -> None:
    seconds = max(int(max(items.values()) + WATCHED_SECONDS - as_of), 1)
    pipe.zadd(key, dict(items), gt=True)
    pipe.zremrangebyscore(key, "-inf", f"({as_of - WATCHED_SECONDS}")
    # NX sets it on a new key, GT only prolongs: a re-run of an old day shortens nobody's memory.
    pipe.expire(key, seconds, nx=True)
    pipe.expire(key, seconds, gt=True)


def write_feeds(client: Client, feeds: Iterable[tuple[str, Ranked]]) -> int:
    """Write precomputed feeds, which Redis forgets after 30 minutes; returns how many."""
    written = 0
    with reachable():
        for block in blocks(feeds):
            with client.pipeline(transaction=False) as pipe:
                for user_id, ranked in block:
                    pipe.set(feed_key(user_id), encode(ranked), ex=FEED_SECONDS)
                pipe.execute()
            written += len(block)
    return written


def blocks(rows: Iterable[T]) -> Iterator[list[T]]:
    """What one round trip of a writer carries."""
    iterator = iter(rows)
    while block := list(islice(iterator, BLOCK)):
        yield block
