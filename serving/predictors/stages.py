"""What Prometheus is told of a predictor: how long each stage takes, which the answer says too, and what failed."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from recsys.errors import Retryable

log = logging.getLogger(__name__)

SECONDS = Histogram(
    "recsys_predictor_stage_seconds",
    "Time of one stage of a prediction",
    ["role", "stage"],
    # The budgets are 20 ms for features, 30 for retrieval and 50 for ranking.
    buckets=(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0),
)
DEGRADED = Counter("recsys_predictor_degraded", "Requests answered without some or all features of the store", ["role"])
RELEASE = Gauge("recsys_predictor_release", "1 for the release that this process holds", ["role", "release"])
FAILED = Counter("recsys_predictor_background_errors", "Work beside the requests that failed", ["work", "kind"])
ITEMS_READ = Gauge("recsys_predictor_items_read_seconds", "Epoch seconds of the last reading of item features")


class Watch:
    """Times the stages of one request."""

    def __init__(self, role: str) -> None:
        self._role = role
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - started
            self.milliseconds[name] = round(1000 * taken, 3)
            SECONDS.labels(self._role, name).observe(taken)


@contextmanager
def beside(work: str) -> Iterator[None]:
    """Around what a thread does beside the requests, again and again: a failure is logged and counted, and ends here.

    So the thread lives to its next turn. What the block has done before it failed is not undone. A dependency that is
    away needs no stack.
    """
    try:
        yield
    except Exception as error:  # the edge of a thread: it must not end while the process serves
        log.warning("%s could not be brought up to date: %s", work, error, exc_info=not isinstance(error, Retryable))
        FAILED.labels(work, type(error).__name__).inc()
