"""How quickly the towers learn, beside the plain loop of TensorFlow Recommenders on the same towers and histories.

    nice .venv/bin/python -m bench.training [--items 4000] [--events 400000] [--batches 40]

Ours is `tower_training.fit` as the stage calls it, deterministic ops included. The peer is written as the tutorial of
TensorFlow Recommenders is (tensorflow.org/recommenders/examples/basic_retrieval): a `tfrs.Model`, strings that it looks
up itself, one target a row, histories padded to full length, `.batch().cache()`, Keras' `fit`. It is measured with
`tfrs.tasks.Retrieval` (softmax over the targets of the batch) and with Keras' own cross entropy over the whole
catalogue, which is what ours does. Where a choice was left the peer has the cheaper one: it represents each item of
the catalogue once a step, not each event of each history, and computes no metric. Batch, sizes, dropout and
optimizer are the same; each is timed in its second epoch, which the peer reads from its cache.

    examples/s  one history and what came next: all of it at once in ours, one item in the peer
    events/s    events of the shop that a pass learns from, per second of that pass; the peer has a row for each, ours
                as few as `pipelines.examples` cuts

`processor_ms` is what an example took of all cores together; on a machine that does other work, compare that. The
shop is made up, of the size and shape of UCI Online Retail: few visitors, long histories, baskets of twenty.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from bench import figures
from recsys import settings

settings.load()  # before TensorFlow is imported

import tensorflow as tf  # noqa: E402
import tensorflow_recommenders as tfrs  # noqa: E402
import tf_keras as keras  # noqa: E402

from feature_repo import events, names, transforms  # noqa: E402
from models import towers, two_tower, vocabulary  # noqa: E402
from models.vocabulary import FIRST  # noqa: E402
from pipelines import corpus, examples, tower_training, train_retrieval  # noqa: E402

SEED = 7
DAY = date(2024, 12, 31)
START, END = (datetime(2024, month, day, tzinfo=UTC).timestamp() for month, day in ((1, 1), (12, 31)))
EVENTS_A_VISITOR = 92
EVENTS_A_VISIT = 20


@dataclass(frozen=True)
class Shop:
    """A made-up shop, as training sees it."""

    words: vocabulary.Vocabulary
    known: two_tower.Corpus
    sequences: examples.Sequences
    moments: Any


@dataclass(frozen=True)
class Speed:
    """How quickly so many examples were learnt from.

    Attributes:
        rate: examples a second.
        processor_ms: that an example took of all cores together, which tells a slow loop from a busy machine.
    """

    examples: int
    rate: float
    processor_ms: float


def vocabulary_of(items: int) -> vocabulary.Vocabulary:
    return vocabulary.Vocabulary(
        items=tuple(f"item-{k}" for k in range(items)),
        parts=tuple(f"Kind {k}" for k in range(200)),
        tags=tuple(f"tag{k}" for k in range(50)),
        brands=tuple(f"Brand {k}" for k in range(100)),
        regions=tuple(f"R{k}" for k in range(30)),
        age_groups=("18-29", "30-49", "50+"),
    )


def catalogue(words: vocabulary.Vocabulary, moments: int, rng: np.random.Generator) -> two_tower.Corpus:
    """Titles of five words, a category of two parts, a brand, two tags."""
    rows = len(words.items) + FIRST
    title = [" ".join(f"word{k}" for k in row) for row in rng.integers(0, 2000, (rows, 5))]
    inputs = transforms.item_tower_inputs(
        item_id=["", "", *words.items],
        title=title,
        category=[f"{words.parts[k % 20]} > {words.parts[k % 200]}" for k in range(rows)],
        brand=[words.brands[k % 100] for k in range(rows)],
        tags=[[words.tags[k % 50], words.tags[k % 7]] for k in range(rows)],
        price=rng.lognormal(2, 1, rows).tolist(),
        created=np.zeros(rows),
        stats=np.zeros((rows, len(names.ITEM_STATS)), np.float32),
        now=0.0,
    )
    identity = rng.normal(size=(rows, names.EMBEDDING_DIM)).astype(np.float32)
    return two_tower.Corpus(
        content=vocabulary.encode(words, inputs),
        stats=rng.gamma(1, 20, (moments, rows, len(names.ITEM_STATS))).astype(np.float32),
        ages=np.full((moments, rows), 100, np.float32),
        share=np.full(rows, 1 / rows, np.float32),
        identity=identity / np.linalg.norm(identity, axis=1, keepdims=True),
    )


def histories(words: vocabulary.Vocabulary, count: int, rng: np.random.Generator) -> examples.Sequences:
    """Visitors of very different activity, whose visits lie anywhere in the year; popularity falls as one per rank."""
    visitors = max(count // EVENTS_A_VISITOR, 1)
    activity = rng.lognormal(0, 1.2, visitors)
    owner = np.sort(rng.choice(visitors, count, p=activity / activity.sum()))
    offsets = np.searchsorted(owner, np.arange(visitors + 1))
    starts = rng.random(count) < 1 / EVENTS_A_VISIT
    starts[np.unique(offsets[:-1][np.diff(offsets) > 0])] = True
    when = rng.uniform(START, END, int(starts.sum()))
    times = when[np.lexsort((when, owner[starts]))][np.cumsum(starts) - 1]
    popular = 1 / (10 + np.arange(len(words.items)))
    return examples.Sequences(
        offsets=offsets,
        items=rng.choice(len(words.items), count, p=popular / popular.sum()) + FIRST,
        events=np.full(count, words.events.index("purchase") + FIRST),
        times=times,
        turns=np.empty((count, 0)),
        signal=np.full(count, events.SIGNAL_WEIGHT["purchase"]),
        region=rng.integers(0, len(words.regions), visitors) + FIRST,
        age_group=np.zeros(visitors, np.int64),
        preferences=np.zeros((visitors, corpus.NO_STATED), np.int64),
        validates=np.zeros(visitors, bool),
    )


class Plain(tfrs.Model):
    """The towers as the tutorial trains them.

    A batch has strings as the user tower's serving signature takes them, and `target` [batch].

    Args:
        full: softmax over the catalogue in place of the batch's targets.
    """

    def __init__(self, shape: towers.Shape, words: vocabulary.Vocabulary, known: two_tower.Corpus, full: bool) -> None:
        super().__init__()
        sizes = words.sizes()
        self._lookup, self._full, self._scale = vocabulary.Lookup(words), full, shape.initial_scale
        self.user, self.item = towers.UserTower(shape, sizes), towers.ItemTower(shape, sizes, known.stats.shape[-1])
        self.item.build(None)
        self._content = {name: tf.constant(values) for name, values in known.content.items()}
        self._stats, self._ages = tf.constant(known.stats[-1]), tf.constant(known.ages[-1])
        self.task = tfrs.tasks.Retrieval(temperature=1 / shape.initial_scale)
        self.entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def compute_loss(self, batch: towers.Tensors, training: bool = False) -> tf.Tensor:
        request, targets = self._lookup.request(batch), self._lookup("items", batch["target"])
        base = self.item.base(tf.range(tf.size(self._ages)), self._content, training=training)
        query = self.user(request, tf.gather(base, request["items"]), training=training)
        if self._full:
            items = self.item(base, self._stats, self._ages)
            return self.entropy(targets, self._scale * tf.matmul(query, items, transpose_b=True))
        items = self.item(*(tf.gather(each, targets) for each in (base, self._stats, self._ages)))
        return self.task(query, items, compute_metrics=False)


class Stopwatch:
    """Told the end of every epoch."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, float]] = []

    def __call__(self, *_: object) -> None:
        self._ends.append((time.perf_counter(), time.process_time()))

    def second(self, count: int) -> Speed:
        """The speed of the second epoch, of so many examples."""
        (wall, busy), (wall_end, busy_end) = self._ends
        return Speed(count, count / (wall_end - wall), 1000 * (busy_end - busy) / count)


