"""What visitors had done before a moment, to the second; Feast's rows are those of the midnight before."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines import datasets
from pipelines.datasets import Lake


@dataclass(frozen=True)
class Deeds:
    """Positive events of one visitor, oldest first: three arrays [n]; `times` in epoch seconds."""

    items: NDArray[np.object_]
    events: NDArray[np.object_]
    times: NDArray[np.int64]

    def between(self, start: float, end: float) -> "Deeds":
        """Those in [start, end)."""
        rows = slice(*np.searchsorted(self.times, [start, end]))
        return Deeds(self.items[rows], self.events[rows], self.times[rows])


NOTHING = Deeds(np.empty(0, object), np.empty(0, object), np.empty(0, np.int64))


@dataclass(frozen=True)
class Past:
    """The deeds of some visitors: users by id, anonymous visitors by session."""

    deeds: Mapping[str, Deeds]

    @staticmethod
    def read(lake: Lake, day: date, visitors: Iterable[str]) -> "Past":
        """From the sequences of a data day."""
        wanted = pa.array(sorted(set(visitors)), pa.string())
        table = lake.read(datasets.SEQUENCES, day, ["visitor_id", "items", "events", "times"])
        rows = table.filter(pc.is_in(table.column("visitor_id"), value_set=wanted)).to_pydict()
        columns = (rows[name] for name in ("visitor_id", "items", "events", "times"))
        return Past({visitor: _deeds(*lists) for visitor, *lists in zip(*columns, strict=True)})

    def before(self, visitor: str, now: float) -> Deeds:
        """All before a moment; nothing for a visitor that nobody knows."""
        return self.between(visitor, 0.0, now)

    def between(self, visitor: str, start: float, end: float) -> Deeds:
        return self.deeds.get(visitor, NOTHING).between(start, end)


def _deeds(items: Any, kinds: Any, times: Any) -> Deeds:
    return Deeds(np.array(items, dtype=object), np.array(kinds, dtype=object), np.array(times, np.int64))
