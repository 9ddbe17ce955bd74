"""The layers of the two towers and their sizes.

Both towers stand on one table of item representations: an id embedding (started from the co-occurrence of
training, dropped at random so that items without one work) plus a projection of the content. The item tower adds
what the item's statistics say; the user tower pools and attends over the representations of the history.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from models import history, vocabulary
from models.vocabulary import FIRST

LONG = 1_000.0  # days, or events: a half-life that does not count
SHORT = 16.0  # events that a history has which is not short
Tensors = Mapping[str, tf.Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes and rates of the towers.

    Attributes:
        dim: of the embeddings, and of the item representations under them.
        history_length: newest events that the pooling sees.
        attended: newest events that the Transformer sees; attention costs the square of it.
        scales: of the pooling, where they start: half-lives in days and in events.
        id_dropout: share of items per step that must do without their id embedding.
        history_dropout: share of history events hidden per step; a fourteenth of the visitors lose all of it.
        short_histories: share of visitors per step who keep their newest 1 to 15 events instead.
        linear: weight of the linear autoencoder beside the query.
        linear_half_life: later events after which an event counts half in it.
    """

    dim: int = 128
    history_length: int = 100
    attended: int = 16
    width: int = 64
    layers: int = 1
    heads: int = 2
    scales: tuple[tuple[float, float], ...] = (
        (0.05, LONG),
        (1.0, LONG),
        (7.0, LONG),
        (30.0, LONG),
        (180.0, LONG),
        (LONG, 1.0),
        (LONG, 4.0),
        (LONG, 16.0),
    )
    dropout: float = 0.1
    id_dropout: float = 0.1
    history_dropout: float = 0.2
    short_histories: float = 0.0
    linear: float = 0.2
    linear_half_life: float = 32.0
    initial_scale: float = 12.0


def dense(units: int, **options: Any) -> Any:
    return keras.layers.Dense(units, **options)


def table(rows: int, dim: int) -> Any:
    return keras.layers.Embedding(rows, dim, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.05))


class Bag(keras.layers.Layer):  # type: ignore[misc]
    """The mean of the embeddings of a bag: [batch, n] indices → [batch, dim], zeros where all are padding.

    Looks up what is there and no padding, and its gradient is one dense array: with a title's 16 places, of which
    five are filled, a sixth of the time of a lookup of all places and a mask.
    """

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__(name="bag")
        self._shape = (rows, dim)

    def build(self, _: object) -> None:
        start = keras.initializers.RandomNormal(stddev=0.05)
        self.embeddings = self.add_weight("embeddings", self._shape, initializer=start)

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        row, column = tf.unstack(tf.cast(tf.where(ids > 0), tf.int32), axis=1)
        present = tf.gather_nd(ids, tf.stack([row, column], axis=1))
        # A further bag, of padding: where no bag holds anything, TensorFlow's gradient is whatever was in memory, and
        # the table of a shop where nobody states a preference became NaN.
        n = tf.shape(ids)[0]
        present, row = tf.concat([present, [0]], 0), tf.concat([row, [n]], 0)
        found: tf.Tensor = tf.sparse.segment_mean(self.embeddings, present, row, num_segments=n + 1)[:n]
        return found


