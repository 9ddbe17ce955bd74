"""What an item is taken for that training did not know: a vector read off its content by ridge regression.

The regression is of the trained vectors of the known items on what their content says, in closed form after
training. What the item tower makes of content with the id left out is trained as well, but to stand beside ids: it
leaves nearly all items that nobody has had out of the lists.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from models import vocabulary

STRENGTH = 3.0  # of the ridge, in items of mean weight
POWER = 0.25  # an item weighs its share of the targets to this power; more finds more new items and fewer known ones
FEWEST = 2  # items that something must be said of; what is said of one alone tells nothing of others
PRICES = 32  # steps of the price, each a factor of about 1.6


class Newcomer(keras.layers.Layer):  # type: ignore[misc]
    """Content → a unit vector: the sum of what each category part, tag, brand, title word and price step adds.

    Args:
        sizes: rows of each vocabulary.
        dim: of the vectors.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int) -> None:
        super().__init__(name="newcomer")
        widths = (sizes["parts"], sizes["tags"], sizes["brands"], vocabulary.TITLE_BUCKETS, PRICES + 1)
        self._offsets = np.cumsum((0, *widths[:-1]))
        self._shape = (sum(widths), dim)

    def build(self, _: object) -> None:
        self.table = self.add_weight("table", self._shape, initializer="zeros", trainable=False)
        self.mean = self.add_weight("mean", self._shape[1:], initializer="zeros", trainable=False)
        self.built = True

    def facts(self, content: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """[n, f] rows of the table that the content of each item names; 0 for none."""
        step = tf.cast(tf.clip_by_value(tf.round(2.0 * tf.math.log1p(content["price"])), 1.0, PRICES), tf.int32)
        bags = [content["parts"], content["tags"], content["brand"][:, None], content["words"]]
        bags.append(tf.where(content["price"] > 0, step, 0)[:, None])
        numbered = (tf.where(bag > 0, bag + offset, 0) for bag, offset in zip(bags, self._offsets, strict=True))
        return tf.concat(list(numbered), axis=1)

    def call(self, content: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Content of n items as `vocabulary.Lookup.content` gives it → [n, dim]."""
        added = tf.reduce_sum(tf.gather(self.table, self.facts(content)), axis=1)
        return tf.math.l2_normalize(self.mean + added, axis=1, epsilon=1e-12)

    def fit(
        self, content: Mapping[str, NDArray[Any]], vectors: NDArray[np.float32], share: NDArray[np.float32]
    ) -> None:
        """Learn from items that training knew: their content, their vectors [n, dim], their share [n] of the targets.

        Takes one solution of a sparse system of [facts, facts] by conjugate gradients for each of `dim`.
        """
        from sklearn.linear_model import Ridge  # which serving does without

        facts = self.facts(content).numpy()
        item, place = np.nonzero(facts)
        ones, shape = np.ones(len(item), np.float32), (len(facts), self._shape[0])
        said = scipy.sparse.csr_matrix((ones, (item, facts[item, place])), shape)
        used = np.flatnonzero(said.getnnz(axis=0) >= FEWEST)
        weights = share**POWER
        table = np.zeros(self._shape, np.float32)
        mean = np.average(vectors, axis=0, weights=weights)
        if len(used):
            ridge = Ridge(STRENGTH * float(weights.mean()), solver="sparse_cg").fit(said[:, used], vectors, weights)
            table[used], mean = ridge.coef_.T, ridge.intercept_
        self.table.assign(table)
        self.mean.assign(mean)
