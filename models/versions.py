"""The user tower asked what would be otherwise: a visitor as they are, and without each of some items, in one pass."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from feature_repo import transforms
from models import graphs, two_tower

VISITOR = {
    "history_items": tf.TensorSpec([1, None], tf.string),
    "history_events": tf.TensorSpec([1, None], tf.string),
    "history_ages": tf.TensorSpec([1, None], tf.float32),
    "region": tf.TensorSpec([1], tf.string),
    "age_group": tf.TensorSpec([1], tf.string),
    "preferences": tf.TensorSpec([1, transforms.PREFERENCES], tf.string),
    "hour": tf.TensorSpec([1], tf.float32),
    "weekday": tf.TensorSpec([1], tf.int32),
}


class Versions:
    """Embeds a visitor with and without items; thread-safe.

    All versions share one history, which is handed to TensorFlow once; which events each of them has is worked out in
    the graph. Nine histories are 1,800 strings: to prepare and convert them costs half of what embedding them does.

    Args:
        towers: of an artifact.
        length: newest events that its user tower takes, `history_length` in the manifest.
    """

    def __init__(self, towers: two_tower.Towers, length: int) -> None:
        self._towers, self._length = towers, length
        left_out = tf.TensorSpec([None], tf.string)
        specs = [left_out, *VISITOR.values()]
        self._graph = graphs.Graph(tf.function(self._versions, specs).get_concrete_function())

    def embed(self, visitor: Mapping[str, NDArray[Any]], left_out: Sequence[str]) -> NDArray[np.float32]:
        """The visitor, and the same visitor at the same moment had they never met each of m items.

        Args:
            visitor: one row from `transforms.user_tower_inputs`, with the whole history, for a version that lacks an
                event has room for an older one. Padding is made here, so it may have none.
            left_out: the m items.

        Returns:
            [1 + m, dim], unit norm.
        """
        inputs = (tf.constant(visitor[name], spec.dtype) for name, spec in VISITOR.items())
        [vectors] = self._graph(tf.constant(np.array(left_out, object), tf.string), *inputs)
        found: NDArray[np.float32] = vectors.numpy()
        return found

    def _versions(self, left_out: tf.Tensor, *visitor: tf.Tensor) -> tf.Tensor:
        inputs = dict(zip(VISITOR, visitor, strict=True))
        items = inputs["history_items"]
        kept = (items != "") & tf.concat([tf.ones_like(items, tf.bool), items != left_out[:, None]], 0)
        newest = tf.argsort(tf.cast(~kept, tf.int32), stable=True)[:, : self._length]
        padding = tf.size(items)
        places = tf.where(tf.gather(kept, newest, batch_dims=1), newest, padding)
        missing = self._length - tf.shape(places)[1]
        places = tf.pad(places, [[0, 0], [0, missing]], constant_values=padding)

        def of_versions(name: str, value: tf.Tensor) -> tf.Tensor:
            if name.startswith("history_"):
                return tf.gather(tf.concat([value[0], tf.zeros([1], value.dtype)], 0), places)
            return tf.repeat(value, tf.shape(places)[0], axis=0)

        versions = {name: of_versions(name, value) for name, value in inputs.items()}
        return self._towers.user_model.signatures[two_tower.SIGNATURE](**versions)["embedding"]
