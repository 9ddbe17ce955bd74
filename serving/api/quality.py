"""The quality factor: how many of its candidates a page may look at, as the models are slow or quick.

A stage that is late costs a rung of the ladder; fewer candidates cost little, because those that are left out are the
last that each source would have given. So while calls come near their deadline, pages ask for less, before they fail.

The idea is the `LinearLatencyQualityFactor` of Twitter's product mixer: every call moves a number, down if it was
slower than the target, up if not, and the ratio of both steps is the share of slow calls at which it rests. Here it
moves in equal ratios, so that the share is the same wherever the factor is; a call that is late moves it further than
one that is slow; and while calls are few, the time between them counts, so that a quiet shop is whole again as soon
as a busy one.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

Name = TypeVar("Name")

TARGET = 0.8  # of a stage's deadline; what takes longer is slow, before it is late
LEAST = 100  # candidates below which a ranker has little to choose from, and saves little
SPARE = 2  # times the items of a page: filters and rules of variety take the others

WHOLE = 600.0  # quick calls from the minimum to 1: 20 s at 30 calls a second
SLOW = 20.0  # so 30 slow calls reach the minimum, and it rests where one call in 21 is slow: p95 at the target
LATE = 60.0  # as three slow ones; one in 61 is the noise of a machine
PACE = 30.0  # calls a second; where fewer come, a quick one counts for those that a second of them would bring


@dataclass
class Quality:
    """The factor of one process, in [minimum, 1]; retrieval and ranking share it, because one decides for the other.

    Args:
        minimum: the smallest factor.
        delay: seconds from the start in which nothing counts: connections are opened, and nothing is warm.
        clock: seconds.
    """

    minimum: float
    delay: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _level: float = field(default=WHOLE, init=False)
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.clock() + self.delay

    @property
    def factor(self) -> float:
        return float(self.minimum ** (1 - self._level / WHOLE))

    def observe(self, spent: float) -> None:
        """Count one call of a stage whose work grows with the candidates.

        Args:
            spent: its time as a share of the stage's deadline; 1 or more is late.
        """
        now = self.clock()
        if now < self._last:
            return
        if spent > TARGET:
            self._level = max(0.0, self._level - (LATE if spent >= 1 else SLOW))
        else:
            self._level = min(WHOLE, self._level + max(1.0, PACE * (now - self._last)))
        self._last = now


def scaled(wanted: Mapping[Name, int], factor: float, page: int) -> dict[Name, int]:
    """The quotas of all sources, shrunk alike; together never below LEAST, nor below what a page needs.

    Args:
        wanted: the whole quotas, one or more.
        factor: share of them that is wanted now.
        page: items of a page.
    """
    share = min(1.0, max(factor, max(LEAST, SPARE * page) / sum(wanted.values())))
    return {name: math.ceil(quota * share) for name, quota in wanted.items()}
