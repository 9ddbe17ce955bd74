"""What has changed in the catalogue since the releases that may serve were made, in the online store.

    {changes}:items                  hash item_id → JSON of the item by `feature_repo.events.ITEMS`; null: deleted
    {changes}:order                  sorted set item_id, score = version of its last change
    {changes}:vectors:<release_id>   hash item_id → version, then the vector that the release's item tower gives it,
                                     all little-endian: float64, [dim] float32
    {changes}:embedded               set of the releases that have vectors
    {changes}:forgotten              version as of which something was taken out last

A version is epoch microseconds by Redis' own clock and never given twice, so a reader that knows the greatest it has
seen reads what is new in one round trip, and a Redis that has lost data does not begin again at numbers that readers
have passed. The braces keep all keys on one node of a cluster, as a script needs.

A change stays until every release that may serve contains it, however long none is made: a deployment takes it out
(`pipelines/contained.py`), no clock does. What is kept is so one entry, some 1 KB, for each item that has changed since
the oldest of those releases; an item that changes a thousand times has one. A reader that sees that something was taken
out begins again, so its memory has the same bound.

An item is content and no more; what a reader makes of it, and what of it the release holds already, is the reader's
business.
"""

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_repo import arms, online
from feature_repo.events import ITEMS, Type

log = logging.getLogger(__name__)

# No change is taken out earlier: a run that has read the bus before the change may still be on its way to a release.
KEPT_SECONDS = 14 * online.SECONDS_PER_DAY
PAGE = 250  # changes per round trip of a reader: 5 ms, during which requests of the same event loop wait
MICRO = 1_000_000
_KEYS = ("{changes}:items", "{changes}:order", "{changes}:forgotten")
_VECTORS = "{changes}:vectors:"
_EMBEDDED = "{changes}:embedded"
LARGEST = 2.0**53  # a price of more is none, and Arrow refuses an integer that no double holds
_LONE = re.compile("[\ud800-\udfff]")  # JSON can say them, no encoding can, and one would stop all that follow


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _LONE.search(value)


# By hand, because Arrow takes 140 microseconds to judge one row, and an event loop waits for a page of them.
_IS: Mapping[Type, Callable[[Any], bool]] = {
    "string": _is_text,
    "double": lambda value: type(value) in (int, float) and -LARGEST < value < LARGEST,
    "boolean": lambda value: isinstance(value, bool),
    "timestamp": lambda value: isinstance(value, str),
    "array<string>": lambda value: isinstance(value, list) and all(map(_is_text, value)),
}

Item = Mapping[str, Any]  # the columns of ITEMS

_PUT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2] or 0
local version = math.max(now, last + 1)
for i = 1, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call('ZADD', KEYS[2], string.format('%.0f', version), ARGV[i])
    version = version + 1
end
return version - 1
"""

_FORGET = """
local gone = 0
for i = 1, #ARGV, 2 do
    if redis.call('ZSCORE', KEYS[2], ARGV[i]) == ARGV[i + 1] then
        redis.call('HDEL', KEYS[1], ARGV[i])
        redis.call('ZREM', KEYS[2], ARGV[i])
        gone = gone + 1
    end
end
if gone > 0 then
    local time = redis.call('TIME')
    redis.call('SET', KEYS[3], string.format('%.0f', time[1] * 1000000 + time[2]))
