"""The multi-task ranker: how likely a visitor clicks an item, wants it, and buys it, and what that brings in.

Numbers pass through a DCN-v2 cross network (Wang et al., "DCN V2", WWW 2021) beside a deep tower that sees them
cut into quantile pieces (Gorishniy et al., "On embeddings for numerical features", NeurIPS 2022), which lets a
network draw the steps that make trees strong on tables. The heads are a chain, each conditional on the one before
and trained over all rows (ESMM, Ma et al., SIGIR 2018), so purchase ≤ cart ≤ click always holds.

Revenue is the chance of a purchase times what one is expected to bring in, in average purchases. The amount has a head
of its own, fitted to what was bought at a known price by the deviance of a Gamma distribution with a logarithmic link
(McCullagh and Nelder, "Generalized linear models", 1989, chapter 8): its mean is right whatever the shape of the
amounts, where that of a lognormal (ZILN, Wang et al., "A deep probabilistic model for customer lifetime value
prediction", 2019) hangs on an estimate of their spread.

Before the first step the click logit is retrieval's score, brought to the odds of a click, and nothing else: the
network learns what retrieval does not know, which few requests are enough to begin with. In the same way an amount is
what such a price usually brings in, and the average purchase, for good, where no price is known.

What is served is the network with boosted trees beside it (`models.forest`): in the logit of each head of the chain, a
share of theirs, found with the calibration on requests that neither was fitted on. Trees are ahead where the rows are
few and the evidence is in single numbers, the network where lists were shown; a share serves both.

Position enters the click logit by a shallow tower of its own (Zhao et al., "Recommending what video to watch
next", RecSys 2019) in training only: the served graph has no such input. In its place labels can be weighted by the
inverse of how often a slot is looked at (Saito et al., "Unbiased recommender learning from missing-not-at-random
implicit feedback", WSDM 2020).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras
from numpy.typing import NDArray

from feature_repo import events
from models import calibration, forest, graphs, health
from models.places import POSITIONS, SMALLEST, Debias, Slots

CHAIN = ("click", "cart", "purchase")
HEADS = (*CHAIN, "revenue")
# A purchase counts most and a click least, so that the ranker cannot win by clickbait; revenue counts where a shop
# asks for it. Data of the manifest, not of the graph: an operator changes them without training.
BLEND: Mapping[str, float] = {"click": 1.0, "cart": 3.0, "purchase": 4.0, "revenue": 0.0}
STRINGS = ("category", "brand", "region", "surface")
PASS_ROWS = 4096  # rows of one pass, which bound the memory of a whole evaluation
LARGEST_LOG = 7.0  # of an expected amount, either way: a factor of 1,100
USUAL = 0.99  # share of purchases whose amounts count as they are
Tensors = Mapping[str, tf.Tensor]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """Sizes and rates of the ranker.

    Attributes:
        pieces: quantile pieces per number. embedding: width of each string's embedding.
        crosses, rank: cross layers, and the rank of their matrices.
        deep: width of the deep tower. experts, expert: how many stand on it, and the width of each. head: width of
            each head's own layer.
        dropout: in the deep tower and the heads. unknown: share of strings hidden per step, so that a category of
            tomorrow is nothing special.
        listwise, amount: weights beside the likelihoods, of the ranking loss and of the deviance of amounts.
        debias: what keeps the place in a list out of what an item is worth: a tower of its own, labels weighted by the
            inverse of the propensity, or nothing.
    """

    pieces: int = 4
    embedding: int = 8
    crosses: int = 2
    rank: int = 32
    deep: int = 64
    experts: int = 4
    expert: int = 64
    head: int = 32
    dropout: float = 0.35
    unknown: float = 0.1
    listwise: float = 0.3
    amount: float = 0.3
    debias: Debias = "tower"


@dataclass(frozen=True)
class Scaling:
    """What normalisation learnt of the K numbers that vary: columns, mean, scale [K], quantile edges [K, pieces + 1].

    A shop without carts has nothing to learn from counts of carts, and nothing to compute.
    """

    columns: NDArray[np.int32]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    edges: NDArray[np.float32]

    @staticmethod
    def learn(numeric: NDArray[np.float32], pieces: int) -> "Scaling":
        """From rows [n, F] of training; a sample of 50,000 of them is enough for quantiles."""
        columns = np.flatnonzero(numeric.max(0) > numeric.min(0))
        varying = numeric[:, columns]
        edges = np.quantile(varying[:: max(len(varying) // 50_000, 1)], np.linspace(0, 1, pieces + 1), axis=0).T
        scale = 1.0 / np.maximum(varying.std(0), SMALLEST)
        return Scaling(columns.astype(np.int32), varying.mean(0), scale.astype(np.float32), edges.astype(np.float32))


@dataclass(frozen=True)
class Amounts:
    """What purchases of a known price brought in, in the currency of the shop.

    Attributes:
        purchases: how many were seen.
        mean: the average purchase: the unit of revenue.
        limit: a larger amount counts as this, so that one pallet does not outweigh a hundred baskets.
    """

    purchases: int
    mean: float
    limit: float

    @staticmethod
    def learn(amount: NDArray[Any]) -> "Amounts":
        """From training rows [n], 0 where nothing was bought or no price is known."""
        known = amount[amount > 0].astype(np.float64)
        if not len(known):
            return Amounts(0, 1.0, 1.0)
        limit = float(np.quantile(known, USUAL))
        return Amounts(len(known), float(np.minimum(known, limit).mean()), limit)

    def relative(self, amount: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n] amounts in average purchases."""
        return np.asarray(np.minimum(amount, self.limit) / self.mean, np.float32)


