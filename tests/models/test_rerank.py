"""The rules that a shopper notices: variety, and nothing that may not be shown."""

from collections import Counter
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import rerank
from models.rerank import NO_RULES, Rules

CATEGORIES = st.lists(st.integers(0, 6), min_size=0, max_size=80)
RULES = Rules()


def arrange(categories: list[int], *, tops: list[int] | None = None, length: int = 80, page: int = 10, rules=RULES):
    """Candidates of these categories, the best first."""
    codes = np.array(categories, np.int32)
    general = codes if tops is None else np.array(tops, np.int32)
    return rerank.arranged(
        np.linspace(1, 0, len(codes)), codes, general, length=length, page=page, rules=rules, tell_held=True
    )


def held(made: rerank.Arrangement) -> list[str]:
    return ["" if code == rerank.NOT_HELD else rerank.HOLDING[code] for code in made.held]


def shown(categories: list[int], **options) -> str:
    """Categories of the arrangement as letters."""
    return "".join("ABCDEFG"[categories[position]] for position in arrange(categories, **options).order)


def test_the_fourth_in_a_row_waits_for_one_of_another_category() -> None:
    assert shown([0, 0, 0, 0, 1, 0], rules=Rules(max_run=3, max_share=1)) == "AAABAA"


def test_no_top_category_takes_more_than_its_share_of_a_page() -> None:
    # 40 % of ten slots are four; the fifth A of each page waits.
    codes = [0] * 6 + [1] * 6 + [2] * 6
    assert shown(codes, length=10, rules=Rules(max_run=0, max_share=0.4)) == "AAAABBBBCC"


def test_the_share_starts_anew_on_the_next_page() -> None:
    codes = [0] * 8 + [1] * 4 + [2] * 4 + [3] * 4
    assert shown(codes, length=20, page=10, rules=Rules(max_run=0, max_share=0.4)) == "AAAABBBBCC" + "AAAACCDDDD"


def test_a_catalogue_of_one_category_is_shown_and_the_breach_is_reported() -> None:
    made = arrange([0] * 5, page=5)
    assert made.order.tolist() == [0, 1, 2, 3, 4]
    assert made.relaxed == {rerank.SHARE: 3, rerank.RUN: 2}


def test_who_had_to_wait_for_the_run_is_told_so() -> None:
    made = arrange([0, 0, 0, 0, 1, 0], rules=Rules(max_run=3, max_share=1))
    assert held(made) == ["", "", "", rerank.RUN, "", ""]
    assert made.changed == {rerank.RUN: 1}


def test_who_had_no_place_on_the_page_is_told_the_first_rule_that_took_it() -> None:
    # The third A meets a full share and too long a run: the share is named first.
    made = arrange([0, 0, 0, 1, 0, 1], length=4, page=4, rules=Rules(max_run=2, max_share=0.5))
    assert made.order.tolist() == [0, 1, 3, 5]
    assert held(made) == ["", "", rerank.SHARE, "", rerank.SHARE, ""]
    assert made.changed == {rerank.SHARE: 2}
    made = arrange([0, 0, 0, 1, 0, 1], length=4, page=4, rules=Rules(max_run=2, max_share=0.75))
    assert made.order.tolist() == [0, 1, 3, 2]
    assert held(made) == ["", "", rerank.RUN, "", "", ""]


