"""The regression of vectors on content, on catalogues so small that the answer is plain."""

import numpy as np
import pytest

from recsys import settings

settings.load()  # before TensorFlow is imported

import tensorflow as tf  # noqa: E402

from models import newcomer, vocabulary  # noqa: E402

SIZES = {"parts": 5, "tags": 6, "brands": 4}
MUG, LAMP = 2, 3


def content(parts: list[int], prices: list[float], brands: list[int] | None = None) -> dict[str, tf.Tensor]:
    """Items of one category part each; tags and titles are empty."""
    n = len(parts)
    return {
        "parts": tf.constant([[part, 0, 0, 0] for part in parts]),
        "tags": tf.zeros([n, 8], tf.int32),
        "brand": tf.constant(brands or [0] * n),
        "words": tf.zeros([n, vocabulary.WORDS], tf.int32),
        "price": tf.constant(prices, tf.float32),
    }


def fitted(known: dict[str, tf.Tensor], vectors: list[list[float]], share: list[float]) -> newcomer.Newcomer:
    layer = newcomer.Newcomer(SIZES, len(vectors[0]))
    layer.build(None)
    layer.fit(known, np.array(vectors, np.float32), np.array(share, np.float32))
    return layer


def test_a_new_item_is_taken_for_what_shares_its_content() -> None:
    known = content([MUG] * 20 + [LAMP] * 20, [0.0] * 40)
    layer = fitted(known, [[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20, [1 / 40] * 40)
    mug, lamp, nothing = layer(content([MUG, LAMP, 0], [0.0] * 3)).numpy()
    assert mug[0] > 0.9 > 0.5 > mug[1]
    assert lamp[1] > 0.9 > 0.5 > lamp[0]
    assert nothing == pytest.approx([np.sqrt(0.5)] * 2, abs=1e-3), "the mean of all"


def test_the_ridge_is_that_of_the_definition() -> None:
    random = np.random.default_rng(3)
    parts, brands = random.integers(2, 5, 30), random.integers(2, 4, 30)
    vectors, share = random.normal(size=(30, 3)), random.random(30)
    layer = fitted(content(parts.tolist(), [0.0] * 30, brands.tolist()), vectors.tolist(), share.tolist())
    said = np.concatenate([parts[:, None] == [2, 3, 4], brands[:, None] == [2, 3]], axis=1).astype(float)
    weight = share**newcomer.POWER
    centred, aim = (v - np.average(v, axis=0, weights=weight) for v in (said, vectors))
    gram = centred.T @ (weight[:, None] * centred) + newcomer.STRENGTH * weight.mean() * np.eye(5)
    slope = np.linalg.solve(gram, centred.T @ (weight[:, None] * aim))
    rows = [2, 3, 4, *(SIZES["parts"] + SIZES["tags"] + brand for brand in (2, 3))]
    np.testing.assert_allclose(layer.table.numpy()[rows], slope, atol=1e-3)
    expected = np.average(vectors, axis=0, weights=weight) - np.average(said, axis=0, weights=weight) @ slope
    np.testing.assert_allclose(layer.mean.numpy(), expected, atol=1e-3)


def test_what_is_wanted_more_weighs_more() -> None:
    known = content([MUG, MUG], [0.0, 0.0])
    (vector,) = fitted(known, [[1.0, 0.0], [0.0, 1.0]], [81 / 82, 1 / 82])(content([MUG], [0.0])).numpy()
    assert vector[0] / vector[1] == pytest.approx(3.0, abs=1e-3), "fourth root of 81"


def test_what_is_said_of_one_item_says_nothing_of_others() -> None:
    layer = fitted(content([MUG, MUG, LAMP], [0.0] * 3), [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [1.0, 1.0, 1.0])
    lamp, nothing = layer(content([LAMP, 0], [0.0, 0.0])).numpy()
    assert lamp.tolist() == nothing.tolist()


def test_prices_are_alike_by_their_factor_and_none_is_no_price() -> None:
    layer = newcomer.Newcomer(SIZES, 2)
    steps = layer.facts(content([0] * 5, [0.0, 10.0, 11.0, 100.0, 1e12])).numpy()[:, -1]
    assert steps[0] == 0
    assert steps[1] == steps[2] < steps[3] < steps[4]
    assert steps[4] == layer._shape[0] - 1, "the last row of the table"


def test_a_catalogue_without_content_gives_the_mean() -> None:
    layer = fitted(content([0, 0], [0.0, 0.0]), [[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5])
    assert layer(content([0], [0.0])).numpy()[0] == pytest.approx([np.sqrt(0.5)] * 2)