@dataclass(frozen=True)
class Start:
    """What a head says before training: `slope` times a number, plus `shift`.

    Attributes:
        column: of `numeric`, the number; 0 there is none, and counts as `usual`.
    """

    column: int
    slope: float
    shift: float
    usual: float

    @staticmethod
    def click(column: int, score: NDArray[Any], clicked: NDArray[Any], log_rate: NDArray[Any]) -> "Start":
        """From training rows [n]: the logistic regression of clicks on retrieval's score."""
        usual = float(score.mean())
        slope, _, shift = calibration.platt(score.astype(np.float64) - usual, np.zeros(len(score)), clicked, -log_rate)
        return Start(column, float(slope), float(shift - slope * usual), usual)

    @staticmethod
    def amount(column: int, price: NDArray[Any], amount: NDArray[Any]) -> "Start":
        """From training rows [n] with amounts in average purchases: least squares of their logs on the log price, and a
        shift that makes their mean right."""
        known = (amount > 0) & (price != 0)
        if not known.any():
            return Start(column, 0.0, 0.0, 0.0)
        x, y = price[known].astype(np.float64), amount[known].astype(np.float64)
        usual = float(x.mean())
        slope = float((x - usual) @ np.log(y) / ((x - usual) @ (x - usual) + 1.0))  # 1: few purchases say little
        return Start(column, slope, float(np.log(y.mean() / np.exp(slope * x).mean())), usual)


