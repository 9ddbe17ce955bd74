"""Ranking and calibration metrics against cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ranking_metrics


def test_ndcg_by_hand() -> None:
    scores = np.array([3.0, 2.0, 1.0, 1.0, 2.0])
    gains = np.array([0.0, 1.0, 0.0, 0.0, 0.0])
    request = np.array([0, 0, 0, 1, 1])
    found, which = ranking_metrics.ndcg(scores, gains, request, 10)
    assert found == pytest.approx([1 / math.log2(3)])
    assert which.tolist() == [0]
    assert ranking_metrics.ndcg(scores, gains, request, 1)[0].tolist() == [0.0]


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 8), st.integers(0, 3)), min_size=1, max_size=30))
def test_ndcg_is_one_for_the_ideal_order_and_never_more(rows: list[tuple[float, int, int]]) -> None:
    rows = sorted(rows, key=lambda row: row[2])
    scores, gains = np.array([r[0] for r in rows]), np.array([float(r[1]) for r in rows])
    request = np.unique([r[2] for r in rows], return_inverse=True)[1].astype(np.int64)
    ideal, _ = ranking_metrics.ndcg(gains, gains, request, 10)
    assert ideal == pytest.approx(np.ones(len(ideal)))
    found, _ = ranking_metrics.ndcg(scores, gains, request, 10)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()


def test_auc_counts_ties_half() -> None:
    assert ranking_metrics.auc(np.array([0.1, 0.9]), np.array([0.0, 1.0])) == 1.0
    assert ranking_metrics.auc(np.array([0.5, 0.5]), np.array([0.0, 1.0])) == 0.5
    assert ranking_metrics.auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0.0, 1.0, 1.0])) == 0.75
    assert ranking_metrics.auc(np.array([0.1, 0.4]), np.zeros(2)) is None


def test_gini_is_the_share_of_the_true_order_that_scores_have() -> None:
    amounts = np.array([1.0, 2.0, 3.0, 10.0])
    assert ranking_metrics.gini(amounts, amounts) == pytest.approx(1)
    assert ranking_metrics.gini(-amounts, amounts) == pytest.approx(-1)
    assert ranking_metrics.gini(np.ones(4), amounts) == pytest.approx(0)
    # The excesses over the mean of 4 add up to 6, 5, 3, 0 in the true order, and to 6, 3, 1, 0 in this one.
    assert ranking_metrics.gini(np.array([3.0, 2.0, 1.0, 4.0]), amounts) == pytest.approx(10 / 14)
    assert ranking_metrics.gini(np.array([1.0, 2.0]), np.ones(2)) is None
    assert ranking_metrics.gini(np.zeros(0), np.zeros(0)) is None


def test_calibration_error_is_the_distance_of_predicted_and_observed() -> None:
    labels = np.array([0.0, 1.0] * 50)
    assert ranking_metrics.reliability(np.full(100, 0.5), labels, 1).error == pytest.approx(0)
    assert ranking_metrics.reliability(np.full(100, 0.9), labels, 1).error == pytest.approx(0.4)


def test_mean_and_error_of_little() -> None:
    assert ranking_metrics.mean_and_error(np.zeros(0)) == (0.0, 0.0)
    assert ranking_metrics.mean_and_error(np.array([0.3])) == (0.3, 0.0)
    assert ranking_metrics.mean_and_error(np.array([0.0, 1.0])) == pytest.approx((0.5, 0.5))
