"""What a linear autoencoder adds to a query.

EASE (Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019) scores items by weights [items, items]
between what a visitor had and what they may want, in closed form. The towers and it err on different items, and the sum
of both is ahead of either (docs/decisions/0007). A vector search cannot serve such weights, but their projection on the
item vectors: one row per item, which a visitor's history adds up, to be multiplied with the same vectors as the query.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from models.vocabulary import FIRST

RIDGE = 1e-2  # of the projection, in vectors of mean weight
SMALLEST = 1e-9


class Autoencoder(keras.layers.Layer):  # type: ignore[misc]
    """Queries [batch, dim] and the items of their histories [batch, length], newest first → [batch, dim] unit vectors.

    What it adds is as much as it spreads the scores of all items: `weight` times as much as the query does, whatever
    the length of the history. To an empty history it adds nothing, and before it has learnt.

    Args:
        rows: of the item vocabulary.
        dim: of the vectors.
        weight: beside the query.
        half_life: later events after which an event of the history counts half.
    """

    def __init__(self, rows: int, dim: int, weight: float, half_life: float) -> None:
        super().__init__(name="autoencoder")
        self._shape, self._weight, self._half_life = (rows, dim), weight, half_life

    def build(self, _: object) -> None:
        self.table = self.add_weight("table", self._shape, initializer="zeros", trainable=False)
        square = (self._shape[1], self._shape[1])
        self.spread = self.add_weight("spread", square, initializer="identity", trainable=False)
        self.built = True

    def call(self, query: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        known = tf.cast(items >= FIRST, tf.float32)
        followed = tf.cumsum(known, axis=1, exclusive=True)
        counts = known * tf.pow(2.0, -followed / self._half_life)
        added = tf.einsum("bl,bld->bd", counts, tf.gather(self.table, items))
        return tf.math.l2_normalize(self._even(query) + self._weight * self._even(added), axis=1, epsilon=1e-12)

    def _even(self, query: tf.Tensor) -> tf.Tensor:
        """[batch, dim] at the length at which the scores of all items have a standard deviation of 1."""
        deviation = tf.norm(tf.matmul(query, self.spread), axis=1, keepdims=True)
        return query / tf.maximum(deviation, SMALLEST)

    def fit(self, weights: NDArray[Any], vectors: NDArray[np.float32], share: NDArray[np.float32]) -> None:
        """Project weights on the item vectors; what popular items get counts as much as they are taken.

        Args:
            weights: [n, n] of the first n items of the vocabulary, see `pipelines.baselines.ease_of`.
            vectors: [m, dim] of all items of the vocabulary.
            share: [m] of each item among the targets.
        """
        n, one = len(weights), np.eye(vectors.shape[1])
        exact = vectors.astype(np.float64)  # of fewer items than dimensions the covariance has no inverse, but a root
        centred = exact - exact.mean(axis=0)
        self.spread.assign(np.linalg.cholesky(centred.T @ centred / len(exact) + SMALLEST * one))
        table = np.zeros(self._shape, np.float32)
        weighed = exact[:n] * (share[:n] / max(float(share[:n].mean()), SMALLEST))[:, None]
        inner = weighed.T @ exact[:n] + RIDGE * n / len(one) * one
        table[FIRST : FIRST + n] = weights @ np.linalg.solve(inner, weighed.T).T.astype(np.float32)
        self.table.assign(table)
