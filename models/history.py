"""Layers that turn a history of events into vectors: pooling that forgets at several speeds, and attention."""

import math
from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

LONGEST_AGE_DAYS = 1_500.0
AGE_BUCKETS = 24


def age_bucket(ages: tf.Tensor) -> tf.Tensor:
    """Logarithmic buckets of an age in days, int32 in [0, AGE_BUCKETS): minutes apart at first, months at last."""
    minutes = tf.math.log1p(tf.maximum(ages, 0.0) * 1440.0) / math.log1p(LONGEST_AGE_DAYS * 1440.0)
    return tf.cast(tf.clip_by_value(minutes * AGE_BUCKETS, 0, AGE_BUCKETS - 1), tf.int32)


class DecayPooling(keras.layers.Layer):  # type: ignore[misc]
    """Weighted means of a history, one per scale, whose weights halve every so many days and every so many events.

    Days say that a taste has aged, events that it has been followed by another: an evening of a hundred films is one
    moment by the clock, and yet its last film says the most about the next. Both rates of each scale are learnt, and
    so is the weight of each event type. On small data this sees more than attention does: it has a few parameters
    for what attention has to learn as a function of ages.

    Args:
        scales: where each scale starts: (half-life in days, half-life in events).

    Shapes: vectors [batch, length, dim], newest first; events and mask [batch, length], ages [batch, length] days
    → [batch, S, dim]; zeros where the mask is empty.
    """

    def __init__(self, scales: Sequence[tuple[float, float]], event_types: int) -> None:
        super().__init__(name="decay_pooling")
        self._initial = scales
        self._event_types = event_types

    def build(self, _: object) -> None:
        initial = keras.initializers.Constant([[math.log(half_life) for half_life in pair] for pair in self._initial])
        self.log_half_life = self.add_weight("log_half_life", (len(self._initial), 2), initializer=initial)
        shape = (self._event_types, len(self._initial))
        self.event_logit = self.add_weight("event_logit", shape, initializer="zeros")

    def call(self, vectors: tf.Tensor, events: tf.Tensor, ages: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        rate = math.log(2.0) * tf.exp(-self.log_half_life)
        present = tf.cast(mask, tf.float32)
        followed = tf.cumsum(present, axis=1, exclusive=True)
        logits = tf.gather(self.event_logit, events) - ages[..., None] * rate[:, 0] - followed[..., None] * rate[:, 1]
        logits -= tf.reduce_max(logits - 1e9 * (1.0 - present[..., None]), axis=1, keepdims=True)
        weights = tf.exp(tf.minimum(logits, 0.0)) * present[..., None]
        weights /= tf.reduce_sum(weights, axis=1, keepdims=True) + 1e-9
        return tf.matmul(weights, vectors, transpose_a=True)


class Transformer(keras.layers.Layer):  # type: ignore[misc]
    """Pre-norm Transformer encoder over the newest events; returns the state of the newest one and a learnt mean.

    Shapes: vectors [batch, length, width], mask [batch, length] → [batch, 2 * width]; zeros where the mask is empty.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__(name="transformer")
        self._blocks = [
            (
                keras.layers.LayerNormalization(epsilon=1e-6),
                keras.layers.MultiHeadAttention(heads, width // heads, dropout=dropout),
                keras.layers.LayerNormalization(epsilon=1e-6),
                keras.layers.Dense(2 * width, activation="gelu"),
                keras.layers.Dense(width),
            )
            for _ in range(layers)
        ]
        self._final = keras.layers.LayerNormalization(epsilon=1e-6)
        self._weigh = keras.layers.Dense(1)
        self._dropout = keras.layers.Dropout(dropout)

    def call(self, vectors: tf.Tensor, mask: tf.Tensor, training: bool = False) -> tf.Tensor:
        present = tf.cast(mask, tf.float32)[..., None]
        x = vectors
        for norm_in, attention, norm_out, widen, narrow in self._blocks:
            normed = norm_in(x)
            mixed = attention(normed, normed, attention_mask=mask[:, None, :], training=training)
            x += self._dropout(mixed, training=training)
            x += self._dropout(narrow(widen(norm_out(x))), training=training)
        x = self._final(x) * present
        weights = tf.exp(self._weigh(x)) * present
        mean = tf.reduce_sum(weights * x, axis=1) / (tf.reduce_sum(weights, axis=1) + 1e-9)
        return tf.concat([x[:, 0], mean], axis=1)
