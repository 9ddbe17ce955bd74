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
from recsys import inference
from recsys.errors import Retryable
from recsys.inference import RankingRequest, RankingResponse, RetrievalRequest, RetrievalResponse
from recsys.settings import ROLES, Settings
from serving.api.breaker import Breaker
from serving.api.live import LiveRelease
from serving.api.metrics import Metrics
from serving.api.trace import Fall, Trace

log = logging.getLogger(__name__)
T = TypeVar("T")

STAGES = ("retrieval", "ranking", "online")


class Calls:
    """The predictors of the live colour, and the online store. What does not serve is None and a fall in the trace."""

    def __init__(
        self, settings: Settings, client: inference.Client, store: online.AsyncClient, metrics: Metrics
    ) -> None:
        self._settings, self._client, self._store, self._metrics = settings, client, store, metrics
        self._breakers = {stage: Breaker() for stage in STAGES}

    async def warm(self, live: LiveRelease) -> None:
        """Open the connections to the predictors of a release, so that its first request does not pay for them."""
        colour = live.release.colour
        await asyncio.gather(
            *(self._client.ready(self._settings.predictor_address(role, colour), role, deadline=1.0) for role in ROLES)
        )
        self._metrics.serves(live.release_id)

    async def retrieve(self, request: RetrievalRequest, live: LiveRelease, trace: Trace) -> RetrievalResponse | None:
        address = self._settings.predictor_address("retrieval", live.release.colour)
        deadline = self._settings.api.retrieval_deadline_ms / 1000
        found = await self._attempt(
            "retrieval",
            lambda: self._client.retrieve(address, request, release=live.release_id, deadline=deadline),
            deadline,
            trace,
        )
        if found is not None:
            trace.within("retrieval", found.timings)
            if found.profile.degraded:
                self._fell(trace, "features", "down")
        return found

    async def rank(self, request: RankingRequest, live: LiveRelease, trace: Trace) -> RankingResponse | None:
        address = self._settings.predictor_address("ranking", live.release.colour)
        deadline = self._settings.api.ranking_deadline_ms / 1000

        async def call() -> RankingResponse:
            answer = await self._client.rank(address, request, release=live.release_id, deadline=deadline)
            if len(answer.scores) != len(request.item_ids) or not np.isfinite(answer.scores).all():
                raise ValueError(f"{address} gave {len(answer.scores)} scores, not all of them numbers")
            return answer

        answer = await self._attempt("ranking", call, deadline, trace)
        if answer is not None:
            trace.within("ranking", answer.timings)
        return answer

    async def shopper(self, user_id: str, session_id: str, live: LiveRelease, trace: Trace) -> Shopper | None:
        """Who asks; None, with a note, where the store does not say."""
        found = await self._online(
            lambda: shoppers.read(self._store, user_id, session_id, live.now(time.time())), trace
        )
        if found is None:
            trace.notes.append("items that the shopper knows already could not be left out")
        return found

    async def lists(self, keys: Sequence[str], trace: Trace) -> dict[str, Ranked] | None:
        """Lists of the online store by key; an absent one is empty."""
        return await self._online(lambda: online.read_lists(self._store, keys), trace)

    async def _online(self, call: Callable[[], Awaitable[T]], trace: Trace) -> T | None:
        return await self._attempt("online", call, self._settings.api.online_deadline_ms / 1000, trace)

    async def _attempt(self, stage: str, call: Callable[[], Awaitable[T]], deadline: float, trace: Trace) -> T | None:
        """Call another part within its deadline; None, a fall in the trace and a count where it does not serve."""
        breaker = self._breakers[stage]
        if not breaker.allows():
            self._fell(trace, stage, "open")
            return None
        try:
            with trace.timed(stage):
                async with asyncio.timeout(deadline):
                    found = await call()
        except (TimeoutError, inference.Timeout):
            why = "late"
        except inference.WrongRelease:
            why = "release"  # the part is well; the release has just changed
        except Retryable:
            why = "down"
        except (inference.Refused, ValueError, KeyError) as error:
            log.error("%s: %s", stage, error)
            why = "refused"
        else:
            breaker.succeeded()
            return found
        if why != "release":
            breaker.failed()
        self._fell(trace, stage, why)
        return None

    def _fell(self, trace: Trace, stage: str, why: str) -> None:
        trace.falls.append(Fall(stage, why))
        self._metrics.falls.labels(stage, why).inc()
