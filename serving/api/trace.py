"""What happened to one request: times of its stages, falls, and what the rules did."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Fall:
    """A stage that did not serve.

    Attributes:
        stage: retrieval, ranking, online or features.
        why: late, deadline (the caller's own), down, open (the circuit), release, refused or malformed.
    """

    stage: str
    why: str


class Exposure(NamedTuple):
    """An experiment that concerns a request.

    Attributes:
        experiment, variant: their names.
        unit: what was assigned: user or session.
        missed: why the variant could not serve: surface or release; empty: it did.
    """

    experiment: str
    variant: str
    unit: str
    missed: str = ""


@dataclass
class Trace:
    """Filled in as the request goes along.

    Attributes:
        request_id: as in X-Request-ID.
        correlation_id: the caller's own name for what the request belongs to; "" if none.
        due: when the stages must be done, so that the caller's deadline is kept; seconds of `time.perf_counter`.
        timings: milliseconds by stage; a predictor's own stages have its name before theirs.
        falls: stages that did not serve, in order.
        missing: candidate sources that did not serve in time, each once.
        notes: sentences for the caller about this response.
        exposures: experiments that concern the request.
        facts: counts for the decision log: quality, candidates, dropped, relaxed, changed, explored.
    """

    request_id: str
    due: float = math.inf
    correlation_id: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    falls: list[Fall] = field(default_factory=list)
    missing: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    exposures: list[Exposure] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def left(self) -> float:
        """Seconds that the caller still waits for the stages; negative when that is over."""
        return self.due - time.perf_counter()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = 1000 * (time.perf_counter() - started)
            self.timings[stage] = round(self.timings.get(stage, 0.0) + spent, 3)

    def within(self, stage: str, timings: Mapping[str, float]) -> None:
        """Add the stages that a predictor reported about itself."""
        self.timings |= {f"{stage}-{name}": round(value, 3) for name, value in timings.items()}

    def server_timing(self) -> str:
        """The header's value; names are tokens."""
        return ", ".join(f"{name};dur={value:.1f}" for name, value in self.timings.items())
