"""What exploration has learnt, and whom each new item was shown to, in the online store.

    {arms}:counts:<item_id>     24 bytes: time, trials, successes of an item
    {arms}:linear:<name>        8 * (1 + d + d²) bytes: time, f [d], A [d, d] of a linear policy
    {arms}:batch:<of>:<batch>   there for a day after a batch of updates was applied; of: counts, linear:<name>
    {arms}:visitors:<item_id>   set of the visitors that an item below its guarantee was shown to
    {arms}:released             set of the items that have reached it

Successes are net: a no to an item counts off, so they may be below 0.

Numbers are little-endian float64, as numpy and Redis' Lua both read them; time is epoch seconds. Counts and
statistics are right at their time and lose half their weight in every half-life after it. An update of an earlier time
is weighed by what is left of it, so the order of updates does not matter. A visitor is a 64-bit digest of its id, which
Redis keeps in 8 bytes, up to 512 of a set, instead of some 100; that two of 1,000 visitors share one happens once in
10¹³ items. The braces keep all keys on one node of a cluster, as a script needs.

All of it is as durable as Redis' append-only file: a machine that dies may lose the last second.

Each function here describes one command or script, and so one round trip; `run` and `run_async` carry it out:

    arms.run(client, arms.expose(["mug"], "ann"))
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from feature_repo import online

Floats = NDArray[np.float64]
T = TypeVar("T")

_RELEASED = "{arms}:released"

GUARANTEE = 1_000  # distinct users; a rate of 5 % is then known to about 0.7 points
BATCH_SECONDS = online.SECONDS_PER_DAY  # within which a batch is repeated, if ever
HALF_LIVES = 20  # after which a millionth is left of a count, and Redis may forget it
VISITOR_SECONDS = 90 * online.SECONDS_PER_DAY  # an item that nobody was shown for so long has left the catalogue

# What both updates share: what is left of the old and of the new at the later of their times.
_FADE = """
local function number(text, n) return (struct.unpack('<d', text, 8 * n + 1)) end
local at, half_life = tonumber(ARGV[1]), tonumber(ARGV[2])
local function fade(before)
    local apart = 0.5 ^ (math.abs(at - before) / half_life)
    if before < at then return at, apart, 1 end
    return before, 1, apart
end
local function keep(key, value) redis.call('SET', key, value, 'EX', ARGV[3]) end
local function applied() return not redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[4]) end
"""

_ADD_COUNTS = (
    _FADE
    + """
if applied() then return 0 end
for i = 2, #KEYS do
    local old = redis.call('GET', KEYS[i]) or struct.pack('<ddd', at, 0, 0)
    local now, was, is = fade(number(old, 0))
    local trials = was * number(old, 1) + is * tonumber(ARGV[2 * i + 1])
    local successes = was * number(old, 2) + is * tonumber(ARGV[2 * i + 2])
    keep(KEYS[i], struct.pack('<ddd', now, trials, successes))
end
return 1
"""
)

_ADD_STATISTICS = (
    _FADE
    + """
local new, old = ARGV[5], redis.call('GET', KEYS[2])
if old and #old ~= #new then return -#old end
if applied() then return 0 end
if not old then keep(KEYS[2], new) return 1 end
local now, was, is = fade(number(old, 0))
local sums = {struct.pack('<d', now)}
for i = 1, #new / 8 - 1 do
    sums[i + 1] = struct.pack('<d', was * number(old, i) + is * number(new, i))
end
keep(KEYS[2], table.concat(sums))
return 1
"""
)

_EXPOSE = """
local visitor, limit = ARGV[1], tonumber(ARGV[2])
local may = {}
for i = 2, #KEYS do
    local item = ARGV[i + 2]
    may[i - 1] = 0
    if redis.call('SISMEMBER', KEYS[1], item) == 0 then
        local before = redis.call('SCARD', KEYS[i])
        local known = redis.call('SISMEMBER', KEYS[i], visitor) == 1
        local added = 0
        if not known and before < limit then
            added = redis.call('SADD', KEYS[i], visitor)
            redis.call('EXPIRE', KEYS[i], ARGV[3])
        end
        if known or added == 1 then may[i - 1] = 1 end
        if before + added >= limit then
            redis.call('SADD', KEYS[1], item)
            redis.call('DEL', KEYS[i])
        end
    end
