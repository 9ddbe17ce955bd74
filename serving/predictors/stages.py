"""How long each stage of a predictor takes: for the answer of a request, and for Prometheus."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

SECONDS = Histogram(
    "recsys_predictor_stage_seconds",
    "Time of one stage of a prediction",
    ["role", "stage"],
    # The budgets are 20 ms for features, 30 for retrieval and 50 for ranking.
    buckets=(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0),
)
DEGRADED = Counter("recsys_predictor_degraded", "Requests answered without the feature store", ["role"])
RELEASE = Gauge("recsys_predictor_release", "1 for the release that this process holds", ["role", "release"])
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
