"""The candidate beside the live colour on the same requests: how much changes, and how fast each answers."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.release import Release
from pipelines.backend import Backend
from pipelines.traffic import Request
from recsys.errors import RecsysError
from recsys.inference import RankingRequest
from recsys.inference_client import BlockingClient

TOP = 20
_WARM = 5  # requests that open connections and are not measured
_DEADLINE = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of retrieval and ranking together, over the requests that were answered."""

    p50: float
    p99: float
    answered: int
    failed: int


@dataclass(frozen=True)
class Report:
    """What the replay showed.

    Attributes:
        candidate: of the new release.
        live: of the release that serves, None before the first.
        overlap: mean share of the top 20 that both have in common, None without a live release.
        unchanged: share of requests whose top 20 are the same items.
        problems: the first few errors of the candidate.
    """

    candidate: Latency
    live: Latency | None
    overlap: float | None
    unchanged: float | None
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def verdict(self, max_p99: float) -> list[str]:
        """Why the candidate must not go live, in words; empty if it may.

        The limit is absolute, but where the live release misses it on the same machine in the same minute, the
        machine is to blame: then the candidate must only not be slower than it by more than a quarter.
        """
        reasons = []
        if self.candidate.failed:
            total = self.candidate.failed + self.candidate.answered
            reasons.append(f"{self.candidate.failed} of {total} requests failed, such as {self.problems[0]}")
        allowed = max_p99 if self.live is None else max(max_p99, 1.25 * self.live.p99)
        if self.candidate.answered and self.candidate.p99 > allowed:
            beside = "" if self.live is None else f", the live release has {self.live.p99:.0f} ms"
            reasons.append(f"p99 is {self.candidate.p99:.0f} ms, at most {allowed:.0f} ms are allowed{beside}")
        return reasons


def compare(backend: Backend, candidate: Release, live: Release | None, requests: Sequence[Request]) -> Report:
    """Send every request to both colours, one after the other, so that both meet the same load.

    The candidate has no part in any response to a shopper; the live colour gets one request at a time more.
    """
    with _Colour(backend, candidate) as new:
        if live is None:
            answers = _replay([new], requests)
            return Report(new.latency(), None, None, None, tuple(new.problems[:3]))
        with _Colour(backend, live) as old:
            answers = _replay([new, old], requests)
            shares = [len(a & b) / max(len(b), 1) for a, b in answers if a is not None and b is not None]
            overlap = float(np.mean(shares)) if shares else None
            unchanged = float(np.mean([share == 1 for share in shares])) if shares else None
            return Report(new.latency(), old.latency(), overlap, unchanged, tuple(new.problems[:3]))


def _replay(colours: "Sequence[_Colour]", requests: Sequence[Request]) -> list[list[frozenset[str] | None]]:
    for request in requests[:_WARM]:
        for colour in colours:
            colour.ask(request, measured=False)
    return [[colour.ask(request) for colour in colours] for request in requests]


class _Colour:
    """One side of the comparison: connections, times, errors."""

    def __init__(self, backend: Backend, release: Release) -> None:
        self._release_id = release.release_id
        self._retrieval = BlockingClient(backend.address("retrieval", release.colour))
        self._ranking = BlockingClient(backend.address("ranking", release.colour))
        self._times: list[float] = []
        self.problems: list[str] = []

    def __enter__(self) -> "_Colour":
        return self

    def __exit__(self, *error: object) -> None:
        self._retrieval.__exit__(*error)
        self._ranking.__exit__(*error)

    def ask(self, request: Request, *, measured: bool = True) -> frozenset[str] | None:
        """The ids of the best 20, or None if the colour failed."""
        started = time.perf_counter()
        try:
            found = self._retrieval.retrieve(request.retrieval, release=self._release_id, deadline=_DEADLINE)
            ask = RankingRequest(
                found.item_ids,
                found.scores,
                user_id=request.retrieval.user_id,
                session_id=request.retrieval.session_id,
                region=request.retrieval.region,
                surface=request.surface,
                visitor=found.visitor,
            )
            ranks = self._ranking.rank(ask, release=self._release_id, deadline=_DEADLINE)
        except RecsysError as error:
            if measured:
                self.problems.append(f"{type(error).__name__}: {error}")
            return None
        if measured:
            self._times.append(1000 * (time.perf_counter() - started))
        return frozenset(found.item_ids[np.argsort(-ranks.scores, kind="stable")[:TOP]])

    def latency(self) -> Latency:
        p50, p99 = np.percentile(self._times, [50, 99]) if self._times else (0.0, 0.0)
        return Latency(round(float(p50), 2), round(float(p99), 2), len(self._times), len(self.problems))
