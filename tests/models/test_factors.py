"""What raises and lowers relevance before the arrangement."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import factors, rerank

NOW = 1_700_000_000.0
HOUR = 3600.0


def order(relevance: np.ndarray) -> list[int]:
    codes = np.arange(len(relevance))
    return rerank.arranged(relevance, codes, codes, length=9, page=9, rules=rerank.NO_RULES).order.tolist()


def test_a_fresh_item_is_raised_and_the_less_the_older_it_is() -> None:
    hours = np.array([0, 12, 24, 48, 100, -1, np.nan])
    found = factors.freshness(NOW - hours * HOUR, NOW, boost=1.4)
    assert found == pytest.approx([1.4, 1.3, 1.2, 1, 1, 1, 1])


def test_a_fresh_item_overtakes() -> None:
    factor = factors.freshness(NOW - np.array([500, 6]) * HOUR, NOW, boost=1.5, hours=24)
    made = factors.adjusted(np.array([0.6, 0.5]), {"freshness": factor})
    assert order(made.relevance) == [1, 0]
    assert made.changed == {"freshness": 1}


def test_an_item_like_those_of_the_visit_rises() -> None:
    vectors = np.array([[0, 2], [3, 0], [-1, 0], [3, 4], [0, 0]])
    factor = factors.session(vectors, np.array([[5, 0], [-1, -1]]), strength=0.5)
    assert factor == pytest.approx([1, 1.5, 1 + 0.5 * np.sqrt(0.5), 1.3, 1])
    made = factors.adjusted(np.full(5, 0.5), {"session": factor})
    assert order(made.relevance) == [1, 2, 3, 0, 4]
    assert made.changed == {"session": 3}


def test_before_the_first_view_nothing_changes() -> None:
    assert factors.session(np.eye(3), np.empty((0, 3)), strength=2).tolist() == [1, 1, 1]


def test_a_buried_item_sinks_a_boosted_one_rises_and_several_multiply() -> None:
    rules = {
        "ours": (np.array([False, True, True]), 2.0),
        "clearance": (np.array([True, True, False]), 0.25),
    }
    factor = factors.business(3, rules)
    assert factor.tolist() == [0.25, 0.5, 2]
    made = factors.adjusted(np.array([0.9, 0.8, 0.3]), {"business": factor})
    assert order(made.relevance) == [2, 1, 0]


def test_rules_multiply_and_each_reports_in_the_order_that_is_documented() -> None:
    ones = np.ones(2)
    given_factors = {"business": np.array([0.5, 0.5]), "session": ones, "freshness": np.array([1, 3.0])}
    made = factors.adjusted(np.array([1.0, 2.0]), given_factors)
    assert made.relevance.tolist() == [0.5, 3]
    assert list(made.changed.items()) == [("freshness", 1), ("business", 2)]


@given(st.lists(st.floats(-10, 200), max_size=20), st.floats(1, 5), st.floats(1, 100))
def test_freshness_is_between_one_and_the_boost_and_falls_with_age(
    hours: list[float], boost: float, window: float
) -> None:
    ages = np.sort(np.array(hours))
    found = factors.freshness(NOW - ages * HOUR, NOW, boost=boost, hours=window)
    assert ((found >= 1) & (found <= boost)).all()
    assert (np.diff(found[ages > 0.001]) <= 0).all()


@pytest.mark.parametrize(
    ("rule", "arguments", "message"),
    [
        (factors.freshness, {"created_at": np.ones(1), "now": NOW, "boost": 0.5}, "boost must be at least 1 .* 0.5"),
        (
            factors.freshness,
            {"created_at": np.ones(1), "now": NOW, "boost": 2, "hours": 0},
            "hours above 0, got 2 and 0",
        ),
        (factors.session, {"vectors": np.eye(2), "viewed": np.eye(2), "strength": -1}, "strength .* got -1"),
        (factors.session, {"vectors": np.eye(2), "viewed": np.eye(3), "strength": 1}, "2 dimensions .* got 3"),
        (factors.session, {"vectors": np.eye(2), "viewed": np.ones(2), "strength": 1}, r"one row per item, got shape"),
        (factors.business, {"size": 2, "rules": {"sale": (np.ones(3, bool), 2)}}, r"mask of 'sale' .* got \(3,\)"),
        (factors.business, {"size": 1, "rules": {"sale": (np.ones(1, bool), 0)}}, "'sale' must be above 0, got 0"),
        (factors.adjusted, {"relevance": np.ones(1), "factors": {"luck": np.ones(1)}}, "unknown score rules .*luck"),
        (factors.adjusted, {"relevance": np.ones(1), "factors": {"session": np.ones(2)}}, r"got shape \(2,\)"),
        (
            factors.adjusted,
            {"relevance": np.ones(1), "factors": {"session": np.array([np.nan])}},
            "finite factors above 0, got nan",
        ),
    ],
)
def test_what_makes_no_factor_is_refused(rule: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(**arguments)


def test_what_is_like_a_refused_item_loses_and_what_is_not_stays() -> None:
    degrees = np.deg2rad([0, 30, 60, 90, 180])
    vectors = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    found = factors.dampening(vectors, vectors[:1], np.ones(1), strength=0.6)
    half = 1 - 0.6 * (np.cos(np.pi / 6) - 0.5) / 0.5
    np.testing.assert_allclose(found, [0.4, half, 1, 1, 1], atol=1e-6)
    both = factors.dampening(vectors, vectors[[3, 0]], np.array([0.5, 1.0]), strength=0.6)
    np.testing.assert_allclose(both[[0, 3]], [0.4, 0.7], atol=1e-6)
    nothing = factors.dampening(np.zeros((2, 2)), vectors, np.ones(5), strength=0.6)
    assert nothing.tolist() == [1, 1], "an item without an embedding is like none"


def test_a_no_says_half_as_much_after_a_week() -> None:
    week = 7 * 86_400.0
    said = factors.weight(np.array([1.0, 1.0, 0.25, 1.0]), np.array([0.0, week, 2 * week, -5.0]))
    assert said.tolist() == [1.0, 0.5, 0.0625, 1.0]


@given(st.integers(0, 40), st.integers(0, 8), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
def test_dampening_never_lifts_and_more_said_never_dampens_less(n: int, m: int, strength: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, refused = rng.normal(size=(n, 4)), rng.normal(size=(m, 4))
    weights = rng.random(m)
    found = factors.dampening(vectors, refused, weights, strength=strength)
    assert ((found > 0) & (found <= 1)).all()
    assert (factors.dampening(vectors, refused, np.sqrt(weights), strength=strength) <= found + 1e-6).all()


@pytest.mark.parametrize(
    ("weights", "strength", "says"),
    [
        (np.ones(1), 1.0, "below 1, got 1.0"),
        (np.ones(1), -0.1, "at least 0"),
        (np.ones(2), 0.5, r"must be \[1\]"),
        (np.array([np.nan]), 0.5, "in 0..1"),
        (np.array([1.5]), 0.5, "in 0..1"),
    ],
)
def test_dampening_refuses_what_is_no_weight_and_no_strength(weights: Any, strength: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        factors.dampening(np.ones((3, 2)), np.ones((1, 2)), weights, strength=strength)


def test_dampening_refuses_vectors_of_other_lengths() -> None:
    with pytest.raises(ValueError, match="must have the 2 dimensions"):
        factors.dampening(np.ones((3, 2)), np.ones((1, 3)), np.ones(1), strength=0.5)
