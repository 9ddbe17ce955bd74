"""Diversity by embeddings, beside an implementation that is slow and plain."""

from collections import Counter
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import diversity, rerank
from models.rerank import Rules

METHODS = pytest.mark.parametrize("method", ["mmr", "dpp"])
LEFT, UP, RIGHT, NOWHERE = (-1, 0), (0, 1), (1, 0), (0, 0)


class Case(NamedTuple):
    """Candidates [n], and what is asked of their arrangement."""

    relevance: np.ndarray
    categories: np.ndarray
    vectors: np.ndarray
    length: int
    page: int
    rules: Rules

    @property
    def tops(self) -> np.ndarray:
        return self.categories // 2

    def arranged(self, tell_held: bool = True) -> rerank.Arrangement:
        return rerank.arranged(
            self.relevance,
            self.categories,
            self.tops,
            self.vectors,
            length=self.length,
            page=self.page,
            rules=self.rules,
            tell_held=tell_held,
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Few dimensions and few values, so that twins, opposites and items without a vector are frequent."""
    count = draw(st.integers(1, 10))
    rules = Rules(
        draw(st.integers(0, 3)),
        draw(st.sampled_from([0.25, 0.5, 1.0])),
        draw(st.sampled_from(["mmr", "dpp"])),
        draw(st.sampled_from([0.1, 0.5, 0.9, 1.0])),
        draw(st.integers(1, 5)),
    )
    relevance = draw(st.lists(st.floats(0, 1, width=16), min_size=count, max_size=count, unique=True))
    categories = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    vectors = draw(st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=count, max_size=count))
    return Case(
        np.array(relevance),
        np.array(categories),
        np.array(vectors, float),
        draw(st.integers(0, 12)),
        draw(st.integers(1, 6)),
        rules,
    )


def similarity(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.where(lengths > 0, lengths, 1)[:, None]
    return unit @ unit.T


def worth(case: Case, chosen: list[int], candidate: int) -> float:
    """The objective as the papers write it."""
    rules, near = case.rules, chosen[-case.rules.window :]
    relevance = case.relevance[candidate] / (case.relevance.max() or 1)
    cosines = similarity(case.vectors)
    if rules.diversity == "mmr":
        alike = max((cosines[candidate, other] for other in near), default=0)
        return (1 - rules.strength) * relevance - rules.strength * alike
    kernel = (1 - diversity.APART) * (1 + cosines) / 2
    np.fill_diagonal(kernel, 1)
    after, before = [*near, candidate], near
    gain = np.linalg.slogdet(kernel[np.ix_(after, after)])[1] - np.linalg.slogdet(kernel[np.ix_(before, before)])[1]
    return (1 - rules.strength) * relevance + rules.strength * gain


def allowed(case: Case, chosen: list[int], left: set[int]) -> set[int]:
    """Whom the category rules let into the next slot, or whoever is let in once they have given way."""
    shown = Counter(case.tops[position] for position in chosen[len(chosen) - len(chosen) % case.page :])
    cap = max(1, int(case.rules.max_share * case.page))
    full = {c for c in left if case.rules.max_share < 1 and shown[case.tops[c]] >= cap}
    last = case.categories[chosen[-case.rules.max_run :]] if case.rules.max_run else []
    long = {c for c in left if len(last) == case.rules.max_run > 0 and set(last) == {case.categories[c]}}
    return left - full - long or left - long or left - full or left


def one_by_one(case: Case) -> list[int]:
    """The pages, each arranged when those before it are shown."""
    shown: list[int] = []
    while len(shown) < min(case.length, len(case.relevance)):
        order = np.array([*shown, *(k for k in range(len(case.relevance)) if k not in shown)])
        made = rerank.arranged(
            case.relevance[order],
            case.categories[order],
            case.tops[order],
            case.vectors[order],
            length=min(case.page, case.length - len(shown)),
            page=case.page,
            rules=case.rules,
            before=len(shown),
        )
        shown += order[made.order].tolist()
    return shown


@given(cases(), st.booleans())
def test_each_slot_holds_what_a_plain_implementation_puts_there(case: Case, at_once: bool) -> None:
    chosen: list[int] = []
    left = set(range(len(case.relevance)))
    for position in case.arranged().order.tolist() if at_once else one_by_one(case):
        values = {candidate: worth(case, chosen, candidate) for candidate in allowed(case, chosen, left)}
        assert position in values
        assert values[position] >= max(values.values()) - 1e-4, "but for rounding, it is the best"
        chosen.append(position)
        left.remove(position)
    assert len(chosen) == min(case.length, len(case.relevance))


@given(cases())
def test_a_category_rule_is_kept_or_its_breach_is_counted(case: Case) -> None:
    made = case.arranged()
    longest = max((len(list(run)) for _, run in groupby(case.categories[made.order])), default=0)
    assert rerank.RUN in made.relaxed or not case.rules.max_run or longest <= case.rules.max_run
    cap = max(1, int(case.rules.max_share * case.page))
    pages = [Counter(case.tops[made.order[at : at + case.page]]) for at in range(0, len(made.order), case.page)]
    excess = sum(max(0, count - cap) for page in pages for count in page.values())
    assert case.rules.max_share == 1 or excess == made.relaxed.get(rerank.SHARE, 0)


@given(cases())
def test_without_strength_the_order_is_that_without_diversity(case: Case) -> None:
    without, weak = (
        case._replace(rules=Rules(case.rules.max_run, case.rules.max_share, method, 0.0)).arranged()
        for method in ("none", case.rules.diversity)
    )
    assert weak.order.tolist() == without.order.tolist()
    assert rerank.DIVERSITY not in weak.changed


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(case: Case, random) -> None:
    shuffled = list(range(len(case.relevance)))
    random.shuffle(shuffled)
    made = case.arranged()
    other = case._replace(
        relevance=case.relevance[shuffled], categories=case.categories[shuffled], vectors=case.vectors[shuffled]
    ).arranged()
    assert np.array(shuffled)[other.order].tolist() == made.order.tolist()
    assert other.held.tolist() == made.held[shuffled].tolist()
    assert (other.changed, other.relaxed) == (made.changed, made.relaxed)


@given(cases())
def test_who_is_more_relevant_than_something_shown_before_it_knows_why(case: Case) -> None:
    made = case.arranged()
    slot = {position: number for number, position in enumerate(made.order.tolist())}
    for candidate, relevance in enumerate(case.relevance):
        ahead = made.order[: slot.get(candidate, len(made.order))]
        if made.held[candidate] == rerank.NOT_HELD:
            assert not (case.relevance[ahead] < relevance).any()


def spread(
    relevance: list[float], vectors: list[tuple[int, int]], method: str, strength: float = 0.5, window: int = 20
) -> rerank.Arrangement:
    """All candidates, without category rules."""
    zeros = np.zeros(len(relevance), int)
    rules = Rules(0, 1, method, strength, window)
    return rerank.arranged(
        np.array(relevance), zeros, zeros, np.array(vectors), length=99, page=10, rules=rules, tell_held=True
    )


@METHODS
def test_twins_are_spread_apart(method: str) -> None:
    made = spread([1.0, 0.9, 0.8], [RIGHT, RIGHT, UP], method)
    assert made.order.tolist() == [0, 2, 1]
    assert made.held.tolist() == [rerank.NOT_HELD, rerank.HOLDING.index(rerank.DIVERSITY), rerank.NOT_HELD]
    assert made.changed == {rerank.DIVERSITY: 1}


@METHODS
def test_an_opposite_is_no_twin(method: str) -> None:
    assert spread([1.0, 0.9, 0.8], [RIGHT, UP, LEFT], method).order.tolist() == [0, 2, 1]


@METHODS
def test_items_without_a_vector_are_nobodys_twins(method: str) -> None:
    assert spread([1.0, 0.9, 0.8], [RIGHT, NOWHERE, NOWHERE], method, 0.2).order.tolist() == [0, 1, 2]


@METHODS
@pytest.mark.parametrize(("window", "order"), [(1, [0, 2, 1, 3]), (2, [0, 2, 3, 1])])
def test_a_twin_may_come_back_when_the_first_is_out_of_sight(method: str, window: int, order: list[int]) -> None:
    made = spread([1.0, 0.9, 0.8, 0.1], [RIGHT, RIGHT, UP, NOWHERE], method, window=window)
    assert made.order.tolist() == order


def test_a_long_list_of_twins_is_filled() -> None:
    made = spread([1.0] * 60, [RIGHT] * 60, "dpp", 1.0)
    assert sorted(made.order.tolist()) == list(range(60))


@given(cases())
def test_whom_the_rules_held_back_is_told_to_those_who_ask(case: Case) -> None:
    made, brief = case.arranged(), case.arranged(tell_held=False)
    assert (brief.order.tolist(), brief.changed, brief.relaxed) == (made.order.tolist(), made.changed, made.relaxed)
    assert len(brief.held) == 0


def test_two_rules_that_change_one_slot_are_both_reported() -> None:
    # The share keeps the second A out of the page; of the Bs, the one unlike the first A wins.
    case = Case(
        np.array([1.0, 0.9, 0.8, 0.7]),
        np.array([0, 0, 2, 2]),
        np.array([RIGHT, UP, RIGHT, UP], float),
        2,
        2,
        Rules(0, 0.5, "mmr", 0.5),
    )
    made = case.arranged()
    assert made.order.tolist() == [0, 3]
    names = ["" if code == rerank.NOT_HELD else rerank.HOLDING[code] for code in made.held]
    assert names == ["", rerank.SHARE, rerank.DIVERSITY, ""]
    assert made.changed == {rerank.SHARE: 1, rerank.DIVERSITY: 1}
