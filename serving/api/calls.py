"""Calls to the other parts of the platform: each with a deadline, a circuit breaker and a named fall."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np

from feature_repo import online, shoppers
from feature_repo.online import Ranked
from feature_repo.shoppers import Shopper
from recsys import inference, inference_client
from recsys.errors import Retryable
from recsys.inference import RankingRequest, RankingResponse, RetrievalRequest, RetrievalResponse
from recsys.settings import ROLES, Settings
from serving.api import problems
from serving.api.breaker import Breaker
from serving.api.live import LiveRelease
from serving.api.metrics import Metrics
from serving.api.quality import Quality
from serving.api.trace import Fall, Trace

log = logging.getLogger(__name__)
T = TypeVar("T")

# The part is well: the release has just changed, or the caller was in a hurry, which must not shut it to the others.
UNBLAMED = ("release", "deadline")
SCALING = ("retrieval", "ranking")  # stages whose time grows with the candidates


class Calls:
    """The predictors of the live colour, and the online store. What does not serve is None and a fall in the trace.

    Attributes:
        quality: how much may be asked of the predictors now.
    """

    def __init__(
        self, settings: Settings, client: inference_client.Client, store: online.AsyncClient, metrics: Metrics
    ) -> None:
        self._settings, self._client, self._store, self._metrics = settings, client, store, metrics
        api = settings.api
        milliseconds = {
            "retrieval": api.retrieval_deadline_ms,
            "ranking": api.ranking_deadline_ms,
            "online": api.online_deadline_ms,
        }
        self._deadlines = {stage: value / 1000 for stage, value in milliseconds.items()}
        # One for each colour: a variant's release that is away must not shut the live one.
        self._breakers: dict[str, Breaker] = {}
        self.quality = Quality(api.quality_minimum, api.quality_delay_seconds)
        metrics.quality.set_function(lambda: self.quality.factor)

    async def warm(self, live: LiveRelease) -> None:
        """Open the connections to the predictors of a release, so that its first request does not pay for them."""
        colour = live.release.colour
        await asyncio.gather(
            *(self._client.ready(self._settings.predictor_address(role, colour), role, deadline=1.0) for role in ROLES)
        )
        self._metrics.serves(live.release_id, live.as_of)

    async def retrieve(self, request: RetrievalRequest, live: LiveRelease, trace: Trace) -> RetrievalResponse | None:
        address = self._settings.predictor_address("retrieval", live.release.colour)
        found = await self._attempt(
            "retrieval",
            lambda deadline: self._client.retrieve(address, request, release=live.release_id, deadline=deadline),
            trace,
            live.release.colour,
        )
        if found is not None:
            trace.within("retrieval", found.timings)
            if found.profile.degraded:
                self._fell(trace, "features", "down")
        return found

    async def rank(self, request: RankingRequest, live: LiveRelease, trace: Trace) -> RankingResponse | None:
        def call(deadline: float) -> Awaitable[RankingResponse]:
            return self._scored(request, live, deadline)

        answer = await self._attempt("ranking", call, trace, live.release.colour)
        if answer is not None:
            trace.within("ranking", answer.timings)
        return answer

    async def rank_again(self, request: RankingRequest, live: LiveRelease) -> RankingResponse | None:
        """The same for a page of the past; None where ranking does not serve.

        No shopper waits for it, so it has a deadline of its own, and opens no circuit and lowers no quality.
        """
        try:
            return await self._scored(request, live, self._settings.api.explain_deadline_ms / 1000)
        except Retryable:
            return None
        except (inference.Refused, ValueError, KeyError) as error:
            log.error("ranking did not serve a page of the past: %s", problems.trail(error))
            return None

    async def _scored(self, request: RankingRequest, live: LiveRelease, deadline: float) -> RankingResponse:
        """The ranker's answer within so many seconds. Raises RecsysError, or ValueError where it is nonsense."""
        address = self._settings.predictor_address("ranking", live.release.colour)
        answer = await self._client.rank(address, request, release=live.release_id, deadline=deadline)
        if len(answer.scores) != len(request.item_ids) or not np.isfinite(answer.scores).all():
            raise ValueError(f"{address} gave {len(answer.scores)} scores, not all of them numbers")
        return answer

    async def shopper(self, user_id: str, session_id: str, live: LiveRelease, trace: Trace) -> Shopper | None:
        """Who asks; None, with a note, where the store does not say."""
        now = live.now(time.time())
        held = self._settings.dismissals
        found = await self._attempt(
            "online", lambda _: shoppers.read(self._store, user_id, session_id, now, held), trace
        )
        if found is None:
            trace.notes.append("items that the shopper knows already or does not want could not be left out")
        return found

    async def lists(self, keys: Sequence[str], trace: Trace) -> dict[str, Ranked] | None:
        """Lists of the online store by key; an absent one is empty."""
        return await self._attempt("online", lambda _: online.read_lists(self._store, keys), trace)

    async def _attempt(
        self, stage: str, call: Callable[[float], Awaitable[T]], trace: Trace, colour: str = ""
    ) -> T | None:
        """Call another part within its deadline, or what the caller's leaves of it, in seconds; None, a fall in the
        trace and a count where it does not serve."""
        deadline = min(self._deadlines[stage], trace.left())
        if deadline <= 0:
            self._fell(trace, stage, "deadline")
            return None
        part = f"{stage}-{colour}" if colour else stage
        breaker = self._breakers.get(part) or self._breakers.setdefault(part, Breaker(part))
        if not breaker.allows():
            self._fell(trace, stage, "open")
            return None
        started = time.perf_counter()
        try:
            with trace.timed(stage):
                async with asyncio.timeout(deadline):
                    found = await call(deadline)
        except (TimeoutError, inference.Timeout):
            why = "late" if deadline == self._deadlines[stage] else "deadline"
        except inference.WrongRelease:
            why = "release"
        except Retryable:
            why = "down"
        except (inference.Refused, ValueError, KeyError) as error:
            log.error("%s did not serve: %s", stage, problems.trail(error))
            why = "refused"
        else:
            breaker.succeeded()
            self._spent(stage, time.perf_counter() - started)
            return found
        if why in UNBLAMED:
            breaker.undecided()
        else:
            breaker.failed(why)
        if why == "late":
            self._spent(stage, deadline)
        self._fell(trace, stage, why)
        return None

    def _spent(self, stage: str, seconds: float) -> None:
        """Tell the quality factor. A part that is down or refuses says nothing about its load."""
        if stage in SCALING:
            self.quality.observe(seconds / self._deadlines[stage])

    def _fell(self, trace: Trace, stage: str, why: str) -> None:
        trace.falls.append(Fall(stage, why))
        self._metrics.falls.labels(stage, why).inc()
