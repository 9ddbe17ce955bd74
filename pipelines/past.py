"""What visitors had done before a moment, to the second; Feast's rows are those of the midnight before."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo import standing
from pipelines import sequences
from pipelines.datasets import Lake


@dataclass(frozen=True)
class Deeds:
    """Positive events of one visitor, oldest first: arrays [n]; `times` in epoch seconds, `turns` [n, T] too."""

    items: NDArray[np.object_]
    events: NDArray[np.object_]
    times: NDArray[np.int64]
    turns: NDArray[np.float64]

    def between(self, start: float, end: float) -> "Deeds":
        """Those in [start, end)."""
        return self._take(slice(*np.searchsorted(self.times, [start, end])))

    def counting(self, now: float) -> "Deeds":
        """Those that count at a moment."""
        return self._take(standing.counts(self.turns, now))

    def _take(self, rows: Any) -> "Deeds":
        return Deeds(self.items[rows], self.events[rows], self.times[rows], self.turns[rows])


NOTHING = Deeds(np.empty(0, object), np.empty(0, object), np.empty(0, np.int64), np.empty((0, 0)))


@dataclass(frozen=True)
class Past:
    """The deeds of some visitors: users by id, anonymous visitors by session."""

    deeds: Mapping[str, Deeds]

    @staticmethod
    def read(lake: Lake, day: date, visitors: Iterable[str]) -> "Past":
        """From the sequences of a data day."""
        wanted = pa.array(sorted(set(visitors)), pa.string())
        table = sequences.read(lake, day, ["visitor_id"])
        rows = table.filter(pc.is_in(table.column("visitor_id"), value_set=wanted)).to_pydict()
        columns = (rows[name] for name in ("visitor_id", *sequences.LISTS, sequences.TURNS.name))
        return Past({visitor: _deeds(*lists) for visitor, *lists in zip(*columns, strict=True)})

    def before(self, visitor: str, now: float) -> Deeds:
        """All before a moment; nothing for a visitor that nobody knows."""
        return self.between(visitor, 0.0, now)

    def between(self, visitor: str, start: float, end: float) -> Deeds:
        return self.deeds.get(visitor, NOTHING).between(start, end)


def _deeds(items: Any, kinds: Any, times: Any, turns: Any) -> Deeds:
    ends = standing.padded(turns or [[]] * len(items))
    return Deeds(np.array(items, dtype=object), np.array(kinds, dtype=object), np.array(times, np.int64), ends)
