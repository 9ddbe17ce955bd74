"""What a process does beside its requests: work that comes again and again, and ends with the process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from serving.api.metrics import Metrics

log = logging.getLogger(__name__)


async def every(seconds: float, work: Callable[[], Awaitable[object]], what: str, metrics: Metrics) -> None:
    """Do some work again and again, for ever, with a pause before each time.

    Args:
        seconds: of the pause.
        work: what to do.
        what: its name, for the log where it fails; the next time comes all the same.
        metrics: where a failure is counted.
    """
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception as error:  # the edge of a background task: it must not end while the process serves
            log.exception("%s failed, and is tried again in %g s", what, seconds)
            metrics.errors.labels(type(error).__name__).inc()


async def ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End tasks; once more where a library that one waits in has swallowed that it is to end."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1.0)
