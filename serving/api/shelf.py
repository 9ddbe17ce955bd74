"""Values that are kept in Redis for a while. Nothing waits for a write: until it is done, memory answers."""

import asyncio
import logging

import redis

from feature_repo import online

log = logging.getLogger(__name__)

WRITES = 256  # values on their way to Redis; beyond that one is not kept, and what needs it is made again


class Shelf:
    """Keeps bytes by key.

    Args:
        store: the online store.
        prefix: of the keys.
        seconds: that a value is kept.
        deadline: seconds that a reader waits for Redis.
    """

    def __init__(self, store: online.AsyncClient, prefix: str, seconds: int, deadline: float) -> None:
        self._store, self._prefix, self._seconds, self._deadline = store, prefix, seconds, deadline
        self._writing: dict[str, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, key: str, value: bytes) -> None:
        """Begin to keep a value."""
        if len(self._writing) < WRITES:
            self._writing[key] = value
            task = asyncio.create_task(self._write(key, value))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def get(self, key: str, left: float = float("inf")) -> bytes | None:
        """A kept value; None if Redis does not have it or does not answer.

        Args:
            key: as it was put.
            left: seconds that the caller can wait.
        """
        if key in self._writing:
            return self._writing[key]
        try:
            async with asyncio.timeout(min(self._deadline, left)):
                found: bytes | None = await self._store.get(f"{self._prefix}:{key}")
                return found
        except (redis.RedisError, OSError, TimeoutError):
            return None

    async def flush(self) -> None:
        """Wait for the writes that are under way."""
        await asyncio.gather(*self._tasks)

    async def _write(self, key: str, value: bytes) -> None:
        try:
            await self._store.set(f"{self._prefix}:{key}", value, ex=self._seconds)
        except (redis.RedisError, OSError) as error:
            log.warning("a value of %s could not be kept: %s", self._prefix, error)
        finally:
            del self._writing[key]
