"""What still counts: a purchase until its return, a cart until it is emptied, a yes until a no, a no until its undo.

One fold over what one visitor said of one item. Every event gets its turns: the moments at which it stopped and, after
an undo, began again to count. So one list serves any moment: a feature of Monday knows nothing of Tuesday's return,
while a label knows all that has come of it (`counts`).

- return, refund: the newest purchase that was not returned (refunded) yet, and all that was said of the item between
  the purchases before and after it. One purchase that is returned and then refunded is taken back once.
- remove_from_cart: what put the item in the cart since it was last bought.
- any other no: every earlier yes of at most its weight: a skip takes back a click, but no purchase.
- undo: every earlier no to the same item, or to the same category or brand.
- A later yes stands by itself. A no is over once a yes of at least its weight follows, and what it took back stays so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.events import EventType

BACK: tuple[str, ...] = (EventType.RETURN, EventType.REFUND)
FACTS: tuple[str, ...] = (*BACK, EventType.REMOVE_FROM_CART)
IN_CART: tuple[str, ...] = (EventType.ADD_TO_CART, EventType.BEGIN_CHECKOUT)
SEPARATOR = " > "
Weights = Mapping[str, float]


def turns(
    kinds: Sequence[str], times: Sequence[int], yes: Weights, no: Weights, targets: Sequence[str] | None = None
) -> list[list[int]]:
    """The turns of each event of one visitor about one item.

    Args:
        kinds: types of events, in order of time and, within a second, of `order`.
        times: epoch seconds.
        yes, no: what the types that speak for and against an item weigh: `events.yes()`, `events.no()`.
        targets: the category or the brand that each is about, "" for the item itself, which all are by default; an undo
            is of the no's to its own target.
    """
    fold = _Fold(kinds, times, yes, no, targets or [""] * len(kinds))
    for place, kind in enumerate(kinds):
        if kind in yes:
            fold.agree(place)
        elif kind in no:
            fold.refuse(place)
        elif kind == EventType.UNDO:
            fold.undo(place)
    return fold.turns


def order(kind: str, yes: Weights, no: Weights) -> int:
    """Place of a type among events of one second: a yes, then the no to it, then the undo."""
    return 0 if kind in yes else 1 if kind in no else 2


class _Fold:
    """The state after some events, by place: which yes stand, by which no others were taken back, which no stand."""

    def __init__(
        self, kinds: Sequence[str], times: Sequence[int], yes: Weights, no: Weights, targets: Sequence[str]
    ) -> None:
        self.turns: list[list[int]] = [[] for _ in kinds]
        self._kinds, self._times, self._targets = kinds, times, targets
        self._yes, self._no = yes, no
        self._standing: list[int] = []
        self._taken: dict[int, int] = {}
        self._refusals: list[int] = []
        self._bought: dict[int, set[str]] = {}  # by the second of a purchase: how it was taken back

    def agree(self, place: int) -> None:
        weight = self._yes[self._kinds[place]]
        self._refusals = self._end(self._refusals, place, lambda no: self._no[self._kinds[no]] <= weight)
        self._standing.append(place)
        if self._kinds[place] == EventType.PURCHASE:
            self._bought.setdefault(self._times[place], set())

    def refuse(self, place: int) -> None:
        met = self._meant(place)
        self._taken |= {yes: place for yes in self._standing if met(yes)}
        self._standing = self._end(self._standing, place, met)
        self._refusals.append(place)

    def undo(self, place: int) -> None:
        target = self._targets[place]
        self._refusals = self._end(self._refusals, place, lambda no: self._targets[no] == target)
        for yes in sorted(yes for yes, no in self._taken.items() if self._targets[no] == target):
            held = [no for no in self._refusals if no > yes and self._opposes(no, yes)]
            if held:
                self._taken[yes] = held[0]
            else:
                del self._taken[yes]
                self._standing.append(yes)
                self.turns[yes].append(self._times[place])
        if not target:
            self._bought = {time: set() for time in self._bought}

    def _meant(self, place: int) -> Callable[[int], bool]:
        """Which yes a no is about."""
        kind = self._kinds[place]
        if kind in BACK:
            first, last = self._returned(kind)
            return lambda yes: first < self._times[yes] < last
        if kind == EventType.REMOVE_FROM_CART:
            since = max(self._bought, default=-np.inf)
            return lambda yes: self._kinds[yes] in IN_CART and self._times[yes] > since
        return lambda yes: self._opposes(place, yes)

    def _opposes(self, no: int, yes: int) -> bool:
        """Whether an opinion weighs enough to take back a yes; a return or a removal takes back its own alone."""
        kind = self._kinds[no]
        return kind not in FACTS and self._yes[self._kinds[yes]] <= self._no[kind]

    def _returned(self, kind: str) -> tuple[float, float]:
        """The purchases before and after the one that a return is about, in epoch seconds."""
        moments = [-np.inf, *sorted(self._bought), np.inf]
        for place in range(len(moments) - 2, 0, -1):
            known = self._bought[int(moments[place])]
            if kind not in known:
                known.add(kind)
                return moments[place - 1], moments[place + 1]
        return np.inf, np.inf

    def _end(self, places: list[int], now: int, condition: Callable[[int], bool]) -> list[int]:
        """End those that meet a condition; returns the others."""
        ended = [place for place in places if condition(place)]
        for place in ended:
            self.turns[place].append(self._times[now])
        return [place for place in places if not condition(place)] if ended else places


def counts(moments: NDArray[Any], now: NDArray[Any] | float) -> NDArray[np.bool_]:
    """Whether events count at `now`, from what was said before: [...] of turns [..., T], +inf where there is none."""
    known = moments < np.expand_dims(np.asarray(now), -1)
    return np.asarray(known.sum(axis=-1) % 2 == 0)


def padded(lists: Iterable[Sequence[float]]) -> NDArray[np.float64]:
    """[n, T] turns, +inf where there is none."""
    rows = list(lists)
    out = np.full((len(rows), max(map(len, rows), default=0)), np.inf)
    for row, values in enumerate(rows):
        out[row, : len(values)] = values
    return out


@dataclass(frozen=True)
class Log:
    """Events in any order, by row.

    Attributes:
        visitors, items, kinds: who, about what, of which type. times: epoch seconds.
        targets: as in `turns`.
    """

    visitors: Sequence[Any]
    items: Sequence[str]
    kinds: Sequence[str]
    times: Sequence[int]
    targets: Sequence[str]

    def turns(self, yes: Weights, no: Weights) -> dict[int, list[int]]:
        """Turns by row; rows without any are left out."""
        keys = list(zip(self.visitors, self.items, strict=True))
        refusing = {key for key, kind in zip(keys, self.kinds, strict=True) if kind in no or kind == EventType.UNDO}
        rows_of: dict[tuple[Any, str], list[int]] = {key: [] for key in refusing}
        for row, key in enumerate(keys):
            if key in refusing:
                rows_of[key].append(row)
        found: dict[int, list[int]] = {}
        for rows in rows_of.values():
            rows.sort(key=lambda row: (self.times[row], order(self.kinds[row], yes, no), row))
            kinds, targets = ([column[row] for row in rows] for column in (self.kinds, self.targets))
            folded = turns(kinds, [self.times[row] for row in rows], yes, no, targets)
            found |= {row: moments for row, moments in zip(rows, folded, strict=True) if moments}
        return found


def concerns(path: str | None, brand: str | None, said_category: str | None, said_brand: str | None) -> bool:
    """Whether an event about a category or a brand is about an item of them; a category holds those under it."""
    if said_category and path is not None and (path == said_category or path.startswith(said_category + SEPARATOR)):
        return True
    return bool(said_brand) and brand == said_brand
