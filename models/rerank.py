"""Re-ranking rules: which candidates may be shown, and in which order. Pure functions over arrays.

The order of the rules is fixed: filters first (unknown, unavailable, region, seen), then the arrangement. Each rule
reports what it did, so that a response can be explained. Five hundred candidates take under a millisecond.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARE, RUN = "category_share", "category_run"


@dataclass(frozen=True)
class Rules:
    """Diversity rules of a surface.

    Attributes:
        max_run: most items of one category in a row; 0 switches the rule off.
        max_share: most of a page that one top category may take; 1 switches the rule off.
    """

    max_run: int = 3
    max_share: float = 0.4


NO_RULES = Rules(max_run=0, max_share=1.0)


@dataclass(frozen=True, eq=False)
class Filtered:
    """The candidates that may be shown.

    Attributes:
        kept: [m] positions into the candidates, in their order.
        dropped: how many each filter took; a candidate counts for the first that took it.
    """

    kept: NDArray[np.int64]
    dropped: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Arrangement:
    """An order that keeps the rules as far as the candidates allow.

    Attributes:
        order: [length] positions into the candidates.
        relaxed: slots at which a rule could not be kept, by rule; empty when all were.
    """

    order: NDArray[np.int64]
    relaxed: Mapping[str, int]


def filtered(masks: Mapping[str, NDArray[np.bool_]], size: int) -> Filtered:
    """Drop candidates by rule.

    Args:
        masks: per rule, in order, [size] True where the candidate has to go.
        size: number of candidates.
    """
    gone = np.zeros(size, bool)
    dropped: dict[str, int] = {}
    for rule, mask in masks.items():
        if taken := int((mask & ~gone).sum()):
            dropped[rule] = taken
        gone |= mask
    return Filtered(np.flatnonzero(~gone), dropped)


def arranged(
    categories: NDArray[np.integer],
    tops: NDArray[np.integer],
    *,
    length: int,
    page: int,
    rules: Rules,
) -> Arrangement:
    """Fill slots greedily: each takes the best candidate that breaks no rule there.

    A candidate that has to wait is offered again at every later slot, so order changes as little as the rules allow.
    Where every remaining candidate breaks a rule, the share gives way first and the run second, and the slot is
    counted; so the result is always as long as it can be.

    Args:
        categories: [n] code of the category of each candidate, best candidate first.
        tops: [n] code of its most general category.
        length: slots to fill.
        page: slots of one page; shares are counted per page, runs across pages.
        rules: what to keep.
    """
    length = min(length, len(categories))
    greedy = _Greedy(categories.tolist(), tops.tolist(), page, rules)
    order = np.fromiter((greedy.next(slot) for slot in range(length)), np.int64, length)
    return Arrangement(order, dict(greedy.relaxed))


class _Greedy:
    """State of one arrangement: who waits, what the page holds, and the current run."""

    def __init__(self, categories: Sequence[int], tops: Sequence[int], page: int, rules: Rules) -> None:
        self._categories, self._tops, self._page, self._rules = categories, tops, page, rules
        self._cap = max(1, int(rules.max_share * page + 1e-9))
        self._upcoming = 0
        self._waiting: dict[int, dict[int, deque[int]]] = {}  # top category → category → positions, best first
        self._shown: Counter[int] = Counter()  # per top category, on this page
        self._run_of, self._run = -1, 0
        self.relaxed: Counter[str] = Counter()

    def next(self, slot: int) -> int:
        if slot % self._page == 0:
            self._shown.clear()
        found = self._best_waiting()
        if found is None:
            found = self._advance()
        if found is None:
            found = self._relax()
        self._show(found)
        return found

    def _full(self, top: int) -> bool:
        return self._rules.max_share < 1 and self._shown[top] >= self._cap

    def _too_long(self, category: int) -> bool:
        return self._rules.max_run > 0 and category == self._run_of and self._run >= self._rules.max_run

    def _best_waiting(self, *, share: bool = True, run: bool = True) -> int | None:
        """Take the best waiting candidate; `share` and `run` say which rules hold."""
        best: deque[int] | None = None
        for top, queues in self._waiting.items():
            if share and self._full(top):
                continue
            for category, queue in queues.items():
                if queue and not (run and self._too_long(category)) and (best is None or queue[0] < best[0]):
                    best = queue
        return best.popleft() if best else None

    def _advance(self) -> int | None:
        """The next candidate that has not been looked at and may be shown; those before it wait."""
        while self._upcoming < len(self._categories):
            position, self._upcoming = self._upcoming, self._upcoming + 1
            category, top = self._categories[position], self._tops[position]
            if not self._full(top) and not self._too_long(category):
                return position
            self._waiting.setdefault(top, {}).setdefault(category, deque()).append(position)
        return None

    def _relax(self) -> int:
        for share, run, rules in ((False, True, [SHARE]), (True, False, [RUN]), (False, False, [SHARE, RUN])):
            found = self._best_waiting(share=share, run=run)
            if found is not None:
                self.relaxed.update(rules)
                return found
        raise AssertionError("a slot is asked for only while candidates are left")

    def _show(self, position: int) -> None:
        category = self._categories[position]
        self._run = self._run + 1 if category == self._run_of else 1
        self._run_of = category
        self._shown[self._tops[position]] += 1