def plain(shop: Shop, plan: examples.Plan, shape: towers.Shape, batch: int, batches: int, full: bool) -> Speed:
    """The speed of the peer, on some of the histories that ours learns from."""
    fields = examples.records(shop.sequences, plan, np.random.default_rng(SEED))
    chosen = np.random.default_rng(SEED).permutation(np.flatnonzero(fields["targets"][:, 0]))[: batch * batches]
    rows = {name: values[chosen] for name, values in fields.items()}
    data = tf.data.Dataset.from_tensor_slices(strings(rows, shop.words)).shuffle(len(chosen)).batch(batch).cache()
    model, watch = Plain(shape, shop.words, shop.known, full), Stopwatch()
    model.compile(keras.optimizers.Adam(0.002))
    model.fit(data, epochs=2, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=watch)], verbose=0)
    return watch.second(len(chosen))


def strings(rows: Mapping[str, Any], words: vocabulary.Vocabulary) -> dict[str, Any]:
    """Examples as a log has them, which the tutorial's model looks up."""

    def named(ids: Any, known: tuple[str, ...]) -> Any:
        return np.array(["", "", *known])[ids]

    return {
        "history_items": named(rows["items"], words.items),
        "history_events": named(rows["events"], words.events),
        "history_ages": rows["ages"].astype(np.float32),
        "region": named(rows["region"], words.regions),
        "age_group": named(rows["age_group"], words.age_groups),
        "preferences": np.full((len(rows["items"]), transforms.PREFERENCES), ""),
        "hour": rows["hour"].astype(np.float32),
        "weekday": rows["weekday"].astype(np.int32),
        "target": named(rows["targets"][:, 0], words.items),
    }