def unit(vectors: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(vectors, axis=-1, epsilon=1e-12)


class ItemTower(keras.layers.Layer):  # type: ignore[misc]
    """Content, statistics and, where there is one, an id embedding → a unit vector."""

    def __init__(self, shape: Shape, sizes: Mapping[str, int], stats: int) -> None:
        super().__init__(name="item_tower")
        self._shape = shape
        small = 32
        self._part, self._tag = Bag(sizes["parts"], small), Bag(sizes["tags"], small)
        self._brand, self._word = table(sizes["brands"], small), Bag(vocabulary.TITLE_BUCKETS, 64)
        self._hidden = dense(shape.dim, activation="gelu")
        self._content = dense(shape.dim)
        self._trend = [dense(64, activation="gelu"), dense(shape.dim, kernel_initializer="zeros")]
        self._ids = sizes["items"]
        self._stats = stats

    def build(self, _: object) -> None:
        self.id_embedding = self.add_weight("id_embedding", (self._ids, self._shape.dim), initializer="zeros")
        self.stats_mean = self.add_weight("stats_mean", (self._stats,), initializer="zeros", trainable=False)
        self.stats_scale = self.add_weight("stats_scale", (self._stats,), initializer="ones", trainable=False)
        self.price_mean = self.add_weight("price_mean", (), initializer="zeros", trainable=False)
        self.price_scale = self.add_weight("price_scale", (), initializer="ones", trainable=False)
        self.built = True

    def base(self, ids: tf.Tensor, content: Tensors, training: bool = False) -> tf.Tensor:
        """What an item is, whatever happens to it: [n] ids and their content → [n, dim]."""
        price = (tf.math.log1p(content["price"]) - self.price_mean) * self.price_scale
        known = tf.cast(content["price"] > 0, tf.float32)
        parts = [
            self._part(content["parts"]),
            self._tag(content["tags"]),
            self._brand(content["brand"]),
            self._word(content["words"]),
            tf.stack([price * known, tf.square(price) * known, known], axis=1),
        ]
        own = tf.cast(ids >= FIRST, tf.float32)[:, None]
        if training:
            own *= tf.cast(tf.random.uniform(tf.shape(own)) >= self._shape.id_dropout, tf.float32)
        return own * tf.gather(self.id_embedding, ids) + self._content(self._hidden(tf.concat(parts, axis=1)))

    def call(self, base: tf.Tensor, stats: tf.Tensor, age_days: tf.Tensor) -> tf.Tensor:
        """[n, dim] representations, [n, S] raw statistics, [n] ages → [n, dim] unit vectors."""
        normal = tf.clip_by_value((squash(stats) - self.stats_mean) * self.stats_scale, -4.0, 4.0)
        age = tf.one_hot(history.age_bucket(age_days), history.AGE_BUCKETS)
        trend = tf.concat([normal, age], axis=1)
        for layer in self._trend:
            trend = layer(trend)
        return unit(base + trend)


def squash(stats: tf.Tensor) -> tf.Tensor:
    """Counts spread over magnitudes; their logarithm does not."""
    return tf.math.log1p(tf.maximum(stats, 0.0))


class UserTower(keras.layers.Layer):  # type: ignore[misc]
    """History, profile and context → a unit vector; everything may be missing."""

    def __init__(self, shape: Shape, sizes: Mapping[str, int]) -> None:
        super().__init__(name="user_tower")
        self._shape = shape
        self._pool = history.DecayPooling(shape.scales, sizes["events"])
        self._attend = history.Transformer(shape.width, shape.layers, shape.heads, shape.dropout)
        self._narrow = dense(shape.width)
        self._event, self._age = table(sizes["events"], shape.width), table(history.AGE_BUCKETS, shape.width)
        self._sequence = dense(shape.dim, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01))
        self._region, self._age_group = table(sizes["regions"], 16), table(sizes["age_groups"], 16)
        self._preference = Bag(sizes["parts"], 32)
        self._profile = [dense(64, activation="gelu"), dense(shape.dim)]
        self._gate = dense(len(shape.scales), kernel_initializer="zeros")
        self._mix = [dense(2 * shape.dim, activation="gelu"), dense(shape.dim, kernel_initializer="zeros")]
        self._dropout = keras.layers.Dropout(shape.dropout)

    def build(self, _: object) -> None:
        scales, dim = len(self._shape.scales), self._shape.dim
        initial = np.concatenate([np.eye(dim)] * scales) / scales
        self.project = self.add_weight("project", initial.shape, initializer=keras.initializers.Constant(initial))

    def call(self, request: Tensors, base: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Requests as `vocabulary.Lookup.request` gives them, and [batch, length, dim] representations of their
        history → [batch, dim] unit vectors."""
        mask = request["items"] >= FIRST  # an item nobody knows says nothing
        if training:
            mask = self._hide(mask)
        ages = request["ages"]
        pooled = self._pool(base, request["events"], ages, mask)
        n = self._shape.attended
        tokens = self._narrow(base[:, :n]) + self._event(request["events"][:, :n])
        tokens += self._age(history.age_bucket(ages[:, :n]))
        sequence = self._attend(self._dropout(tokens, training=training), mask[:, :n], training=training)
        facts = self._facts(request, mask, training)
        gate = 2.0 * tf.sigmoid(self._gate(facts))
        scales = tf.reshape(gate[:, :, None] * pooled, [-1, self.project.shape[0]])
        query = tf.matmul(scales, self.project) + self._sequence(sequence)
        for layer in self._profile:
            facts = layer(facts)
        query = self._dropout(query, training=training) + facts
        wide, narrow = self._mix
        return unit(query + narrow(wide(unit(query))))

    def by_length(
        self, request: Tensors, representations: Callable[[tf.Tensor], tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """The same for a batch of all lengths, in less time: most histories are short, and padding costs as much as
        events do. The shorter half, the next three eighths and the longest rows are cut to their longest each.

        Args:
            representations: of items, [n, length] indices → [n, length, dim].
        """
        length = tf.math.count_nonzero(request["items"], 1, dtype=tf.int32)
        order, n = tf.argsort(length), tf.size(length)
        queries = []
        for start, end in pairwise((0, n // 2, n * 7 // 8, n)):
            rows = order[start:end]
            longest = tf.maximum(tf.reduce_max(tf.gather(length, rows)), 1)
            part = {name: tf.gather(values, rows) for name, values in request.items()}
            part |= {name: part[name][:, :longest] for name in ("items", "events", "ages")}
            queries.append(self(part, representations(part["items"]), training=training))
        return tf.gather(tf.concat(queries, 0), tf.math.invert_permutation(order))

    def _hide(self, mask: tf.Tensor) -> tf.Tensor:
        """History dropout; some visitors become new ones, and some keep a few events alone, so that the towers know
        what to do with those."""
        visitors = [tf.shape(mask)[0], 1]
        kept = tf.random.uniform(tf.shape(mask)) >= self._shape.history_dropout
        known = tf.random.uniform(visitors) >= self._shape.history_dropout / 14.0
        short = tf.random.uniform(visitors) < self._shape.short_histories
        length = tf.floor(tf.exp(tf.random.uniform(visitors) * math.log(SHORT)))
        newest = tf.range(tf.shape(mask)[1], dtype=tf.float32)[None] < length
        return mask & tf.where(short, newest, kept & known)

    def _facts(self, request: Tensors, mask: tf.Tensor, training: bool) -> tf.Tensor:
        """Who asks and when, and how much of a history there is: [batch, f]."""
        size = tf.reduce_sum(tf.cast(mask, tf.float32), axis=1, keepdims=True)
        newest = tf.reduce_min(tf.where(mask, request["ages"], history.LONGEST_AGE_DAYS), axis=1)
        turn = request["hour"][:, None] * (2.0 * math.pi / 24.0)
        who = [self._region(request["region"]), self._age_group(request["age_group"])]
        who.append(self._preference(request["preferences"]))
        when = [tf.sin(turn), tf.cos(turn), tf.one_hot(request["weekday"], 7)]
        amount = [tf.math.log1p(size) / 4.0, tf.one_hot(history.age_bucket(newest), history.AGE_BUCKETS)]
        return tf.concat([self._dropout(tf.concat(who + when, axis=1), training=training), *amount], axis=1)
