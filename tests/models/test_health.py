"""Figures of embeddings whose state is plain, and weights that are no numbers."""

import numpy as np
import pytest

from recsys import settings

settings.load()  # before TensorFlow is imported

import tensorflow as tf  # noqa: E402

from models import health  # noqa: E402
from recsys.errors import Permanent  # noqa: E402


def test_vectors_that_collapsed_to_a_line_have_rank_one() -> None:
    random = np.random.default_rng(0)
    line = np.outer(random.random(200) + 0.5, np.ones(8)).astype(np.float32)
    everywhere = random.normal(size=(2_000, 8)).astype(np.float32)
    everywhere /= np.linalg.norm(everywhere, axis=1, keepdims=True)
    assert health.measure(line, seed=1)["effective_rank"] == pytest.approx(1.0, abs=0.01)
    found = health.measure(everywhere, seed=1)
    assert found["effective_rank"] == pytest.approx(8.0, abs=0.05)
    assert found["mean_cosine"] == pytest.approx(0.0, abs=0.01)
    assert found["norm_min"] == pytest.approx(1.0) == found["norm_max"]


def test_one_item_that_is_near_everybody_is_a_hub() -> None:
    random = np.random.default_rng(0)
    spread = np.eye(300, dtype=np.float32) + random.normal(0, 0.001, (300, 300)).astype(np.float32)
    hub = np.vstack([spread, np.full((1, 300), 300**-0.5, np.float32)])
    assert health.measure(hub, seed=1)["hubness"] > 3 * health.measure(spread, seed=1)["hubness"]


def test_weights_that_are_no_numbers_are_refused_by_name() -> None:
    well, ruined = tf.Variable([1.0, 2.0], name="well"), tf.Variable([[1.0, np.nan]], name="preferences")
    health.check_finite([well])
    with pytest.raises(Permanent, match=r"preferences:0; train with a lower learning_rate"):
        health.check_finite([well, ruined])
