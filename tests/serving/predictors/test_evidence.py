"""Which item's absence lowers a score the most: by hand, in two dimensions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.predictors import evidence

EAST, NORTH, NORTH_EAST = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]


def named(candidate: list[float], *versions: list[float], items: list[list[float]]) -> int:
    """The number of the item that is named for one candidate, from 1, or 0."""
    rows = (np.array(vectors, np.float32).reshape(-1, 2) for vectors in ([candidate], versions, items))
    [found] = evidence.causes(*rows).tolist()
    return int(found)


@pytest.mark.parametrize(
    ("candidate", "number"),
    [
        (EAST, 1),  # 0.6, without the item in the east 0.0, without the one in the north 1.0
        (NORTH, 2),  # 0.8, 1.0, 0.0
    ],
)
def test_the_item_is_named_without_which_the_score_is_lowest(candidate: list[float], number: int) -> None:
    assert named(candidate, NORTH_EAST, NORTH, EAST, items=[EAST, NORTH]) == number


def test_of_equal_items_the_first_is_named() -> None:
    assert named(EAST, NORTH_EAST, NORTH, NORTH, items=[EAST, EAST]) == 1


def test_what_is_not_like_the_candidate_is_not_named() -> None:
    """Without the item in the north an item in the east scores lower; but nothing connects the two."""
    assert named(EAST, NORTH_EAST, NORTH, items=[NORTH]) == 0


def test_a_score_that_rises_or_stays_has_no_evidence() -> None:
    assert named(EAST, NORTH_EAST, EAST, NORTH_EAST, items=[EAST, EAST]) == 0


def test_rounding_is_no_evidence() -> None:
    assert named(EAST, NORTH_EAST, [0.6 - 4e-7, 0.8], items=[EAST]) == 0
    assert named(EAST, NORTH_EAST, [0.6 - 4e-4, 0.8], items=[EAST]) == 1


def test_a_visitor_without_history_has_none() -> None:
    assert named(EAST, NORTH_EAST, items=[]) == 0


angle = st.floats(0, 2 * np.pi)


def circle(angles: list[float]) -> NDArray[np.float32]:
    return np.array([[np.cos(a), np.sin(a)] for a in angles], np.float32).reshape(-1, 2)


@given(angle, st.lists(st.tuples(angle, angle), max_size=9), st.lists(angle, min_size=1, max_size=6))
def test_a_named_item_lowers_the_score_and_is_like_the_candidate(
    visitor: float, left_out: list[tuple[float, float]], candidates: list[float]
) -> None:
    queries, items = circle([visitor, *(without for without, _ in left_out)]), circle([item for _, item in left_out])
    rows = circle(candidates)
    for row, number in zip(rows, evidence.causes(rows, queries, items), strict=True):
        if number:
            assert row @ queries[number] < row @ queries[0]
            assert row @ items[number - 1] >= evidence.LIKENESS - 1e-6
        if (queries[1:] @ row >= row @ queries[0]).all():
            assert number == 0