end
return gone
"""

_SINCE = """
local page = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local found = {redis.call('GET', KEYS[3]) or '0'}
for i = 1, #page, 2 do
    found[#found + 1] = page[i]
    found[#found + 1] = page[i + 1]
    found[#found + 1] = redis.call('HGET', KEYS[1], page[i]) or ''
end
return found
"""


class Change(NamedTuple):
    """The last change of one item: what it is now, or None where it was deleted."""

    version: int
    item: Item | None

    @property
    def available(self) -> bool:
        return self.item is not None and bool(self.item["available"])


@dataclass(frozen=True, eq=False)
class Overlay:
    """All changes, as one process knows them; replaced whole.

    Attributes:
        changes: by item id.
        version: the greatest that was seen.
        forgotten: when the last of them was taken out of the store, as a version.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    version: int = 0
    forgotten: int = 0

    @cached_property
    def items(self) -> dict[str, Item | None]:
        return {item_id: change.item for item_id, change in self.changes.items()}

    def after(self, found: "Found") -> "Overlay":
        """With what one reading gave; what a reading from the beginning gave takes the place of all."""
        if found.forgotten > self.forgotten:
            return Overlay(found.changes, found.version, found.forgotten)
        return Overlay({**self.changes, **found.changes}, max(self.version, found.version), self.forgotten)


class Found(NamedTuple):
    """What one reading gave: changes that can be read, the greatest version, of any, and when one was taken out."""

    changes: Mapping[str, Change]
    version: int
    forgotten: int


def put(changed: Mapping[str, Item | None]) -> arms.Call[int]:
    """Write the new content of items, or None for those that are deleted; all of it at once. Gives the version."""
    records = (part for item_id, item in changed.items() for part in (item_id, encode(item)))
    return arms.Call(("EVAL", _PUT, len(_KEYS), *_KEYS, *records), int)


def since(version: int) -> arms.Call[Found]:
    """Read the changes after a version, the oldest `PAGE` of them; one that cannot be read is logged and left out."""

    def answer(reply: Sequence[bytes]) -> Found:
        found: dict[str, Change] = {}
        greatest = version
        for item_id, score, record in zip(*[iter(reply[1:])] * 3, strict=True):
            greatest = int(float(score))
            try:
                found[item_id.decode()] = Change(greatest, decode(record))
            except ValueError as error:  # without the item's id: logs hold none
                log.error("change %d of the catalogue is skipped: %s; send the item again", greatest, error)
        return Found(found, greatest, int(reply[0]))

    return arms.Call(("EVAL", _SINCE, len(_KEYS), *_KEYS, version, PAGE), answer)


def newer(client: online.Client, overlay: Overlay) -> Overlay:
    """What is known with all that is new; the same object where nothing is. Raises Retryable."""
    while True:
        found = arms.run(client, since(overlay.version))
        if found.forgotten > overlay.forgotten and overlay.version:
            overlay = Overlay()  # begin again: what was taken out is no longer to be held
        elif found.version > overlay.version or found.forgotten > overlay.forgotten:
            overlay = overlay.after(found)
        else:
            return overlay


async def newer_async(client: online.AsyncClient, overlay: Overlay) -> Overlay:
    """The same for asyncio."""
    while True:
        found = await arms.run_async(client, since(overlay.version))
        if found.forgotten > overlay.forgotten and overlay.version:
            overlay = Overlay()
        elif found.version > overlay.version or found.forgotten > overlay.forgotten:
            overlay = overlay.after(found)
        else:
            return overlay


def told(item_ids: Sequence[str]) -> arms.Call[set[str]]:
    """Those of some items that a change tells of, if only that they were deleted."""

    def answer(reply: Sequence[bytes | None]) -> set[str]:
        return {item_id for item_id, record in zip(item_ids, reply, strict=True) if record is not None}

    return arms.Call(("HMGET", _KEYS[0], *item_ids) if item_ids else (), answer)


def forget(contained: Mapping[str, int]) -> arms.Call[int]:
    """Take changes out, by item and version; one that has changed again since stays. Gives how many have left."""
    parts = (part for item_id, version in contained.items() for part in (item_id, version))
    return arms.Call(("EVAL", _FORGET, len(_KEYS), *_KEYS, *parts), int)


def forget_vectors(client: online.Client, kept: Collection[str]) -> None:
    """Take out the vectors of every release but these. Raises Retryable."""
    with online.reachable():
        held = {member.decode() for member in client.smembers(_EMBEDDED)}
        if gone := sorted(held - set(kept)):
            client.delete(*map(_vectors_key, gone))
            client.srem(_EMBEDDED, *gone)


def encode(item: Item | None) -> bytes:
    return json.dumps(item, default=lambda moment: moment.isoformat(), ensure_ascii=False).encode()


def decode(record: bytes) -> Item | None:
    """What `encode` wrote. Raises ValueError that says what is wrong."""
    raw = json.loads(record)
    return None if raw is None else checked(raw)


def checked(raw: Any) -> Item:
    """An item from JSON: all columns, times as such. Raises ValueError if it is no row of ITEMS."""
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    ITEMS.check_columns(list(raw))
    row = dict.fromkeys(ITEMS.names) | raw
    for column in ITEMS.columns:
        value = row[column.name]
        if column.required and value in (None, ""):
            raise ValueError(f"{column.name} is empty")
        if value is not None and not _IS[column.type](value):
            raise ValueError(f"{column.name} must be {column.type}, got {value!r}")
    return row | {"created_at": datetime.fromisoformat(raw["created_at"])}


def write_vectors(
    client: online.Client, release_id: str, vectors: Iterable[tuple[str, int, NDArray[np.float32]]]
) -> None:
    """Keep what the item tower of a release makes of new items: id, version, [dim]; for as long as the release may
    serve. Raises Retryable."""
    key = _vectors_key(release_id)
    with online.reachable():
        for block in online.blocks(vectors):
            with client.pipeline(transaction=False) as pipe:
                coded = {item: np.float64(version).tobytes() + vector.tobytes() for item, version, vector in block}
                pipe.sadd(_EMBEDDED, release_id)
                pipe.hset(key, mapping=coded)  # type: ignore[arg-type]  # the stubs want a dict of a wider type
                pipe.execute()


def vectors(release_id: str, wanted: Mapping[str, int], dim: int) -> arms.Call[dict[str, NDArray[np.float32]]]:
    """Read the vectors of items, [dim] each, as far as they are there and of the wanted version."""

    def answer(reply: Sequence[bytes | None]) -> dict[str, NDArray[np.float32]]:
        held = ((item, version, value) for (item, version), value in zip(wanted.items(), reply, strict=True) if value)
        return {
            item: np.frombuffer(value, "<f4", offset=8)
            for item, version, value in held
            if len(value) == 8 + 4 * dim and np.frombuffer(value, "<f8", 1)[0] == version
        }

    return arms.Call(("HMGET", _vectors_key(release_id), *wanted) if wanted else (), answer)


def _vectors_key(release_id: str) -> str:
    return f"{_VECTORS}{release_id}"