class Numbers(keras.layers.Layer):  # type: ignore[misc]
    """Numbers [n, F] → what varies, standardised and cut at ±4 [n, K], and in quantile pieces [n, pieces * K]."""

    def __init__(self, scaling: Scaling) -> None:
        super().__init__(name="numbers")
        self._columns = tf.constant(scaling.columns)
        self._mean, self._scale = tf.constant(scaling.mean), tf.constant(scaling.scale)
        # An edge that is its own neighbour makes a step, 1 above the value.
        width = np.maximum(np.diff(scaling.edges), SMALLEST)
        self._low, self._slope = tf.constant(scaling.edges[:, :-1].T), tf.constant(1.0 / width.T)

    def call(self, numeric: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Rows are gathered in one piece each, columns number by number: four times the time.
        varying = tf.transpose(tf.gather(tf.transpose(numeric), self._columns))
        normal = tf.clip_by_value((varying - self._mean) * self._scale, -4.0, 4.0)
        pieces = tf.clip_by_value((varying[:, None] - self._low) * self._slope, 0.0, 1.0)
        return normal, tf.reshape(pieces, [tf.shape(numeric)[0], self._low.shape.num_elements()])


class Line(keras.layers.Layer):  # type: ignore[misc]
    """Numbers [n, F] → [n, 1], what a head says before training; trained on with the rest."""

    def __init__(self, start: Start, name: str) -> None:
        super().__init__(name=name)
        self._column, self._usual = start.column, start.usual
        line = keras.initializers.Constant([start.slope, start.shift])
        self._line = self.add_weight("line", (2,), initializer=line)

    def call(self, numeric: tf.Tensor) -> tf.Tensor:
        value = numeric[:, self._column, None]
        return self._line[0] * tf.where(value == 0.0, self._usual, value) + self._line[1]


class Heads(keras.layers.Layer):  # type: ignore[misc]
    """What all heads share [n, D], and a view of each [n, heads, E] → [n, heads], by a hidden layer of each head's own.

    A hidden layer reads both side by side. What all of them make of what they share is one product, and what they make
    of their views another: two instead of four that are as wide as both.
    """

    def __init__(self, width: int) -> None:
        super().__init__(name="heads")
        self._width = width

    def build(self, shapes: tuple[tf.TensorShape, tf.TensorShape]) -> None:
        shared, view = (shape[-1] for shape in shapes)
        bound = (6.0 / (shared + view + self._width)) ** 0.5  # Glorot's, of a layer on both

        def start() -> keras.initializers.Initializer:
            return keras.initializers.RandomUniform(-bound, bound)

        self._shared = self.add_weight("shared", (shared, len(HEADS) * self._width), initializer=start())
        self._own = self.add_weight("own", (len(HEADS), view, self._width), initializer=start())
        self._bias = self.add_weight("bias", (len(HEADS), self._width), initializer="zeros")
        self._sum = self.add_weight("sum", (len(HEADS), self._width), initializer="zeros")
        self._shift = self.add_weight("shift", (len(HEADS),), initializer="zeros")

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        shared, views = inputs
        seen = tf.reshape(tf.matmul(shared, self._shared), [-1, len(HEADS), self._width])
        own = tf.transpose(tf.matmul(tf.transpose(views, [1, 0, 2]), self._own), [1, 0, 2])
        return tf.reduce_sum(tf.nn.gelu(seen + own + self._bias) * self._sum, 2) + self._shift


class Words(tf.Module):  # type: ignore[misc]
    """Strings → codes; 0 is for what training never saw, and for nothing at all."""

    def __init__(self, vocabulary: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.size = {name: len(values) + 1 for name, values in vocabulary.items()}
        self._tables = {
            # An empty vocabulary is legal data (nobody has a brand), but not a legal table.
            name: keras.layers.StringLookup(vocabulary=list(values) or ["[NONE]"], num_oov_indices=1)
            for name, values in vocabulary.items()
        }

    def __call__(self, inputs: Tensors) -> tf.Tensor:
        """[n] each of STRINGS → [n, 5]: top category, category, brand, region, surface."""
        top = tf.strings.regex_replace(inputs["category"], " > .*", "")
        texts = {"top_category": top} | {name: inputs[name] for name in STRINGS}
        return tf.stack([tf.cast(self._tables[name](text), tf.int32) for name, text in texts.items()], axis=1)


def vocabulary(strings: Mapping[str, NDArray[np.object_]], floor: int = 5) -> dict[str, list[str]]:
    """The known values of each string input, by name: those of at least `floor` training rows, sorted."""
    top = np.array([events.top_category(path) for path in strings["category"]], dtype=object)
    found = {}
    for name, values in ({"top_category": top} | {name: strings[name] for name in STRINGS}).items():
        kept, counts = np.unique(values.astype(str), return_counts=True)
        found[name] = [str(value) for value, count in zip(kept, counts, strict=True) if value and count >= floor]
    return found


class Ranker(tfrs.Model):  # type: ignore[misc]
    """The trainable ranker.

    A batch holds whole requests, row after row: `numeric` [n, F], `words` [n, 5] from `Words`, `group` [n] number of
    the request within the batch (ascending), `position` [n] int32 (-1 = not shown in a list), `labels` [n, chain],
    `amount` [n] in average purchases (0 = not bought, or at an unknown price), and `log_rate` [n], the log of the rate
    at which the negatives of the request were sampled.

    Args:
        scaling: learnt from the training rows.
        words: the vocabularies.
        slots: what the training impressions say about places in a list.
        click: what the training rows say about retrieval's score.
        amount: what they say about the price.
        amounts: what the training purchases brought in.
    """

    def __init__(
        self, shape: Shape, scaling: Scaling, words: Words, slots: Slots, click: Start, amount: Start, amounts: Amounts
    ) -> None:
        super().__init__()
        self._shape, self.words, self.amounts = shape, words, amounts
        self._numbers = Numbers(scaling)
        sizes = list(words.size.values())
        self._table = keras.layers.Embedding(sum(sizes), shape.embedding)
        self._first = tf.constant(np.cumsum([0, *sizes[:-1]]), tf.int32)  # row of each kind of string in the table
        self._crosses = [tfrs.layers.dcn.Cross(projection_dim=shape.rank) for _ in range(shape.crosses)]
        self._deep = keras.layers.Dense(shape.deep, activation="gelu")
        self._experts = keras.layers.Dense(shape.experts * shape.expert, activation="gelu")
        self._gates = keras.layers.Dense(len(HEADS) * shape.experts)
        self._dropout = keras.layers.Dropout(shape.dropout)
        self._heads = Heads(shape.head)
        self._click, self._amount = Line(click, "click_line"), Line(amount, "amount_line")
        places = keras.initializers.Constant(slots.start)
        self._bias = self.add_weight("position_bias", (POSITIONS,), initializer=places)
        self._shown, self._propensity = tf.constant(slots.share), tf.constant(slots.propensity)
        self.average = keras.metrics.Mean(name="average_loss")
        self._gain = tf.constant([BLEND[head] for head in CHAIN])

    def call(self, batch: Tensors, training: bool = False) -> tf.Tensor:
        """`numeric` and `words` → [n, heads]: logits of the chain, each given that the head before it came true, and
        the log of the amount that a purchase is expected to bring in."""
        words = batch["words"]
        if training:
            words *= tf.cast(tf.random.uniform(tf.shape(words)) >= self._shape.unknown, tf.int32)
        normal, pieces = self._numbers(batch["numeric"])
        texts = tf.reshape(self._table(words + self._first), [-1, len(self.words.size) * self._shape.embedding])
        first = crossed = tf.concat([normal, texts], axis=1)
        for layer in self._crosses:
            crossed = layer(first, crossed)
        deep = self._dropout(self._deep(tf.concat([pieces, texts], axis=1)), training=training)
        known = self._dropout(self._experts(deep), training=training)
        crossed = self._dropout(crossed, training=training)
        found = self._heads((crossed, self._mixed(known, first)))
        click = found[:, :1] + self._click(batch["numeric"])
        amount = found[:, -1:] + self._amount(batch["numeric"])
        return tf.concat([click, found[:, 1:-1], tf.clip_by_value(amount, -LARGEST_LOG, LARGEST_LOG)], 1)

    def _mixed(self, known: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """What all experts know and what the gates see → [n, heads, expert], each head's mixture."""
        shape = self._shape
        weights = tf.nn.softmax(tf.reshape(self._gates(first), [-1, len(HEADS), shape.experts]))
        return tf.matmul(weights, tf.reshape(known, [-1, shape.experts, shape.expert]))

    def get_config(self) -> dict[str, Any]:
        """Nothing: a ranker is built by its training and kept as a SavedModel, never rebuilt by Keras."""
        return {}

    def position_bias(self, position: tf.Tensor) -> tf.Tensor:
        """[n] what the slot adds to the click logit; 0 where an item was not shown in a list."""
        bias = self._bias - tf.tensordot(self._bias, self._shown, 1)  # 0 on average: that is what is served
        return self._at(bias, position, 0.0)

    @staticmethod
    def _at(by_place: tf.Tensor, position: tf.Tensor, otherwise: float) -> tf.Tensor:
        """[n] the value of each position; `otherwise` for -1."""
        return tf.where(position >= 0, tf.gather(by_place, tf.clip_by_value(position, 0, POSITIONS - 1)), otherwise)

    def compute_loss(self, batch: Tensors, training: bool = False) -> tf.Tensor:
        outputs, labels = self(batch, training=training), batch["labels"]
        seen = outputs[:, :-1]
        if self._shape.debias == "tower":
            seen += tf.pad(self.position_bias(batch["position"])[:, None], [[0, 0], [0, len(CHAIN) - 1]])
        if self._shape.debias == "propensity":
            labels /= self._at(self._propensity, batch["position"], 1.0)[:, None]
        # Negatives kept at rate q make odds of a click 1/q times too high in the sample; only the first head is
        # touched, for no row with a positive label is ever dropped (King and Zeng, 2001).
        sampled = seen - tf.pad(batch["log_rate"][:, None], [[0, 0], [0, len(CHAIN) - 1]])
        likelihood = tf.reduce_sum(tf.reduce_mean(chain_loss(sampled, labels), axis=0))
        deviance = tf.reduce_mean(amount_loss(outputs[:, -1], batch["amount"]))
        gains = tf.linalg.matvec(labels, self._gain)
        score = tf.math.log(tf.linalg.matvec(tf.exp(chain(seen)), self._gain) + SMALLEST)
        listwise = listwise_loss(score, gains, batch["group"])
        loss = likelihood + self._shape.amount * deviance + self._shape.listwise * listwise
        self.average.update_state(loss)
        return loss


def chain(logits: tf.Tensor) -> tf.Tensor:
    """Conditional logits [n, chain] → log probabilities [n, chain], each times all before it."""
    return tf.cumsum(tf.math.log_sigmoid(logits), axis=1)


def chain_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Negative log likelihood [n, chain] of labels [n, chain] under the chain, over all rows."""
    log_p = tf.minimum(chain(logits), -SMALLEST)
    return -labels * log_p - (1.0 - labels) * tf.math.log(-tf.math.expm1(log_p))


def amount_loss(log_expected: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Half the Gamma deviance [n] of amounts [n]; 0 where none is known, and where it is what was expected."""
    known = amount > 0.0
    ratio = tf.where(known, amount * tf.exp(-log_expected), 1.0)
    return ratio - tf.math.log(ratio) - 1.0


def answers(outputs: tf.Tensor) -> tf.Tensor:
    """Outputs of the ranker [n, heads] → probabilities of the chain and revenue [n, heads]."""
    probability = tf.exp(chain(outputs[:, :-1]))
    return tf.concat([probability, probability[:, -1:] * tf.exp(outputs[:, -1:])], 1)


def listwise_loss(scores: tf.Tensor, gains: tf.Tensor, group: tf.Tensor) -> tf.Tensor:
    """Softmax cross entropy between the gains and the scores of each group, mean over groups with a gain (ListNet,
    Cao et al., ICML 2007; a bound on NDCG, Bruch et al., ICTIR 2019). All [n]; `group` ascends."""
    top = tf.gather(tf.math.segment_max(tf.stop_gradient(scores), group), group)
    total = tf.math.log(tf.math.segment_sum(tf.exp(scores - top), group))
    cross = tf.math.segment_sum(gains * (tf.gather(total, group) + top - scores), group)
    weight = tf.math.segment_sum(gains, group)
    return tf.reduce_sum(tf.math.divide_no_nan(cross, weight)) / tf.maximum(
        tf.cast(tf.math.count_nonzero(weight), tf.float32), 1.0
    )


class Served(tf.Module):  # type: ignore[misc]
    """The graph that serving gets: strings and numbers in, calibrated probabilities and revenue out, no position.

    Args:
        calibrated: [heads, 3] from `calibration.calibrate`.
        trees: beside the network.
    """

    def __init__(self, model: Ranker, calibrated: Floats, trees: forest.Forest = forest.NO_TREES) -> None:
        super().__init__()
        self._model, self._words, self._trees = model, model.words, forest.Logit(trees)
        self.amounts, self.calibrated = model.amounts, calibrated
        self._slope, self._share, self._shift = tf.unstack(tf.constant(calibrated, tf.float32), axis=1)

    def score(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        outputs = self._model({"numeric": inputs["numeric"], "words": self._words(inputs)}, training=False)
        beside = self._trees(inputs["numeric"])[:, None] * self._share
        found = answers(outputs * self._slope + beside + self._shift)
        return {head: found[:, k] for k, head in enumerate(HEADS)}

    def save(self, folder: Path, features: int) -> None:
        """Write the SavedModel; signature `serving_default`, inputs by name.

        Raises:
            Permanent: it has weights that are not finite.
        """
        health.check_finite(self._model.trainable_weights)
        specs = {name: tf.TensorSpec([None], tf.string, name) for name in STRINGS}
        specs["numeric"] = tf.TensorSpec([None, features], tf.float32, "numeric")
        serve = tf.function(lambda **inputs: self.score(inputs), autograph=False)
        tf.saved_model.save(self, str(folder), signatures=serve.get_concrete_function(**specs))


@dataclass(frozen=True)
class Scorer:
    """A SavedModel of an artifact, opened; thread-safe."""

    signature: Callable[[Tensors], Tensors]
    module: Any  # owns the variables; the signature alone would let them go

    @staticmethod
    def load(folder: Path) -> "Scorer":
        """Open `model/` under an artifact's folder (verify it with `artifact.load` first)."""
        module = tf.saved_model.load(str(folder))
        return Scorer(graphs.Signature(module.signatures["serving_default"]), module)

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """[n] per head, from `transforms.ranking_inputs`: probabilities, and revenue in average purchases."""
        found = []
        for block in blocks(len(inputs["numeric"])):
            found.append(self.signature({name: tf.constant(inputs[name][block]) for name in ("numeric", *STRINGS)}))
        return {head: np.concatenate([answer[head] for answer in found]) for head in HEADS}


def blocks(rows: int) -> list[slice]:
    """Slices of at most PASS_ROWS that cover all rows; one, empty, where there are none."""
    return [slice(start, start + PASS_ROWS) for start in range(0, max(1, rows), PASS_ROWS)]


def blend(heads: Mapping[str, NDArray[np.floating[Any]]], weights: Mapping[str, float]) -> NDArray[np.float32]:
    """One score [n] ≥ 0 from the heads: their mean by weight; `weights` is `blend` of the manifest.

    Raises:
        ValueError: a weight is for no head, is negative, or all are 0.
    """
    unknown = sorted(set(weights) - set(heads))
    total = float(sum(weights.values()))
    if unknown or total <= 0 or min(weights.values()) < 0:
        raise ValueError(f"blend weights must be ≥ 0 and not all 0, for heads {sorted(heads)}; got {weights}")
    return np.asarray(sum(w * heads[head] for head, w in weights.items()) / total, np.float32)
