"""A circuit breaker: a part that has failed several times in a row is not waited for again until a pause is over."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)


@dataclass
class Breaker:
    """Closed → open after `limit` failures in a row → one trial after `pause` seconds → closed or open again.

    Without it, a predictor that hangs would cost every request its whole deadline. An outage is two lines in the log,
    when it begins and when it is over, however many requests come meanwhile.

    Attributes:
        name: of the part, for the log.
    """

    name: str
    limit: int = 5
    pause: float = 1.0
    clock: Callable[[], float] = time.monotonic
    _failures: int = field(default=0, init=False)
    _retry_at: float = field(default=0.0, init=False)

    def allows(self) -> bool:
        """Whether to call now. While open, one caller per pause is let through as the trial."""
        if self._failures < self.limit:
            return True
        now = self.clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + self.pause
        return True

    def undecided(self) -> None:
        """The call ended before it could tell: the trial, if it was one, is the next caller's."""
        self._retry_at = self.clock()

    def succeeded(self) -> None:
        if self._failures >= self.limit:
            log.info("%s serves again", self.name)
        self._failures = 0

    def failed(self, why: str) -> None:
        """The call did not serve; `why` is a word for the log."""
        self._failures += 1
        if self._failures >= self.limit:
            self._retry_at = self.clock() + self.pause
        if self._failures == self.limit:
            words = "%s does not serve (%s, %d times in a row): requests go on without it, and it is tried every %g s"
            log.warning(words, self.name, why, self.limit, self.pause)
