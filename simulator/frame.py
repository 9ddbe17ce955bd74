"""Events of one day as plain columns, before they become text."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

KINDS = ("impression", "click", "view", "add_to_cart", "purchase", "like", "skip", "dislike", "return")
IMPRESSION, CLICK, VIEW, CART, PURCHASE, LIKE, SKIP, DISLIKE, RETURN = range(len(KINDS))
SURFACES = ("home", "category", "trending", "similar", "search")
HOME, CATEGORY, TRENDING, SIMILAR, SEARCH = range(len(SURFACES))


@dataclass(frozen=True)
class Frame:
    """Columns of equal length; -1 and NaN mean "not said".

    Attributes:
        time: microseconds since the epoch.
        user: row of the person; also where the person is anonymous.
        known: whether the person was logged in.
        session, request: numbers, unique over the simulation.
        item: row of the item.
        kind, surface: rows of KINDS and SURFACES.
        position: slot, 0 first.
        value: unit price. quantity: pieces. duration: seconds.
    """

    time: Ints
    user: Ints
    known: NDArray[np.bool_]
    session: Ints
    request: Ints
    item: Ints
    kind: Ints
    surface: Ints
    position: Ints
    value: Floats
    quantity: Ints
    duration: Floats

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Frame":
        return Frame(*(getattr(self, field.name)[rows] for field in fields(self)))

    def sorted(self) -> "Frame":
        """By time; what happens at the same moment stays in order."""
        return self.take(np.argsort(self.time, kind="stable"))

    def split(self, moment: int) -> tuple["Frame", "Frame"]:
        """What happens before a moment (microseconds since the epoch), and what at it or after it."""
        before = self.time < moment
        return self.take(before), self.take(~before)

    def but(self, **changes: NDArray[Any]) -> "Frame":
        """A copy with some columns replaced."""
        return replace(self, **changes)

    def of(self, kind: int) -> "Frame":
        """A copy in which every event is of one kind."""
        return replace(self, kind=np.full(len(self), kind))


def concat(frames: Sequence[Frame]) -> Frame:
    return Frame(*(np.concatenate([getattr(frame, field.name) for frame in frames]) for field in fields(Frame)))


def blank(**columns: NDArray[np.int64] | NDArray[np.bool_]) -> Frame:
    """A frame without value, quantity and duration."""
    count = len(columns["time"])
    nothing = np.full(count, np.nan)
    return Frame(**columns, value=nothing, quantity=np.full(count, -1), duration=nothing)  # type: ignore[arg-type]


def empty() -> Frame:
    """A frame without events."""
    names = ("time", "user", "session", "request", "item", "kind", "surface", "position")
    return blank(known=np.zeros(0, bool), **{name: np.zeros(0, np.int64) for name in names})