end
return may
"""

_UNDER_EXPOSED = """
local found = {}
for i = 2, #KEYS do
    found[i - 1] = redis.call('SISMEMBER', KEYS[1], ARGV[i - 1]) == 1 and -1 or redis.call('SCARD', KEYS[i])
end
return found
"""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One round trip: what to send, and what its reply means. Nothing is sent where there is nothing to ask."""

    command: tuple[bytes | str | float, ...]
    answer: Callable[[Any], T]


@dataclass(frozen=True, eq=False)
class Counts:
    """What is known of n items, in the order they were asked for; an unknown one has zeros.

    Attributes:
        successes: [n] decayed counts; 0 where more was said against an item than for it.
        failures: [n] trials without success, and what was said against an item beyond its successes; 0 where successes
            came from elsewhere than trials.
        age: [n] seconds since the counts were right; what remains to be decayed by the reader.
    """

    successes: Floats
    failures: Floats
    age: Floats


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a linear policy has learnt.

    Attributes:
        gram: [d, d] decayed sum of x xᵀ.
        moment: [d] decayed sum of reward · x.
        age: seconds since they were right.
    """

    gram: Floats
    moment: Floats
    age: float


def run(client: online.Client, call: Call[T]) -> T:
    """Make a call. Raises Retryable when Redis does not answer in time, and what the call's maker says."""
    with online.reachable():
        reply = client.execute_command(*call.command) if call.command else []
    return call.answer(reply)


async def run_async(client: online.AsyncClient, call: Call[T]) -> T:
    """The same for asyncio."""
    with online.reachable():
        reply = await client.execute_command(*call.command) if call.command else []  # type: ignore[no-untyped-call]
    return call.answer(reply)


def add_counts(batch: str, seen: Mapping[str, tuple[float, float]], at: float, half_life: float) -> Call[bool]:
    """Add what new events say, all of it or nothing; false if this batch was added before.

    Args:
        batch: id of these events, so that the call may be repeated after a Retryable.
        seen: per item, its trials (impressions) and net successes (positive events, less what was said against it).
        at: epoch seconds of the events.
        half_life: seconds.

    Raises:
        ValueError: negative trials or time, an infinite number, or a half-life that is not above 0.
    """
    numbers = np.array(list(seen.values()), np.float64).reshape(-1, 2)
    if not np.isfinite(numbers).all() or (numbers[:, 0] < 0).any():
        item = next(item for item, (trials, won) in seen.items() if not (0 <= trials < np.inf and abs(won) < np.inf))
        raise ValueError(f"trials and successes must be finite, and trials 0 or more, got {seen[item]} for {item}")
    keys = [_batch_key(f"counts:{batch}"), *map(counts_key, seen)]
    return Call(_script(_ADD_COUNTS, keys, *_times(at, half_life), *numbers.ravel().tolist()), bool)


def counts(item_ids: Sequence[str], now: float) -> Call[Counts]:
    """Read what is known of a pool, for a request at `now`, epoch seconds."""

    def answer(values: list[bytes | None]) -> Counts:
        raw = b"".join(value or bytes(24) for value in values)
        at, trials, successes = np.frombuffer(raw, "<f8").astype(np.float64).reshape(-1, 3).T
        failures = np.maximum(trials - successes, 0)
        return Counts(np.maximum(successes, 0), failures, np.maximum(now - at, 0))

    return Call(("MGET", *map(counts_key, item_ids)) if item_ids else (), answer)


