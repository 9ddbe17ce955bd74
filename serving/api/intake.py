"""Bringing events to the disk, once.

The order of writes is what keeps the promise. The log first (flushed), then the answer; the index of known ids in
Redis (`event:<event_id>` → digest of the body) follows the log, and with it what the next request of the same shopper
must know (`feature_repo.shoppers`). A crash between the two makes a retry an event that
is logged twice, which every consumer removes by event_id; the other order would make it an event that is lost. While
Redis is away, this process still knows the ids of its own last events.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis
from pydantic import BaseModel, Field

from feature_repo import arms, changes, dismissals, online, shoppers
from feature_repo.events import POSITIVE
from recsys import bus
from recsys.errors import Retryable
from recsys.inference import Deed
from recsys.settings import Settings
from serving.api.breaker import Breaker
from serving.api.metrics import Metrics
from serving.api.problems import Problem

T = TypeVar("T")
RECENT = 100_000  # ids that the process itself remembers, about 20 MB
RETRY_AFTER = 1
NAMED = 20  # ids of unknown items in a receipt
INDEX_SECONDS = 0.25  # nobody renders a page from this answer: rather wait than log an event twice


class Receipt(BaseModel):
    """What became of the events."""

    accepted: int = Field(description="new events, on the disk now")
    duplicates: int = Field(description="events that were here before, with the same body")
    duplicate_ids: list[str] = Field(description="their ids")
    unknown_items: int = Field(description="events whose item no catalogue knows; taken all the same")
    unknown_item_ids: list[str] = Field(description=f"these items, at most {NAMED} of them")


@dataclass(frozen=True)
class Line:
    """An event as it goes into the log.

    Attributes:
        event_id: its own.
        digest: of the body; by it the event is known again.
        data: the line of the log.
        sent: the fields of the event; `event_time` is epoch seconds.
    """

    event_id: str
    digest: bytes
    data: bytes
    sent: Mapping[str, Any]

    @property
    def item_id(self) -> str:
        """ "" for an event that is about no single item."""
        return str(self.sent.get("item_id") or "")

    @property
    def deed(self) -> Deed | None:
        """What the next request of the same shopper has to know; None for an event that says nothing of taste."""
        if self.sent["event"] not in POSITIVE:
            return None
        return Deed(int(self.sent["event_time"]), self.sent["event"], self.sent["item_id"])


@dataclass
class Receiver:
    """Writes events to the bus and knows them again.

    Attributes:
        learn: called with lines that are new and on the disk; must not wait.
        strangers: those of some items that the release which serves does not know; none while no release does.
    """

    settings: Settings
    log: bus.Log
    store: online.AsyncClient
    metrics: Metrics
    learn: Callable[[Sequence[Line]], None]
    strangers: Callable[[Collection[str]], set[str]]
    _recent: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _arriving: dict[str, tuple[bytes, asyncio.Future[None]]] = field(default_factory=dict)
    _breaker: Breaker = field(default_factory=lambda: Breaker("the index of events in Redis"))

    async def take(self, lines: Sequence[Line]) -> Receipt:
        """Bring events to the disk.

        Raises:
            Problem: 409 if an id is known with another body, 503 if the disk does not keep up.
        """
        known = await self._indexed([line.event_id for line in lines])
        # From here to the registration nothing is awaited, so two requests with one id cannot both find it new.
        fresh: dict[str, Line] = {}
        waiting: list[asyncio.Future[None]] = []
        for line in lines:
            held = self._held(line.event_id, fresh, known, waiting)
            if held is None:
                fresh[line.event_id] = line
            elif held != line.digest:
                self.metrics.events.labels("conflict").inc()
                detail = f"event_id {line.event_id!r} is known with another body; an event never changes, use a new id"
                raise Problem(409, "event-conflict", detail, event_id=line.event_id)
        if fresh:
            await self._append(list(fresh.values()))
        await self._settled(waiting)
        again = sorted({line.event_id for line in lines} - set(fresh))
        duplicates = len(lines) - len(fresh)
        self.metrics.events.labels("accepted").inc(len(fresh))
        self.metrics.events.labels("duplicate").inc(duplicates)
        unknown = await self._unknown(lines)
        self.metrics.unknown_items.inc(sum(line.item_id in unknown for line in fresh.values()))
        return Receipt(
            accepted=len(fresh),
            duplicates=duplicates,
            duplicate_ids=again,
            unknown_items=sum(line.item_id in unknown for line in lines),
            unknown_item_ids=sorted(unknown)[:NAMED],
        )

    async def _unknown(self, lines: Sequence[Line]) -> set[str]:
        """The items that neither the release nor a change knows. The store is asked, because another process may have
        been told of an item a moment ago; where it does not say, nothing is called unknown."""
        strangers = self.strangers({line.item_id for line in lines if line.item_id})
        if not strangers:
            return set()
        told = await self._ask(lambda: arms.run_async(self.store, changes.told(sorted(strangers))))
        return set() if told is None else strangers - told

    def _held(
        self,
        event_id: str,
        fresh: Mapping[str, Line],
        known: Mapping[str, bytes],
        waiting: list[asyncio.Future[None]],
    ) -> bytes | None:
        """Digest under which an id is held: in this batch, on its way, here lately, or in the index."""
        if event_id in fresh:
            return fresh[event_id].digest
        if event_id in self._arriving:
            digest, done = self._arriving[event_id]
            waiting.append(done)  # a duplicate is not acknowledged before its original is on the disk
            return digest
        return self._recent.get(event_id) or known.get(event_id)

    async def _append(self, lines: Sequence[Line]) -> None:
        try:
            done = asyncio.wrap_future(self.log.append([line.data for line in lines]))
        except bus.Full as error:
            raise self._overloaded(error) from error
        for line in lines:
            self._arriving[line.event_id] = (line.digest, done)
        try:
            await asyncio.shield(done)
        except bus.Unwritable as error:
            raise self._overloaded(error) from error
        finally:
            for line in lines:
                del self._arriving[line.event_id]
        for line in lines:
            self._recent[line.event_id] = line.digest
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        await self._index(lines)
        self.learn(lines)

    async def _settled(self, waiting: Sequence[asyncio.Future[None]]) -> None:
        try:
            await asyncio.gather(*map(asyncio.shield, waiting))
        except bus.Unwritable as error:
            raise self._overloaded(error) from error

    def _overloaded(self, error: bus.Full | bus.Unwritable) -> Problem:
        self.metrics.events.labels("refused").inc()
        return Problem(503, "events-not-taken", f"no event was taken: {error}", retry_after=RETRY_AFTER)

    async def _indexed(self, ids: Sequence[str]) -> dict[str, bytes]:
        found = await self._ask(lambda: self.store.mget([f"event:{event_id}" for event_id in ids]))
        return {} if found is None else {key: value for key, value in zip(ids, found, strict=True) if value}

    async def _index(self, lines: Sequence[Line]) -> None:
        async def write() -> None:
            async with self.store.pipeline(transaction=False) as pipe:
                for line in lines:
                    pipe.set(f"event:{line.event_id}", line.digest, ex=self.settings.api.duplicate_seconds, nx=True)
                    who = line.sent.get("user_id", ""), line.sent.get("session_id", "")
                    if deed := line.deed:
                        shoppers.remember(pipe, *who, deed)
                    for said in dismissals.statements(line.sent):
                        dismissals.remember(pipe, *who, said)
                await pipe.execute()

        await self._ask(write)

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """What Redis says; None where it does not: events are taken all the same, and one that hangs holds up a few."""
        if not self._breaker.allows():
            self.metrics.falls.labels("event_index", "open").inc()
            return None
        try:
            async with asyncio.timeout(INDEX_SECONDS):
                found = await call()
        except (redis.RedisError, OSError, Retryable) as error:  # TimeoutError is an OSError
            cause = error.__cause__ or error
            why = "late" if isinstance(cause, TimeoutError | redis.TimeoutError) else "down"
            self._breaker.failed(why)
            self.metrics.falls.labels("event_index", why).inc()
            return None
        self._breaker.succeeded()
        return found
