"""What is written to Redis beside the requests: nobody waits for it, and what one turn of the event loop puts here
goes in one round trip.
"""

import asyncio
from typing import NamedTuple

from feature_repo import online


class Letter(NamedTuple):
    """A value to be kept for some seconds, and whether that was done."""

    key: str
    value: bytes
    seconds: int
    done: asyncio.Future[None]


class Outbox:
    """Sends values to the online store."""

    def __init__(self, store: online.AsyncClient) -> None:
        self._store = store
        self._waiting: list[Letter] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, key: str, value: bytes, seconds: int) -> asyncio.Future[None]:
        """Begin to write a value; the future has the exception if Redis does not take it."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(Letter(key, value, seconds, done))
        if self._task is None:
            self._task = asyncio.create_task(self._send())
        return done

    async def flush(self) -> None:
        """Wait for what is under way."""
        if self._task is not None:
            await self._task

    async def _send(self) -> None:
        try:
            while self._waiting:
                letters, self._waiting = self._waiting, []
                await self._sent(letters)
        finally:
            self._task = None

    async def _sent(self, letters: list[Letter]) -> None:
        answers: list[object]
        try:
            answers = await self._store.each(*(("SET", key, value, "EX", time) for key, value, time, _ in letters))
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody may wait for these values for ever
            answers = [error] * len(letters)
        for letter, answer in zip(letters, answers, strict=True):
            if letter.done.cancelled():
                continue
            if isinstance(answer, Exception):
                letter.done.set_exception(answer)
            else:
                letter.done.set_result(None)
