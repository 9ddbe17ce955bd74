"""How long the caller waits: the header X-Deadline-Ms."""

import math
from typing import Annotated

from fastapi import Header, Request

from serving.api.parts import Parts

LONGEST = 60_000


async def due(  # a plain function would be run in a thread of its own
    request: Request,
    x_deadline_ms: Annotated[
        int | None,
        Header(ge=1, le=LONGEST, description="answer within so many milliseconds, from a lower rung if need be"),
    ] = None,
) -> float:
    """A dependency: when the stages must be done, in seconds of `time.perf_counter`; infinite where nobody hurries.

    The arrangement of the page comes after them, so its time is kept back.
    """
    if x_deadline_ms is None:
        return math.inf
    parts: Parts = request.app.state.parts
    started: float = request.scope["started"]
    return started + (x_deadline_ms - parts.settings.api.rerank_deadline_ms) / 1000