def ours(shop: Shop, plan: examples.Plan, shape: towers.Shape, recipe: tower_training.Recipe) -> Speed:
    """The speed of ours, on all examples of the shop."""
    watch = Stopwatch()
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    with tempfile.TemporaryDirectory() as folder:
        written = examples.write(Path(folder), iter([shop.sequences]), plan, SEED)["train"]
        model = two_tower.TwoTower(shape, shop.words.sizes(), shop.known, recipe.negatives)
        tower_training.fit(model, Path(folder), plan.layout, recipe, SEED, watch)
    return watch.second(written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=4_000, help="size of the made-up catalogue")
    parser.add_argument("--events", type=int, default=400_000, help="events of the made-up shop")
    parser.add_argument("--batches", type=int, default=40, help="batches that the peer is timed on")
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    params = train_retrieval.Params(day=DAY, run="bench", epochs=2)
    words = vocabulary_of(options.items)
    nobody = scipy.sparse.csr_matrix((1, 1))
    counted = corpus.Census(words, np.zeros(0, np.float32), nobody, START, options.events)
    recipe = tower_training.settle(params, counted, datetime.fromtimestamp(END, UTC))
    moments = np.linspace(START, END, recipe.moments + 1, endpoint=False)
    shop = Shop(words, catalogue(words, len(moments), rng), histories(words, options.events, rng), moments)
    layout = examples.Layout(params.history_length, recipe.targets, corpus.NO_STATED)
    plan = examples.Plan(layout, moments, END, recipe.chunk, recipe.horizon, recipe.fade)
    shape = towers.Shape(dim=params.dim, history_length=params.history_length)
    # The peer comes first: deterministic ops, once enabled, stay so.
    peers = {
        name: plain(shop, plan, shape, recipe.batch, options.batches, full)
        for name, full in (("in_batch", False), ("full", True))
    }
    own = ours(shop, plan, shape, recipe)
    facts = {"items": options.items, "events": options.events, "batch": recipe.batch, "examples": own.examples}
    for name, peer in peers.items():
        facts |= {"processor_ms": round(own.processor_ms, 3), "peer_processor_ms": round(peer.processor_ms, 3)}
        figures.report(f"training.examples_{name}", own.rate, "examples/s", peer=peer.rate, **facts)
        passed = own.rate * options.events / own.examples
        figures.report(f"training.events_{name}", passed, "events/s", peer=peer.rate, **facts)


if __name__ == "__main__":
    main()