def test_candidates_need_not_come_in_order() -> None:
    made = rerank.arranged(
        np.array([0.1, 0.3, 0.2]), np.array([0, 0, 1]), np.zeros(3, int), length=3, page=3, rules=Rules(1, 1)
    )
    assert made.order.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_run": -1}, "max_run must be at least 1, or 0 for no rule, got -1"),
        ({"max_share": 0}, "max_share must be above 0 .* got 0"),
        ({"max_share": 1.2}, "max_share must be .* at most 1, .* got 1.2"),
        ({"diversity": "some"}, "one of none, mmr, dpp, got 'some'"),
        ({"strength": 1.5}, "strength must be in 0..1, got 1.5"),
        ({"strength": float("nan")}, "strength must be in 0..1, got nan"),
        ({"window": 0}, "window must be at least 1, got 0"),
    ],
)
def test_rules_that_mean_nothing_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rules(**values)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"relevance": np.array([0.5, np.nan])}, "finite and at least 0, got nan"),
        ({"relevance": np.array([0.5, -0.25])}, "finite and at least 0, got -0.25; pass probabilities"),
        ({"relevance": np.ones((2, 1))}, r"one value per candidate, got \(2, 1\), \(2,\) and \(2,\)"),
        ({"tops": np.zeros(3, int)}, r"one value per candidate, got \(2,\), \(2,\) and \(3,\)"),
        ({"vectors": None}, '"mmr" compares embeddings: pass vectors, or choose "none"'),
        ({"vectors": np.ones((3, 4))}, r"vectors must be \[2, d\], one row per item, got shape \(3, 4\)"),
        ({"vectors": np.array([[1.0, np.nan], [1, 0]])}, "vectors must be finite"),
        ({"page": 0}, "length must be at least 0 and page at least 1, got 2 and 0"),
    ],
)
def test_what_cannot_be_arranged_is_refused(changed: dict[str, Any], message: str) -> None:
    two = np.zeros(2, int)
    good = {"relevance": np.ones(2), "categories": two, "tops": two, "vectors": np.ones((2, 4)), "length": 2, "page": 2}
    with pytest.raises(ValueError, match=message):
        rerank.arranged(**(good | changed), rules=Rules(diversity="mmr"))


def test_a_filter_reports_what_it_took_and_each_candidate_counts_once() -> None:
    masks = {"unavailable": np.array([True, False, False, True]), "seen": np.array([True, True, False, False])}
    found = rerank.filtered(masks, 4)
    assert found.kept.tolist() == [2]
    assert found.dropped == {"unavailable": 2, "seen": 1}


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=12), st.booleans())
def test_rules_that_ask_for_nothing_are_as_rules_that_are_never_broken(relevance: list[float], tell_held: bool) -> None:
    alike = np.zeros(len(relevance), np.int64)
    nothing, never = (
        rerank.arranged(np.array(relevance), alike, alike, length=8, page=3, rules=rules, tell_held=tell_held)
        for rules in (rerank.NO_RULES, rerank.Rules(max_run=99, max_share=1.0))
    )
    assert nothing.order.tolist() == never.order.tolist()
    assert nothing.held.tolist() == never.held.tolist()
    assert (nothing.changed, nothing.relaxed) == (never.changed, never.relaxed) == ({}, {})


@given(CATEGORIES)
def test_without_rules_the_order_stays(categories: list[int]) -> None:
    assert arrange(categories, rules=NO_RULES).order.tolist() == list(range(len(categories)))


@given(CATEGORIES, st.integers(0, 90))
def test_every_slot_holds_another_candidate_and_as_many_as_there_are(categories: list[int], length: int) -> None:
    order = arrange(categories, length=length).order.tolist()
    assert len(order) == len(set(order)) == min(length, len(categories))


@given(CATEGORIES, st.integers(1, 5), st.integers(1, 20), st.sampled_from([0.2, 0.4, 0.5]))
def test_a_rule_is_kept_or_its_breach_is_counted(
    categories: list[int], max_run: int, page: int, max_share: float
) -> None:
    made = arrange(categories, page=page, rules=Rules(max_run, max_share))
    result = [categories[position] for position in made.order]
    longest = max((len(list(run)) for _, run in groupby(result)), default=0)
    if rerank.RUN not in made.relaxed:
        assert longest <= max_run
    cap = max(1, int(max_share * page + 1e-9))
    pages = [Counter(result[start : start + page]) for start in range(0, len(result), page)]
    excess = sum(max(0, count - cap) for counts in pages for count in counts.values())
    assert excess == made.relaxed.get(rerank.SHARE, 0)


@given(CATEGORIES, st.integers(1, 10))
def test_within_a_category_the_better_candidate_comes_first(categories: list[int], page: int) -> None:
    order = arrange(categories, page=page).order.tolist()
    for code in set(categories):
        positions = [position for position in order if categories[position] == code]
        assert positions == sorted(positions)


@given(st.lists(st.integers(0, 4), min_size=50, max_size=50).filter(lambda c: min(Counter(c).values()) >= 4))
def test_a_varied_first_page_keeps_the_share_without_exception(categories: list[int]) -> None:
    if len(set(categories)) < 3:
        return
    made = arrange(categories, length=10, page=10)
    counts = Counter(categories[position] for position in made.order)
    assert max(counts.values()) <= 4
