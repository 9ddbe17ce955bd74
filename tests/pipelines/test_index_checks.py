"""The figures of gate G2 on tables whose answer can be checked by eye."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.index import Index
from pipelines import index_checks, index_plots
from pipelines.index_checks import Findings, Limits


def test_overlap_of_pages() -> None:
    # Pairs share 2, 1 and 1 of 3 items: 4 of 9.
    pages = np.array([[0, 1, 2], [0, 1, 3], [0, 4, 5]])
    assert index_checks.overlap(pages) == pytest.approx(4 / 9)
    assert index_checks.overlap(np.array([[1, 2], [2, 1]])) == 1.0
    assert index_checks.overlap(np.array([[1, 2], [3, 4]])) == 0.0
    assert index_checks.overlap(np.array([[1, -1], [1, -1]])) == 0.5  # what was not found is not shared


@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 1000))
def test_overlap_is_the_mean_over_all_pairs(users: int, page: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pages = np.array([rng.choice(12, page, replace=False) for _ in range(users)])
    pairs = [len(set(a) & set(b)) / page for i, a in enumerate(pages) for j, b in enumerate(pages) if i != j]
    assert index_checks.overlap(pages) == pytest.approx(np.mean(pairs))


def test_the_same_page_for_everyone_is_refused_even_where_exact_search_gives_it_too() -> None:
    pages = np.tile(np.arange(20), (50, 1))
    found = Findings(metrics={"items": 1000})
    index_checks.sameness(found, pages, pages, Limits())
    assert found.reasons == ["same items for everyone: two random users share 100% of their first 20, limit 90%"]


def test_more_alike_than_exact_search_is_refused() -> None:
    rng = np.random.default_rng(0)
    exact = np.array([rng.choice(1000, 20, replace=False) for _ in range(50)])
    searched = exact.copy()
    searched[:, :10] = np.arange(10)
    found = Findings(metrics={"items": 1000})
    index_checks.sameness(found, searched, exact, Limits())
    assert "same items for everyone" in found.reasons[0]
    fine = Findings(metrics={"items": 1000})
    index_checks.sameness(fine, exact, exact, Limits())
    assert fine.passed


def test_recall_counts_items_as_good_as_the_last() -> None:
    # The second user was given a tie for the second place, the third a worse item.
    best = np.array([[0.9, 0.5], [0.9, 0.5], [0.9, 0.5]], np.float32)
    given_ = np.array([[0.9, 0.5], [0.9, 0.5], [0.9, 0.1]], np.float32)
    found = Findings()
    index_checks.recall(found, given_, best, Limits())
    assert found.metrics["recall_20"] == pytest.approx(5 / 6)
    assert found.reasons == ["low recall against exact search: recall_20 0.833"]


def test_coverage_compares_with_exact_search() -> None:
    found = Findings(metrics={"items": 10})
    index_checks.coverage(found, np.array([[0, 1], [0, 1]]), np.array([[0, 1], [2, 3]]), Limits())
    assert found.metrics["coverage"] == {"share": 0.2, "exact_share": 0.4}
    assert found.reasons == ["low coverage: search reaches 20% of the items, exact search 40%"]


def unit(rows: list[list[float]]) -> NDArray[np.float32]:
    vectors = np.array(rows, np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_a_few_equal_vectors_are_allowed_and_counted() -> None:
    rng = np.random.default_rng(0)
    stored = unit(rng.normal(size=(100, 8)).tolist())
    stored[1] = stored[0]
    found = Findings()
    index_checks.vectors(found, stored, 8, Limits())
    assert found.passed
    assert found.metrics["vectors"]["shared_share"] == 0.02


def test_vectors_that_all_but_coincide_are_a_collapsed_space() -> None:
    rng = np.random.default_rng(0)
    stored = unit((np.array([1.0] * 8) + 0.01 * rng.normal(size=(50, 8))).tolist())
    found = Findings()
    index_checks.vectors(found, stored, 8, Limits())
    assert found.reasons[0].startswith("collapsed space: the mean cosine between two items is 1.000")


def test_an_item_whose_own_vector_finds_another_is_unreachable() -> None:
    built = Index.build(["a", "b", "c"], unit([[1, 0], [0, 1], [1, 1]]))
    found = Findings()
    index_checks.own_vectors(found, built, np.array([0, 1, 2]), Limits())
    assert found.passed
    other = Index(built.ids, unit([[1, 0], [-1, 0], [0, 1]]), built.settings, built.searcher)
    index_checks.own_vectors(found, other, np.array([0, 1, 2]), Limits())
    assert found.reasons[0].startswith("unreachable items")


def test_the_map_keeps_the_widest_directions() -> None:
    rng = np.random.default_rng(0)
    spread = np.zeros((200, 5), np.float32)
    spread[:, 3], spread[:, 1] = 10 * rng.normal(size=200), rng.normal(size=200)
    points = index_plots.project(spread)
    assert abs(np.corrcoef(points[:, 0], spread[:, 3])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], spread[:, 1])[0, 1]) > 0.99
