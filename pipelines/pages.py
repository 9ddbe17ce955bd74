"""Pages of recommendations for many users, asked of the running API by a caller that gives way to shoppers."""

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from recsys import client
from recsys.errors import Retryable, UsageError
from recsys.settings import Settings

PATH = "/api/v1/recommendations"
PROMISE_MS = 100.0  # what the API promises to shoppers; a page that took longer says that it has enough to do
ENOUGH = 0.8  # quality below which the API is short of time; a slow call now and then is nothing
PATIENCE = 60.0  # seconds that one page may be asked for again: longer than a restart of the API takes
TIMEOUT = 10.0  # seconds; the API answers in a tenth of one
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0  # seconds between tries; doubled each time, or longer if the API says so

CALM = 20  # calm answers for one request more in flight
REST = 0.25  # seconds without a new request after an answer that was not calm

Page = dict[str, Any]


@dataclass
class Pace:
    """How many requests may be in flight, and for how long none may begin.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989): the width is halved by an answer that shows
    strain, is one after a refusal, and grows by one in `CALM` answers.

    Args:
        most: requests in flight at most; also the width at the start.
        clock: seconds.
    """

    most: int
    clock: Callable[[], float] = time.monotonic
    _width: float = field(init=False)
    _until: float = field(default=0.0, init=False)
    _quality: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        self._width = float(self.most)

    @property
    def width(self) -> int:
        return int(self._width)

    def rest(self) -> float:
        """Seconds for which no request may begin."""
        return max(0.0, self._until - self.clock())

    def answered(self, page: Page, milliseconds: float) -> None:
        """Judge by a page, and the time that the API says it took, how much more it can do."""
        before, self._quality = self._quality, page["quality"]
        short = self._quality < ENOUGH
        if page["degraded"] or milliseconds > PROMISE_MS or (short and self._quality < before):
            self._width = max(1.0, self._width / 2)
            self._pause(REST)
        elif not short:  # it recovers within seconds, and until then the pace stays as it is
            self._width = min(float(self.most), self._width + 1 / CALM)

    def refused(self, seconds: float) -> None:
        """The API did not serve, and wants to be left alone for so long."""
        self._width = 1.0
        self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        self._until = max(self._until, self.clock() + seconds)


class Caller:
    """Asks for pages; use it in an `async with` block.

    Args:
        settings: say where the API is.
        query: parameters of every page, the user aside.
        pace: how fast.

    Attributes:
        retries: requests that were made once more.
    """

    def __init__(self, settings: Settings, query: dict[str, Any], pace: Pace) -> None:
        self._url, self._query, self._pace = settings.api_url, query, pace
        headers = {"X-API-Key": client.demo_key(settings)}
        self._http = httpx.AsyncClient(base_url=settings.api_url, headers=headers, timeout=TIMEOUT)
        self.retries = 0

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def pages(self, users: Sequence[str]) -> list[Page]:
        """One page for each user, in their order.

        Raises:
            Retryable: the API did not serve for as long as PATIENCE lasts.
            UsageError: it refused the request; the message is its own.
        """
        tasks: list[asyncio.Task[Page]] = []
        running: set[asyncio.Task[Page]] = set()
        try:
            for user in users:
                while len(running) >= self._pace.width:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()  # an error ends it all
                await asyncio.sleep(self._pace.rest())
                task = asyncio.create_task(self._page(user))
                tasks.append(task)
                running.add(task)
            return await asyncio.gather(*tasks)
        finally:
            for task in running:
                task.cancel()

    async def _page(self, user_id: str) -> Page:
        started = self._pace.clock()
        for attempt in itertools.count():
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
            try:
                answer = await self._http.get(PATH, params=self._query | {"user_id": user_id})
            except httpx.TransportError as error:
                problem = f"does not answer ({type(error).__name__})"
            else:
                if answer.is_success:
                    page: Page = answer.json()
                    self._pace.answered(page, _total_ms(answer))
                    return page
                if answer.status_code != httpx.codes.TOO_MANY_REQUESTS and not answer.is_server_error:
                    raise UsageError(client.problem(answer))
                problem = f"answered {answer.status_code}: {client.problem(answer)}"
                wait = max(wait, _retry_after(answer))
            if self._pace.clock() + wait - started > PATIENCE:
                break
            self.retries += 1
            self._pace.refused(wait)
            await asyncio.sleep(wait)
        raise Retryable(f"the API at {self._url} {problem}, for {PATIENCE:g} s; what is done is kept: run it again")


def _retry_after(answer: httpx.Response) -> float:
    """Seconds; the API sends no dates."""
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def _total_ms(answer: httpx.Response) -> float:
    found = re.search(r"\btotal;dur=([\d.]+)", answer.headers.get("Server-Timing", ""))
    return float(found[1]) if found else 0.0
