"""Two-tower retrieval: training, and the towers as they are served.

Trained by softmax over the whole catalogue, or over a sample whose bias towards popular items is corrected
(Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019). Served
as two SavedModels that take strings: vocabularies and normalisation are inside the graph.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras
from numpy.typing import NDArray

from feature_repo import names, transforms
from models import autoencoder, health, newcomer, towers, vocabulary, workers
from models.towers import Tensors
from models.vocabulary import FIRST

USER_TOWER = "user_tower"
ITEM_TOWER = "item_tower"
SIGNATURE = "serving_default"
ITEMS_AT_ONCE = 4096  # rows of the item tower per call, so that a large catalogue needs little memory


@dataclass(frozen=True)
class Corpus:
    """The catalogue as training sees it; row r is index r of the item vocabulary, rows 0 and 1 are empty.

    Attributes:
        content: by name, [rows, …]: what `vocabulary.Lookup.content` returns.
        stats: [moments, rows, S] float32, the statistics known at each of a few moments of the past.
        ages: [moments, rows] float32 days; negative where an item does not exist yet.
        share: [rows] float32, share of each item among the targets; sums to 1.
        identity: [rows, dim] float32, where the id embeddings start.
    """

    content: Mapping[str, NDArray[Any]]
    stats: NDArray[np.float32]
    ages: NDArray[np.float32]
    share: NDArray[np.float32]
    identity: NDArray[np.float32]


class TwoTower(tfrs.Model):  # type: ignore[misc]
    """Both towers and their loss.

    A batch has `request` (as the user tower reads it), `targets` [batch, m] item indices (0 = none), `weights`
    [batch, m], `importance` [batch], and `moment` [batch], the same in the whole batch: the column of
    `Corpus.stats` that was known then, so that no target is predicted from statistics that count it. One of several
    workers has some rows of it, and its loss is their part of the loss of all.

    Args:
        negatives: uniform negatives per step besides the batch's own targets; 0 = the whole catalogue.
    """

    def __init__(self, shape: towers.Shape, sizes: Mapping[str, int], corpus: Corpus, negatives: int) -> None:
        super().__init__()
        self.user, self.item = towers.UserTower(shape, sizes), towers.ItemTower(shape, sizes, corpus.stats.shape[-1])
        self.newcomer = newcomer.Newcomer(sizes, shape.dim)
        self.autoencoder = autoencoder.Autoencoder(sizes["items"], shape.dim, shape.linear, shape.linear_half_life)
        self.log_scale = self.add_weight(
            "log_scale", (), initializer=keras.initializers.Constant(math.log(shape.initial_scale))
        )
        self._rows, self._negatives = len(corpus.share), negatives
        self._content = {name: tf.constant(values) for name, values in corpus.content.items()}
        self._stats, self._ages = tf.constant(corpus.stats), tf.constant(corpus.ages)
        self._share = tf.constant(corpus.share)
        self.distribute_reduction_method = "first"  # metrics are those of all workers; Keras would add them up again
        self.recall = keras.metrics.Mean(name="recall_100")
        self.entropy = keras.metrics.Mean(name="cross_entropy")  # Keras' own `loss` is that of the last batch alone
        self._start(corpus, shape.dim)

    def _start(self, corpus: Corpus, dim: int) -> None:
        self.item.build(None)
        self.newcomer.build(None)
        self.autoencoder.build(None)
        self.item.id_embedding.assign(corpus.identity)
        seen = np.log1p(np.maximum(corpus.stats[:, FIRST:], 0.0)).reshape(-1, corpus.stats.shape[-1])
        self.item.stats_mean.assign(seen.mean(0))
        self.item.stats_scale.assign(1.0 / np.maximum(seen.std(0), 0.05))
        prices = np.log1p(corpus.content["price"][corpus.content["price"] > 0])
        if len(prices):
            self.item.price_mean.assign(prices.mean())
            self.item.price_scale.assign(1.0 / max(float(prices.std()), 0.05))

    def compute_loss(self, batch: Tensors, training: bool = False) -> tf.Tensor:
        targets, moment = batch["targets"], batch["moment"][0]
        history_items = batch["request"]["items"]
        known = self._known(targets)
        rows, candidates = self._choose(history_items, known)
        place = tf.scatter_nd(rows[:, None], tf.range(tf.size(rows)), [self._rows]) if self._negatives else None

        def local(ids: tf.Tensor) -> tf.Tensor:
            return ids if place is None else tf.gather(place, ids)

        content = {name: tf.gather(values, rows) for name, values in self._content.items()}
        base = self.item.base(rows, content, training=training)
        age = tf.gather(self._ages[moment], rows)
        items = self.item(base, tf.gather(self._stats[moment], rows), age)
        query = self.user.by_length(batch["request"], lambda ids: tf.gather(base, local(ids)), training)
        logits = tf.exp(self.log_scale) * tf.matmul(query, tf.gather(items, local(candidates)), transpose_b=True)
        logits += self._correction(candidates, known)
        if not training:
            self._measure(logits, candidates, targets)
        absent = tf.gather(age, local(candidates)) < 0  # not in the catalogue yet: no evidence against new items
        columns = self._columns(candidates, targets)
        total = workers.total(tf.reduce_sum(batch["importance"]))
        loss = softmax_loss(logits, columns, absent, batch["weights"], batch["importance"] / (total + 1e-9))
        self.entropy.update_state(loss * workers.count(), total)  # a mean over workers of parts of a sum
        return loss

    def representations(self) -> tf.Tensor:
        """[rows, dim] what the user tower reads about every item of a history."""
        parts = []
        for start in range(0, self._rows, ITEMS_AT_ONCE):
            rows = tf.range(start, min(start + ITEMS_AT_ONCE, self._rows))
            parts.append(self.item.base(rows, {name: tf.gather(v, rows) for name, v in self._content.items()}))
        return tf.concat(parts, 0)

    def catalogue(self) -> tf.Tensor:
        """[rows, dim] unit vectors of all items with the newest statistics that training looked at."""
        return self.item(self.representations(), self._stats[-1], tf.maximum(self._ages[-1], 0.0))

    def learn_newcomers(self) -> None:
        """Fit what stands in for the item tower where an id is unknown; after training, whose vectors it regresses."""
        content = {name: values[FIRST:] for name, values in self._content.items()}
        self.newcomer.fit(content, self.catalogue()[FIRST:].numpy(), self._share[FIRST:].numpy())

    def learn_linear(self, weights: NDArray[np.float32]) -> None:
        """Fit what stands beside the user tower; after training, on whose vectors it projects.

        Args:
            weights: [n, n] of the first n items, see `autoencoder.Autoencoder.fit`.
        """
        self.autoencoder.fit(weights, self.catalogue()[FIRST:].numpy(), self._share[FIRST:].numpy())

    def _known(self, targets: tf.Tensor) -> tf.Tensor:
        """[t] the targets of the whole batch, where a sample has to hold them."""
        own = tf.boolean_mask(targets, targets >= FIRST)
        return workers.gathered(own) if self._negatives else own

    def _choose(self, seen: tf.Tensor, known: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows to embed, and those among them that compete in the softmax."""
        if not self._negatives:
            return tf.range(self._rows), tf.range(FIRST, self._rows)
        drawn = tf.random.uniform([self._negatives], FIRST, self._rows, tf.int32)
        competing = tf.unique(tf.concat([known, drawn], 0)).y
        return tf.unique(tf.concat([[0], competing, tf.reshape(seen, [-1])], 0)).y, competing

    def _columns(self, candidates: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Column of each target among the candidates; -1 for none."""
        if not self._negatives:
            return targets - FIRST
        column = tf.tensor_scatter_nd_update(
            tf.fill([self._rows], -1), candidates[:, None], tf.range(tf.size(candidates))
        )
        return tf.gather(column, targets)

    def _correction(self, candidates: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
        """Minus log Q: the chance that a candidate is in the sample at all, by its popularity or by the draw."""
        if not self._negatives:
            return tf.zeros([1, 1])
        drawn = tf.cast(tf.size(known), tf.float32) * tf.gather(self._share, candidates)
        return -tf.math.log(1.0 - tf.exp(-drawn - self._negatives / self._rows))[None, :]

    def _measure(self, logits: tf.Tensor, candidates: tf.Tensor, targets: tf.Tensor) -> None:
        top = tf.gather(candidates, tf.math.top_k(logits, tf.minimum(100, tf.shape(logits)[1])).indices)
        real = targets >= FIRST
        found = tf.reduce_any(targets[:, :, None] == top[:, None, :], axis=2) & real
        share = tf.math.divide_no_nan(*(tf.math.count_nonzero(those, 1, dtype=tf.float32) for those in (found, real)))
        self.recall.update_state(share, tf.reduce_any(real, axis=1))


def softmax_loss(
    logits: tf.Tensor, columns: tf.Tensor, absent: tf.Tensor, weights: tf.Tensor, importance: tf.Tensor
) -> tf.Tensor:
    """Cross entropy of several weighted targets per row; an accidental hit, a candidate that is another target of
    the same row, does not count as a negative, nor does a candidate that was absent.

    Shapes: logits [b, c], columns [b, m] (-1 = none), absent [c], weights [b, m], importance [b] (what each row
    counts, 1 in all) → scalar.

    The gradient is written out: it needs the exponentials of the forward pass and nothing else of that size, while
    the recorded one would keep and walk through seven arrays of [b, c], most of the time of a step.
    """
    real = columns >= 0
    weights = tf.where(real, weights, 0.0)
    share = weights / (tf.reduce_sum(weights, axis=1, keepdims=True) + 1e-9)
    share *= importance[:, None]
    row, _ = tf.unstack(tf.where(real), axis=1)
    own_places = tf.stack([tf.cast(row, tf.int32), tf.boolean_mask(columns, real)], axis=1)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def loss(z: tf.Tensor) -> tuple[tf.Tensor, Any]:
        own = tf.gather(z, tf.maximum(columns, 0), batch_dims=1)
        top = tf.reduce_max(z, axis=1, keepdims=True)
        power = tf.exp(z - top) * tf.cast(~absent, tf.float32)
        power = tf.tensor_scatter_nd_update(power, own_places, tf.zeros_like(row, tf.float32))
        total = tf.reduce_sum(power, axis=1, keepdims=True) + 1e-30
        margin = top + tf.math.log(total) - own  # of all negatives together over each target

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            lost = upstream * share * tf.sigmoid(margin)
            found = power * (tf.reduce_sum(lost, axis=1, keepdims=True) / total)
            return tf.tensor_scatter_nd_sub(found, own_places, tf.boolean_mask(lost, real))

        return tf.reduce_sum(share * tf.nn.softplus(margin)), gradient

    value: tf.Tensor = loss(logits)
    return value


class UserServing(tf.Module):  # type: ignore[misc]
    """The user tower behind strings; it carries the representations of all items that training knew."""

    def __init__(self, model: TwoTower, lookup: vocabulary.Lookup) -> None:
        super().__init__()
        self._lookup, self._tower, self._autoencoder = lookup, model.user, model.autoencoder
        self._base = tf.Variable(model.representations(), trainable=False)

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[
            tf.TensorSpec([None, None], tf.string, "history_items"),
            tf.TensorSpec([None, None], tf.string, "history_events"),
            tf.TensorSpec([None, None], tf.float32, "history_ages"),
            tf.TensorSpec([None], tf.string, "region"),
            tf.TensorSpec([None], tf.string, "age_group"),
            tf.TensorSpec([None, transforms.PREFERENCES], tf.string, "preferences"),
            tf.TensorSpec([None], tf.float32, "hour"),
            tf.TensorSpec([None], tf.int32, "weekday"),
        ]
    )
    def serve(
        self,
        history_items: tf.Tensor,
        history_events: tf.Tensor,
        history_ages: tf.Tensor,
        region: tf.Tensor,
        age_group: tf.Tensor,
        preferences: tf.Tensor,
        hour: tf.Tensor,
        weekday: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        inputs = {name: value for name, value in locals().items() if name != "self"}
        request = self._lookup.request(inputs)
        query = self._tower(request, tf.gather(self._base, request["items"]))
        return {"embedding": self._autoencoder(query, request["items"])}


class ItemServing(tf.Module):  # type: ignore[misc]
    """The item tower behind strings; an unknown id is embedded from its content alone."""

    def __init__(self, model: TwoTower, lookup: vocabulary.Lookup) -> None:
        super().__init__()
        self._lookup, self._tower, self._newcomer = lookup, model.item, model.newcomer

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[
            tf.TensorSpec([None], tf.string, "item_id"),
            tf.TensorSpec([None], tf.string, "title"),
            tf.TensorSpec([None], tf.string, "category"),
            tf.TensorSpec([None], tf.string, "brand"),
            tf.TensorSpec([None, transforms.TAGS], tf.string, "tags"),
            tf.TensorSpec([None], tf.float32, "price"),
            tf.TensorSpec([None], tf.float32, "age_days"),
            tf.TensorSpec([None, len(names.ITEM_STATS)], tf.float32, "stats"),
        ]
    )
    def serve(
        self,
        item_id: tf.Tensor,
        title: tf.Tensor,
        category: tf.Tensor,
        brand: tf.Tensor,
        tags: tf.Tensor,
        price: tf.Tensor,
        age_days: tf.Tensor,
        stats: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        ids = self._lookup("items", item_id)
        content = self._lookup.content(
            {"title": title, "category": category, "brand": brand, "tags": tags, "price": price}
        )
        known = self._tower(self._tower.base(ids, content), stats, age_days)
        return {"embedding": tf.where((ids >= FIRST)[:, None], known, self._newcomer(content))}


def save(model: TwoTower, words: vocabulary.Vocabulary, folder: Path) -> None:
    """Write both towers as SavedModels under an artifact's folder.

    Raises:
        Permanent: they have weights that are not finite.
    """
    health.check_finite(model.trainable_weights)  # metrics are weights too, and those of all workers
    lookup = vocabulary.Lookup(words)
    for name, module in ((USER_TOWER, UserServing(model, lookup)), (ITEM_TOWER, ItemServing(model, lookup))):
        tf.saved_model.save(module, str(folder / name), signatures={SIGNATURE: module.serve})


@dataclass(frozen=True)
class Towers:
    """The two towers of one artifact; thread-safe.

    Attributes:
        user_model, item_model: the SavedModels, which own the variables of their signatures.
    """

    user_model: Any
    item_model: Any

    @staticmethod
    def load(folder: Path) -> "Towers":
        """Open the towers under an artifact's folder (verify it with `artifact.load` first)."""
        return Towers(*(tf.saved_model.load(str(folder / name)) for name in (USER_TOWER, ITEM_TOWER)))

    def users(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Embed requests; `inputs` from `transforms.user_tower_inputs`. Returns [batch, dim], unit norm."""
        return _call(self.user_model, inputs)

    def items(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Embed items in batches; `inputs` from `transforms.item_tower_inputs`. Returns [n, dim], unit norm."""
        n = len(inputs["item_id"])
        starts = range(0, max(n, 1), ITEMS_AT_ONCE)
        parts = [_call(self.item_model, {k: v[s : s + ITEMS_AT_ONCE] for k, v in inputs.items()}) for s in starts]
        return np.concatenate(parts)


def _call(model: Any, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    tensors = {
        name: tf.constant(values, tf.string if values.dtype == object else None) for name, values in inputs.items()
    }
    embedding: NDArray[np.float32] = model.signatures[SIGNATURE](**tensors)["embedding"].numpy()
    return embedding
