"""Trees in the graph answer what the library that grew them answers."""

import numpy as np
import pytest
import tensorflow as tf
import xgboost as xgb
from numpy.typing import NDArray

from models.forest import NO_TREES, Forest, Logit

DEPTH = 4


@pytest.fixture(scope="module")
def numbers() -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return np.round(rng.normal(size=(3_000, 7)), 1).astype(np.float32)  # many numbers are a threshold exactly


def grown(numbers: NDArray[np.float32], label: NDArray[np.float64], trees: int, least: float) -> xgb.Booster:
    options = {"objective": "binary:logistic", "base_score": 0.5, "max_depth": DEPTH, "min_child_weight": least}
    return xgb.train(options, xgb.DMatrix(numbers, label=label), trees)


@pytest.mark.parametrize("least", [1.0, 100.0], ids=["full trees", "leaves that come early"])
def test_the_graph_adds_up_what_xgboost_does(numbers: NDArray[np.float32], least: float) -> None:
    label = (numbers[:, 0] * numbers[:, 1] + numbers[:, 2] > 0.5).astype(float)
    booster = grown(numbers, label, 60, least)
    found = Logit(Forest.of_xgboost(booster.save_raw("json"), DEPTH))(tf.constant(numbers)).numpy()
    assert found == pytest.approx(booster.predict(xgb.DMatrix(numbers), output_margin=True), abs=1e-5)
    assert found.std() > 0.5


def test_a_tree_that_found_nothing_to_split_is_one_leaf(numbers: NDArray[np.float32]) -> None:
    booster = grown(numbers, np.full(len(numbers), 0.8), 1, least=1e9)
    found = Logit(Forest.of_xgboost(booster.save_raw("json"), DEPTH))(tf.constant(numbers)).numpy()
    assert found == pytest.approx(booster.predict(xgb.DMatrix(numbers), output_margin=True), abs=1e-6)


def test_no_trees_say_nothing(numbers: NDArray[np.float32]) -> None:
    assert not Logit(NO_TREES)(tf.constant(numbers)).numpy().any()
