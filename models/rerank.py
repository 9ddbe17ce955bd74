"""Re-ranking rules: which candidates may be shown, and in which order. Pure functions over arrays.

The order of the rules is fixed: filters first (unknown, unavailable, region, seen), then the score rules
(`models.factors`), then the arrangement. Each rule reports what it did, so that a response can be explained.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from models import cosine, diversity

SHARE, RUN, DIVERSITY = "category_share", "category_run", "diversity"
HOLDING = (SHARE, RUN, DIVERSITY)  # the rules that `Arrangement.held` counts off, the strongest first
NOT_HELD = -1

Method = Literal["none", "mmr", "dpp"]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """Diversity rules of a surface.

    Attributes:
        max_run: most items of one category in a row; 0 switches the rule off.
        max_share: most of a page that one top category may take; 1 switches the rule off.
        diversity: how unlike the chosen an item should be by its embedding, see `models.diversity`.
        strength: of diversity, 0..1; 0 is the order of relevance, as "none". "dpp" weighs a logarithm, "mmr" a cosine:
            the same number does not mean the same to both.
        window: items before a slot that diversity compares with. Twenty are a page: what a shopper has in sight or has
            just scrolled past. Compared with all of a long list, hardly anything is unlike, and its end not diverse.

    Raises:
        ValueError: a value is out of its range.
    """

    max_run: int = 3
    max_share: float = 0.4
    diversity: Method = "none"
    strength: float = 0.3
    window: int = 20

    def __post_init__(self) -> None:
        if self.max_run < 0:
            raise ValueError(f"max_run must be at least 1, or 0 for no rule, got {self.max_run}")
        if not 0 < self.max_share <= 1:
            raise ValueError(f"max_share must be above 0 and at most 1, which is no rule, got {self.max_share}")
        if self.diversity not in get_args(Method):
            raise ValueError(f"diversity must be one of {', '.join(get_args(Method))}, got {self.diversity!r}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be in 0..1, got {self.strength}")
        if self.window < 1:
            raise ValueError(f'window must be at least 1, got {self.window}; for no diversity say diversity="none"')

    @property
    def bind_nothing(self) -> bool:
        """Whether the order of relevance is all that they ask for."""
        return not self.max_run and self.max_share == 1 and (self.diversity == "none" or not self.strength)


NO_RULES = Rules(max_run=0, max_share=1.0)


@dataclass(frozen=True, eq=False)
class Filtered:
    """The candidates that may be shown.

    Attributes:
        kept: [m] positions into the candidates, in their order.
        rule: [n] int8, per candidate the position in `rules` of the first filter that took it; -1 for the kept.
        rules: names of the filters.
    """

    kept: NDArray[np.int64]
    rule: NDArray[np.int8]
    rules: tuple[str, ...]

    @property
    def dropped(self) -> dict[str, int]:
        """How many each filter took; a candidate counts for the first that took it."""
        counts = np.bincount(self.rule[self.rule >= 0], minlength=len(self.rules))
        return {name: int(count) for name, count in zip(self.rules, counts, strict=True) if count}


@dataclass(frozen=True, eq=False)
class Arrangement:
    """An order that keeps the rules as far as the candidates allow.

    Attributes:
        order: [length] positions into the candidates.
        held: [n] position in HOLDING of the first rule that held the candidate back, or NOT_HELD, if it was asked for;
            otherwise empty. A candidate is held back where it is passed over: one that is less relevant, or worth less
            there, takes the slot. It may still come later; one that no rule held back and that is not shown was not
            relevant enough.
        changed: slots that a rule changed, by rule; without those that changed none. A category rule changes a slot if
            it keeps out what is worth most there; diversity does if, of those the category rules allow, another than
            the most relevant is worth most.
        relaxed: slots at which a rule could not be kept, by rule; empty when all were.
    """

    order: NDArray[np.int64]
    held: NDArray[np.int8]
    changed: Mapping[str, int]
    relaxed: Mapping[str, int]


def filtered(masks: Mapping[str, Bools], size: int) -> Filtered:
    """Drop candidates by rule.

    Args:
        masks: per rule, in order, [size] True where the candidate has to go.
        size: number of candidates.
    """
    rule = np.full(size, -1, np.int8)
    for place, mask in enumerate(masks.values()):
        rule[mask & (rule < 0)] = place
    return Filtered(np.flatnonzero(rule < 0), rule, tuple(masks))


def arranged(
    relevance: NDArray[np.floating],
    categories: NDArray[np.integer],
    tops: NDArray[np.integer],
    vectors: NDArray[np.floating] | None = None,
    *,
    length: int,
    page: int,
    rules: Rules,
    before: int = 0,
    tell_held: bool = False,
) -> Arrangement:
    """Fill slots greedily: each takes the candidate that is worth most and breaks no category rule there.

    A candidate that has to wait is offered again at every later slot, so order changes as little as the rules allow.
    Where every remaining candidate breaks a rule, the share gives way first and the run second, and the slot is
    counted; so the result is always as long as it can be. Of candidates that are worth the same, the more relevant
    comes first, then the one that was handed in first.

    Pages can be made one at a time, each when it is asked for: with those before it handed in as `before`, a page is
    what it would have been in one arrangement of all.

    Args:
        relevance: [n] at least 0, on one scale. It is divided by the largest, and so in [0, 1] when diversity is
            weighed against it: ratios stay, and a longer tail of candidates changes nothing.
        categories: [n] code of the category of each candidate.
        tops: [n] code of its most general category.
        vectors: [n, d] its embedding, of any length, or zeros where there is none; not needed without diversity.
        length: slots to fill.
        page: slots of one page; shares are counted per page, runs across pages.
        rules: what to keep.
        before: how many of the candidates fill the slots of earlier pages; they are handed in first, in that order.
        tell_held: whether to work out whom the rules held back, which takes two fifths of the time.

    Raises:
        ValueError: shapes that do not fit, relevance that is negative or not finite, or diversity without vectors.
    """
    exact: Floats = np.asarray(relevance, np.float64)
    _check(exact, categories, tops, length, page)
    by_relevance = np.concatenate([np.arange(before), before + np.argsort(-exact[before:], kind="stable")])
    length = min(length, len(exact) - before)
    if rules.bind_nothing:
        held = np.full(len(exact) if tell_held else 0, NOT_HELD, np.int8)
        return Arrangement(by_relevance[before : before + length], held, {}, {})
    objective = _objective(exact, vectors, by_relevance, before + length, rules)
    greedy = _Greedy(objective, categories[by_relevance], tops[by_relevance], page, rules, tell_held)
    for placed in range(before):
        greedy.take(placed)
    order = np.fromiter((greedy.next(slot) for slot in range(length)), np.int64, length)
    held = np.empty_like(greedy.held)
    if tell_held:
        held[by_relevance] = greedy.held
    return Arrangement(by_relevance[order], held, dict(greedy.changed), dict(greedy.relaxed))


def _check(
    relevance: Floats,
    categories: NDArray[np.integer],
    tops: NDArray[np.integer],
    length: int,
    page: int,
) -> None:
    if relevance.ndim != 1 or not relevance.shape == categories.shape == tops.shape:
        shapes = f"{relevance.shape}, {categories.shape} and {tops.shape}"
        raise ValueError(f"relevance, categories and tops must be [n], one value per candidate, got {shapes}")
    wrong = relevance[~(np.isfinite(relevance) & (relevance >= 0))]
    if len(wrong):
        raise ValueError(f"relevance must be finite and at least 0, got {wrong[0]}; pass probabilities, not logits")
    if length < 0 or page < 1:
        raise ValueError(f"length must be at least 0 and page at least 1, got {length} and {page}")


def _objective(
    relevance: Floats,
    vectors: NDArray[np.floating] | None,
    by_relevance: NDArray[np.intp],
    length: int,
    rules: Rules,
) -> diversity.Objective:
    """What candidates are worth, the most relevant first."""
    scaled = relevance[by_relevance]
    if scaled.any():
        scaled = scaled / scaled.max()
    if rules.diversity == "none" or rules.strength == 0:
        return diversity.Relevance(scaled)
    if vectors is None:
        raise ValueError(f'diversity "{rules.diversity}" compares embeddings: pass vectors, or choose "none"')
    rows = cosine.unit(vectors, len(relevance))[by_relevance]
    method = diversity.Mmr if rules.diversity == "mmr" else diversity.Dpp
    return method(scaled, rows, rules.strength, min(rules.window, length))


class _Greedy:
    """State of one arrangement, most relevant candidate first: who is left, what the page holds, the current run."""

    def __init__(
        self,
        objective: diversity.Objective,
        categories: NDArray[np.integer],
        tops: NDArray[np.integer],
        page: int,
        rules: Rules,
        tell_held: bool,
    ) -> None:
        self._objective, self._categories, self._tops = objective, categories, tops
        self._page, self._rules, self._tell_held = page, rules, tell_held
        self._cap = max(1, int(rules.max_share * page + 1e-9))
        self._nobody = np.zeros(len(categories), bool)
        self._left, self._first = ~self._nobody, 0  # not chosen, and the first of them
        self._unheld = ~self._nobody  # neither chosen nor held back so far
        self._full = self._nobody.copy()  # whose top category has its share of this page
        self._long = self._nobody  # whose category has been shown often enough in a row
        self._shown: Counter[int] = Counter()  # per top category, on this page
        self._run_of, self._run = -1, 0
        self.held = np.full(len(categories) if tell_held else 0, NOT_HELD, np.int8)
        self.changed: Counter[str] = Counter()
        self.relaxed: Counter[str] = Counter()

    def next(self, slot: int) -> int:
        if slot % self._page == 0:
            self._shown.clear()
            self._full[:] = False
        value, full, long = self._objective.value, self._full, self._long
        best = chosen = int(value.argmax())
        if full[best] or long[best]:
            full, long, allowed = self._in_force()
            if not allowed[best]:
                self.changed[SHARE if full[best] else RUN] += 1
                chosen = int(np.where(allowed, value, -np.inf).argmax())
        if chosen != self._first and chosen != (self._left & ~(full | long)).argmax():
            self.changed[DIVERSITY] += 1
        if self._tell_held:
            self._hold(chosen, full, long)
        self.take(chosen)
        return chosen

    def take(self, chosen: int) -> None:
        """Put a candidate in the next slot."""
        self._left[chosen] = self._unheld[chosen] = False
        if chosen == self._first:
            self._first = int(self._left.argmax())
        self._show(chosen)

    def _in_force(self) -> tuple[Bools, Bools, Bools]:
        """[n] whom the share keeps out of this slot, whom the run does, and who is left that neither does."""
        for broken, full, long in (
            ((), self._full, self._long),
            ((SHARE,), self._nobody, self._long),
            ((RUN,), self._full, self._nobody),
            ((SHARE, RUN), self._nobody, self._nobody),
        ):
            allowed = self._left & ~(full | long)
            if allowed.any():
                for rule in broken:
                    self.relaxed[rule] += 1
                return full, long, allowed
        raise AssertionError("a slot is asked for only while candidates are left")

    def _hold(self, chosen: int, full: Bools, long: Bools) -> None:
        """Note whom this slot passes over for the first time, and why."""
        value, passed = self._objective.value, self._unheld.copy()
        passed[chosen:] &= value[chosen:] > value[chosen]
        found = np.flatnonzero(passed)
        self.held[found] = np.where(full[found], 0, np.where(long[found], 1, 2))
        self._unheld[found] = False

    def _show(self, chosen: int) -> None:
        category, top = int(self._categories[chosen]), int(self._tops[chosen])
        self._run = self._run + 1 if category == self._run_of else 1
        self._run_of = category
        too_long = 0 < self._rules.max_run <= self._run
        self._long = self._categories == category if too_long else self._nobody
        self._shown[top] += 1
        if self._rules.max_share < 1 and self._shown[top] >= self._cap:
            self._full |= self._tops == top
        self._objective.choose(chosen)
