"""The linear autoencoder beside the user tower, on catalogues so small that the answer is plain."""

import numpy as np
import pytest

from recsys import settings

settings.load()  # before TensorFlow is imported

import tensorflow as tf  # noqa: E402

from models import autoencoder  # noqa: E402
from models.vocabulary import FIRST  # noqa: E402

MUG, LAMP, CUP = FIRST, FIRST + 1, FIRST + 2
VECTORS = np.eye(3, dtype=np.float32)
ALIKE = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], np.float32)  # mugs and cups go together, lamps with nothing
EVEN = np.full(3, 1 / 3, np.float32)


def fitted(
    weights: np.ndarray = ALIKE, vectors: np.ndarray = VECTORS, weight: float = 1.0, half_life: float = 1.0
) -> autoencoder.Autoencoder:
    layer = autoencoder.Autoencoder(len(vectors) + FIRST, vectors.shape[1], weight, half_life)
    layer.build(None)
    layer.fit(weights, vectors, np.full(len(vectors), 1 / len(vectors), np.float32))
    return layer


def queried(layer: autoencoder.Autoencoder, query: list[float], history: list[int]) -> np.ndarray:
    return layer(tf.constant([query], tf.float32), tf.constant([history])).numpy()[0]


def test_a_history_adds_what_goes_with_its_items() -> None:
    layer = fitted()
    assert layer.table.numpy()[MUG] == pytest.approx([0, 0, 1], abs=0.02), "a mug leads to cups"
    towards_lamps = [0.0, 1.0, 0.0]
    assert queried(layer, towards_lamps, [MUG, 0, 0]) == pytest.approx([0, 0.5**0.5, 0.5**0.5], abs=0.02)


def test_without_a_known_history_the_query_stays() -> None:
    query, unknown = [0.6, 0.0, 0.8], 1
    for layer in (fitted(), autoencoder.Autoencoder(5, 3, 1.0, 1.0)):
        for history in ([0, 0], [unknown, 0]):
            assert queried(layer, query, history) == pytest.approx(query, abs=1e-6)


def test_later_events_count_more_and_unknown_ones_push_nothing_back() -> None:
    layer = fitted(half_life=1.0)
    added = queried(layer, [0.0, 1.0, 0.0], [MUG, 1, CUP])
    assert added[2] == pytest.approx(2 * added[0], rel=1e-3), "the mug is the newest, the cup came one event before"


def test_what_is_added_does_not_grow_with_the_history() -> None:
    layer = fitted(half_life=1e9)
    one, many = (queried(layer, [0.0, 1.0, 0.0], [MUG] * n) for n in (1, 40))
    assert one == pytest.approx(many, abs=1e-5)


def test_the_table_is_the_weighted_projection_of_the_weights() -> None:
    random = np.random.default_rng(3)
    vectors = random.normal(size=(40, 4)).astype(np.float32)
    weights, share = random.normal(size=(40, 40)).astype(np.float32), random.random(40).astype(np.float32)
    layer = autoencoder.Autoencoder(40 + FIRST, 4, 0.2, 8.0)
    layer.build(None)
    layer.fit(weights, vectors, share)
    weighed = share / share.mean()
    penalty = np.sqrt(autoencoder.RIDGE * 40 / 4) * np.eye(4)
    rows = np.vstack([np.sqrt(weighed)[:, None] * vectors, penalty])
    expected = [np.linalg.lstsq(rows, np.append(np.sqrt(weighed) * w, np.zeros(4)), rcond=None)[0] for w in weights]
    np.testing.assert_allclose(layer.table.numpy()[FIRST:], expected, atol=1e-4)


def test_a_shop_of_fewer_items_than_dimensions_or_of_equal_items_is_fitted() -> None:
    random = np.random.default_rng(5)
    few = random.normal(size=(3, 128)).astype(np.float32)
    for vectors in (few / np.linalg.norm(few, axis=1, keepdims=True), np.repeat(few[:1], 3, axis=0)):
        found = queried(fitted(vectors=vectors), vectors[1].tolist(), [MUG])
        assert np.isfinite(found).all()
        assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-5)


def test_weights_of_the_most_popular_items_alone_leave_the_others_without() -> None:
    layer = fitted(weights=ALIKE[:2, :2])
    assert not layer.table.numpy()[CUP].any()
    assert queried(layer, [0.0, 1.0, 0.0], [CUP]) == pytest.approx([0, 1, 0], abs=1e-6)
