"""Recall, NDCG and the baselines on tables that a reader can check by eye."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import baselines, recall

# Two users, five items. User 0 had item 0 and then takes 0 and 3; user 1 had nothing and takes 4.
TRUTH = recall.Truth(
    seen=[np.array([0]), np.array([], np.int64)],
    targets=[np.array([0, 3]), np.array([4])],
    share=np.array([0.5, 0.2, 0.1, 0.1, 0.1]),
)
SCORES = np.array([[5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0]])


def rows(part: slice) -> np.ndarray:
    return SCORES[part]


def test_recall_counts_hits_per_user() -> None:
    found = recall.measure(rows, TRUTH, "all")
    assert found.recall[5].tolist() == [1.0, 1.0]
    ideal = 1 + 1 / np.log2(3)
    assert found.ndcg[0] == pytest.approx((1 + 1 / np.log2(5)) / ideal)
    assert found.ndcg[1] == pytest.approx(1 / np.log2(6))


def test_new_view_takes_out_what_was_seen() -> None:
    found = recall.measure(rows, TRUTH, "new")
    assert recall.wanted(TRUTH, 0, "new").tolist() == [3]
    assert found.top[0].tolist()[-1] == 0, "what was seen ranks last"
    assert found.ndcg[0] == pytest.approx(1 / np.log2(4))


def test_user_without_targets_counts_nowhere() -> None:
    truth = recall.Truth(seen=[np.array([1])], targets=[np.array([1])], share=TRUTH.share)
    found = recall.measure(rows, truth, "new")
    assert np.isnan(found.recall[20][0])
    assert found.summary(truth)["recall@100"] == 0.0


def test_tail_is_what_is_left_after_half_of_the_interactions() -> None:
    assert recall.tail(TRUTH.share).tolist() == [False, True, True, True, True]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**16))
def test_best_is_the_start_of_a_stable_sort(items: int, k: int, seed: int) -> None:
    scores = np.random.default_rng(seed).permutation(items).astype(np.float32)[None]
    k = min(k, items)
    assert recall.best(scores, k)[0].tolist() == np.argsort(-scores[0], kind="stable")[:k].tolist()


# (visitor, item, age in days, weight): visitor 0 took item 1 twice long ago and item 2 yesterday.
SEEN = baselines.Interactions(
    visitor=np.array([0, 0, 0, 1]),
    item=np.array([1, 1, 2, 0]),
    age=np.array([400.0, 300.0, 1.0, 1.0]),
    weight=np.array([1.0, 1.0, 1.0, 1.0]),
)


def test_popularity_with_and_without_decay() -> None:
    assert baselines.popularity(SEEN, 4).tolist() == [1.0, 2.0, 1.0, 0.0]
    decayed = baselines.decayed_popularity(SEEN, 4, half_life=1.0)
    assert decayed.tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0], abs=1e-9)


def test_repeats_rank_own_items_first_then_the_trend() -> None:
    trend = np.array([0.0, 0.0, 0.0, 9.0])
    assert np.argsort(-baselines.repeats(SEEN, 0, trend, None)).tolist()[:3] == [1, 2, 3]
    assert np.argsort(-baselines.repeats(SEEN, 0, trend, 30.0)).tolist()[0] == 2
    assert baselines.repeats(SEEN, 7, trend, None).argmax() == 3
