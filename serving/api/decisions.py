"""The decision log: every response, whole, on the topic `decisions`.

From it one can replay a request, compare releases on recent traffic, and join events to what was shown. The order is
deterministic: what it places was shown there with probability one. What explores has the exact probability with which
its place was to show it, given the places before, and the policy, version and edition that drew it.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path

import orjson

from recsys import bus
from recsys.settings import Settings
from serving.api.contract import Ask, Rung
from serving.api.metrics import Metrics
from serving.api.slate import Shown
from serving.api.trace import Trace

log = logging.getLogger(__name__)

TOPIC = "decisions"
POLICY = {"name": "deterministic", "version": 1}
LINGER = 0.2  # nobody waits for it, so five flushes a second are enough
PENDING_BYTES = 16 * bus.MIB


class Decisions:
    """Writes decisions in the background; what the disk cannot take in time is dropped and counted."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._log = bus.Log(
            Path(settings.storage.root),
            TOPIC,
            linger=LINGER,
            pending_bytes=PENDING_BYTES,
            retention=timedelta(days=settings.bus.retention_days),
        )
        self._metrics = metrics

    def write(
        self, ask: Ask, last_item: str, release_id: str, rung: Rung, items: Sequence[Shown], first: int, trace: Trace
    ) -> None:
        """Queue one response.

        Args:
            ask: what was asked.
            last_item: from the X-Last-Item header.
            release_id: the release that made the items.
            rung: that served.
            items: of this page.
            first: position of the first one, counted over all pages.
            trace: what happened.
        """
        record = {
            "request_id": trace.request_id,
            "correlation_id": trace.correlation_id,
            "time": time.time(),
            "ask": ask.model_dump(exclude={"cursor"}) | {"last_item": last_item},
            "release_id": release_id,
            "rung": rung,
            "policy": POLICY,
            "falls": [{"stage": fall.stage, "why": fall.why} for fall in trace.falls],
            "missing": list(trace.missing),
            "experiments": [exposure._asdict() for exposure in trace.exposures],
            "facts": trace.facts,
            "timings": trace.timings,
            "items": [
                {
                    "item_id": item.item_id,
                    "position": first + place,
                    "score": item.score,
                    "sources": item.sources,
                    "reason": item.reason,
                    "propensity": item.propensity,
                    "explored_by": item.policy,
                }
                for place, item in enumerate(items)
            ],
        }
        try:
            self._log.append([orjson.dumps(record)]).add_done_callback(self._count)
        except bus.Full:
            self._metrics.decisions.labels("dropped").inc()

    def close(self) -> None:
        self._log.close()

    def _count(self, done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            log.error("decisions are lost: %s", error)
        self._metrics.decisions.labels("lost" if error else "logged").inc()