def add_statistics(name: str, batch: str, gram: Floats, moment: Floats, at: float, half_life: float) -> Call[bool]:
    """Add new outcomes to a linear policy's statistics; false if this batch was added before.

    Costs Redis about 1 ms for 32 features, so outcomes are best summed to batches of some seconds.

    Args:
        name: of the policy and of the meaning of its features; features that change need a new name.
        batch: id of these outcomes, so that the call may be repeated after a Retryable.
        gram: [d, d] sum of x xᵀ over the outcomes.
        moment: [d] sum of reward · x.
        at: epoch seconds of the outcomes.
        half_life: seconds.

    Raises:
        ValueError: shapes or values that make no sense, or (when the call is made) another d than is kept.
    """
    dim = np.size(moment)
    new = np.concatenate([[at], np.ravel(moment), np.ravel(gram)]).astype("<f8")
    if np.shape(moment) != (dim,) or np.shape(gram) != (dim, dim) or not np.isfinite(new).all():
        raise ValueError(f"give finite gram [d, d] and moment [d], got {np.shape(gram)} and {np.shape(moment)}")

    def answer(reply: int) -> bool:
        if reply < 0:
            raise ValueError(f"{name} keeps {-reply // 8} numbers and not {new.size}; new features need a new name")
        return bool(reply)

    keys = [_batch_key(f"linear:{name}:{batch}"), statistics_key(name)]
    return Call(_script(_ADD_STATISTICS, keys, *_times(at, half_life), new.tobytes()), answer)


def statistics(name: str, now: float) -> Call[Statistics | None]:
    """Read a linear policy's statistics, at `now` in epoch seconds; None before the first outcome."""

    def answer(value: bytes | None) -> Statistics | None:
        if value is None:
            return None
        at, *_ = numbers = np.frombuffer(value, "<f8").astype(np.float64)
        dim = int(np.sqrt(numbers.size - 1))  # d² + d lies between d² and (d + 1)²
        return Statistics(numbers[1 + dim :].reshape(dim, dim), numbers[1 : 1 + dim], max(now - float(at), 0.0))

    return Call(("GET", statistics_key(name)), answer)


def expose(item_ids: Sequence[str], visitor: str, limit: int = GUARANTEE) -> Call[list[bool]]:
    """Count a visitor for items that are shown for their guarantee, and say for each whether it still was for it.

    A visitor counts once per item. The one who makes it `limit` counts, and releases the item for good: for everyone
    after, and for an item that was released before, the answer is no. An item that no new visitor was shown for 90
    days begins again.

    Args:
        item_ids: what is shown.
        visitor: user or session.
        limit: distinct visitors, at least 1.

    Raises:
        ValueError: limit is below 1.
    """
    _above_zero("limit", limit)
    digest = int.from_bytes(hashlib.blake2b(visitor.encode(), digest_size=8).digest(), signed=True)
    keys = [_RELEASED, *map(visitors_key, item_ids)]
    return Call(_script(_EXPOSE, keys, digest, limit, VISITOR_SECONDS, *item_ids), lambda may: list(map(bool, may)))


def under_exposed(item_ids: Sequence[str], limit: int = GUARANTEE) -> Call[dict[str, int]]:
    """Those of the items that fewer than `limit` visitors were shown, each with how many were.

    Raises:
        ValueError: limit is below 1.
    """
    _above_zero("limit", limit)

    def answer(found: list[int]) -> dict[str, int]:
        return {item: count for item, count in zip(item_ids, found, strict=True) if 0 <= count < limit}

    keys = [_RELEASED, *map(visitors_key, item_ids)]
    return Call(_script(_UNDER_EXPOSED, keys, *item_ids), answer)


def counts_key(item_id: str) -> str:
    return f"{{arms}}:counts:{item_id}"


def statistics_key(name: str) -> str:
    return f"{{arms}}:linear:{name}"


def visitors_key(item_id: str) -> str:
    return f"{{arms}}:visitors:{item_id}"


def _batch_key(batch: str) -> str:
    return f"{{arms}}:batch:{batch}"


def _script(script: str, keys: Sequence[str], *arguments: bytes | str | float) -> tuple[bytes | str | float, ...]:
    # By text and not by digest: half a kilobyte more, and a Redis that has restarted does not have to be taught first.
    return ("EVAL", script, len(keys), *keys, *arguments)


def _times(at: float, half_life: float) -> tuple[float, ...]:
    """The first arguments of an update: time, half-life, and seconds until Redis forgets the value and the batch."""
    if not 0 <= at < np.inf:
        raise ValueError(f"at must be epoch seconds, got {at}")
    _above_zero("half_life", half_life)
    return float(at), float(half_life), max(int(HALF_LIVES * half_life), 1), BATCH_SECONDS


def _above_zero(name: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be above 0, got {value}")
