"""A circuit breaker: a part that has failed several times in a row is not waited for again until a pause is over."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Breaker:
    """Closed → open after `limit` failures in a row → one trial after `pause` seconds → closed or open again.

    Without it, a predictor that hangs would cost every request its whole deadline.
    """

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
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= self.limit:
            self._retry_at = self.clock() + self.pause
