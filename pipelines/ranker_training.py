"""Train the multi-task ranker on requests that the towers never saw.

The holdout of `pipelines.split` is cut by time: the first 70 % are for training, whose newest part stops training
early and calibrates the heads; the rest is written to the run's folder for `evaluate_ranker`, untouched.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from feature_repo import store, transforms
from feature_repo.neighbours import Neighbours
from models import artifact, ranker, two_tower
from models.calibration import calibrate
from models.forest import Forest
from models.places import Slots
from pipelines import (
    datasets,
    holdout,
    item_neighbours,
    ranking_examples,
    ranking_forest,
    ranking_metrics,
    ranking_plots,
    ranking_requests,
    ranking_users,
    split,
    stage,
    streams,
    tracking,
    train_ranker,
)
from pipelines.datasets import Lake
from pipelines.past import Past
from pipelines.ranking_examples import Examples
from pipelines.ranking_requests import Judged
from recsys.errors import BadData
from recsys.settings import Settings

log = logging.getLogger(__name__)
TRAIN_SHARE = 0.7  # of the holdout's time
FEWEST_REQUESTS = 20
STEPS = 100  # per epoch, where there are few requests


def run(params: train_ranker.Params, settings: Settings) -> stage.Result:
    retrieval = _towers(params, settings)
    neighbours = _neighbours(params, settings)
    train, test, facts = _examples(params, settings, retrieval, neighbours)
    folder = datasets.run_folder(settings, params.run) / "train_ranker"
    for name, part in (("train", train), ("test", test)):
        ranking_examples.save(part, folder / "examples" / name)
    with tracking.stage_run(settings, params.run, "train_ranker", params.model_dump() | facts) as tracked:
        older, tail = train.tail()
        served, history, chosen = learn(older, tail, params, settings.seed)
        for epoch, figures in enumerate(history):
            tracked.metrics_at(epoch, figures)
        made = _write(served, params, settings, retrieval, neighbours, facts)
        metrics = _measured(ranker.Scorer.load(made.path / "model"), tail) | chosen
        ranking_plots.loss(folder / "plots" / "loss.png", history)
        tracked.artifacts(folder / "plots")
        tracked.metrics(metrics)
    root = Path(settings.storage.root).resolve()
    where = {"kind": "ranker", "version": made.manifest.version, "path": str(made.path.relative_to(root))}
    return {"artifact": where, "examples": str((folder / "examples").relative_to(root)), "metrics": metrics, **facts}


def _towers(params: train_ranker.Params, settings: Settings) -> artifact.Artifact:
    found = stage.result_of(settings, params.run, "train_retrieval")["artifact"]
    return artifact.load(Path(settings.storage.root).resolve() / found["path"], kind="retrieval")


def _neighbours(params: train_ranker.Params, settings: Settings) -> Neighbours:
    """Which items go with which, from what the towers may learn from."""
    started = time.monotonic()
    lake = datasets.lake(settings)
    item_ids = sorted(map(str, lake.read(datasets.ITEMS, params.day, ["item_id"]).column("item_id").to_pylist()))
    row_of = {item: row for row, item in enumerate(item_ids)}
    cutoff = split.holdout(lake, params.day).cutoff.timestamp()
    seen = holdout.interactions(lake, params.day, row_of, cutoff)
    found = item_neighbours.fit(seen, item_ids, params.ease_items)
    log.info(
        "neighbours of %d items from %d events in %.1f s", len(item_ids), len(seen.item), time.monotonic() - started
    )
    return found


def _examples(
    params: train_ranker.Params, settings: Settings, retrieval: artifact.Artifact, neighbours: Neighbours
) -> tuple[Examples, Examples, dict[str, Any]]:
    """Training and test examples, and facts about them."""
    lake = datasets.lake(settings)
    cut = split.holdout(lake, params.day)
    judged = ranking_requests.read(lake, cut.cutoff, cut.end)
    border = cut.cutoff.timestamp() + TRAIN_SHARE * (cut.end - cut.cutoff).total_seconds()
    learn, judge = sample(judged, border, params, settings.seed)
    repeats = bool(stage.result_of(settings, params.run, "features")["allow_repeats"])
    towers = two_tower.Towers.load(retrieval.path)
    shelf = ranking_examples.Shelf(lake, params.day, towers, neighbours)
    features = store.connect(settings)
    length = int(retrieval.manifest.meta["history_length"])
    made = []
    for part, negatives in ((learn, params.negatives), (judge, 0)):
        started = time.monotonic()
        past = Past.read(lake, params.day, [*part.requests["user_id"], *part.requests["session_id"]])
        # A list that was shown was made from what the store held; the pages of a visit are ours to cut.
        users = ranking_users.users_at(features, part.requests, None if judged.shown else past)
        plan = ranking_examples.Plan(settings.api.candidates, negatives, repeats, settings.seed)
        made.append(ranking_examples.build(part, users, shelf, towers, length, plan, past))
        spent = time.monotonic() - started
        log.info("%d requests, %d rows of examples in %.1f s", len(part.requests), len(made[-1]), spent)
    train, test = made
    facts = {
        "together": item_neighbours.together(len(neighbours.item_ids), params.ease_items),
        "shown": judged.shown,
        "requests_found": len(judged.requests),
        "train_requests": len(train.time),
        "train_rows": len(train),
        "test_requests": len(test.time),
        "test_rows": len(test),
        "border": datetime.fromtimestamp(border, UTC).isoformat(),
        "train_positives": dict(zip(ranker.CHAIN, train.labels.sum(0).astype(int).tolist(), strict=True)),
        "currency": _currency(lake, params.day),
    }
    return train, test, facts


def _currency(lake: Lake, day: date) -> str | None:
    """What amounts are in; None where the catalogue does not say, or has several. Items that have left it count no
    longer: a shop may have changed its currency."""
    items = lake.read(datasets.ITEMS, day, ["currency", "available"]).filter(pc.field("available"))
    found = pc.unique(items.column("currency").drop_null()).to_pylist()
    return str(found[0]) if len(found) == 1 else None


def sample(judged: Judged, border: float, params: train_ranker.Params, seed: int) -> tuple[Judged, Judged]:
    """Requests before and from a moment, each at most as many as asked for, drawn evenly over time.

    Raises:
        BadData: too few to learn from or to judge on.
    """
    when = judged.requests["time"].to_numpy()
    before, after = np.flatnonzero(when < border), np.flatnonzero(when >= border)
    fewest = min(len(before), len(after))
    if fewest < FEWEST_REQUESTS:
        raise BadData(
            f"the holdout has {len(before)} requests to train the ranker and {len(after)} to judge it, "
            f"{FEWEST_REQUESTS} of each are needed; give it more days of events"
        )
    rng = np.random.default_rng([seed, 1])
    limits = params.max_requests, params.max_test_requests if judged.shown else params.max_test_lists
    kept = [
        np.sort(rng.choice(part, min(limit, len(part)), replace=False))
        for part, limit in zip((before, after), limits, strict=True)
    ]
    return judged.take(kept[0]), judged.take(kept[1])


def learn(
    train: Examples, tail: Examples, params: train_ranker.Params, seed: int
) -> tuple[ranker.Served, list[dict[str, float]], dict[str, float]]:
    """The network with trees beside it, calibrated; its curve, one point per epoch, and what was chosen on the way."""
    trees = ranking_forest.fit(train, tail, seed)
    model, history = fit(train, tail, params, seed)
    served = ranker.Served(model, calibration(model, trees, tail), trees)
    share = float(served.calibrated[0, 1])
    return served, history, {"trees": float(len(trees.leaf)), "share_of_trees": share}


def fit(
    train: Examples, tail: Examples, params: train_ranker.Params, seed: int
) -> tuple[ranker.Ranker, list[dict[str, float]]]:
    """Train until the loss on the tail stops falling; returns the best model and the curve, one point per epoch."""
    keras.utils.set_random_seed(seed % 2**31)
    shape = ranker.Shape(listwise=params.listwise, debias=params.debias)
    words = ranker.Words(ranker.vocabulary(train.strings))
    scaling = ranker.Scaling.learn(train.numeric, shape.pieces)
    clicked, amounts = train.labels[:, 0], ranker.Amounts.learn(train.amount)
    slots = Slots.learn(train.position, clicked)
    score, price = (transforms.RANKING_FEATURES.index(name) for name in ("retrieval_score", "item_price"))
    click = ranker.Start.click(score, train.numeric[:, score], clicked, train.log_rate)
    amount = ranker.Start.amount(price, train.numeric[:, price], amounts.relative(train.amount))
    log.info("a click's log odds are %.2f times retrieval's score %+.2f, to begin with", click.slope, click.shift)
    log.info("an amount's log is %.2f times the log price %+.2f, to begin with", amount.slope, amount.shift)
    model = ranker.Ranker(shape, scaling, words, slots, click, amount, amounts)
    batch = params.batch or min(max(len(train.time) // STEPS, 8), 32)
    steps = math.ceil(len(train.time) / batch)
    rate = keras.optimizers.schedules.CosineDecay(params.learning_rate, steps * params.epochs, alpha=0.05)
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=params.weight_decay, global_clipnorm=1.0, jit_compile=False)
    )
    batches = [
        streams.steady(
            tf.data.Dataset.from_generator(_stream(part, model, batch, rng), output_signature=_signature()).prefetch(4)
        )
        for part, rng in ((train, np.random.default_rng([seed, 2])), (tail, None))
    ]
    model.fit(
        batches[0],
        validation_data=batches[1],
        epochs=params.epochs,
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping("val_average_loss", patience=params.patience, restore_best_weights=True),
            keras.callbacks.LambdaCallback(on_epoch_end=_progress(params.epochs)),
        ],
    )
    curve = model.history.history
    points = zip(curve["average_loss"], curve["val_average_loss"], strict=True)
    return model, [{"loss": float(a), "tail_loss": float(b)} for a, b in points]


def _progress(epochs: int) -> Any:
    def tell(epoch: int, logs: Mapping[str, float]) -> None:
        log.info(
            "epoch %d of %d: loss %.4f, on the tail %.4f",
            epoch + 1,
            epochs,
            logs["average_loss"],
            logs["val_average_loss"],
        )

    return tell


def codes(examples: Examples, words: ranker.Words) -> NDArray[np.int32]:
    """[n, 5] the strings of examples as the model's tables know them."""
    found: NDArray[np.int32] = words({name: tf.constant(values) for name, values in examples.strings.items()}).numpy()
    return found


def _stream(examples: Examples, model: ranker.Ranker, size: int, rng: np.random.Generator | None) -> Any:
    coded = codes(examples, model.words)
    relative = replace(examples, amount=model.amounts.relative(examples.amount))
    return lambda: ranking_examples.batches(relative, coded, size, rng)


def _signature() -> dict[str, Any]:
    return {
        "numeric": tf.TensorSpec([None, len(transforms.RANKING_FEATURES)], tf.float32),
        "words": tf.TensorSpec([None, len(ranker.STRINGS) + 1], tf.int32),
        "group": tf.TensorSpec([None], tf.int64),
        "position": tf.TensorSpec([None], tf.int32),
        "labels": tf.TensorSpec([None, len(ranker.CHAIN)], tf.float32),
        "amount": tf.TensorSpec([None], tf.float32),
        "log_rate": tf.TensorSpec([None], tf.float32),
    }


def outputs_of(model: ranker.Ranker, examples: Examples) -> NDArray[np.float64]:
    """[n, heads] conditional logits, without position, and the log of the expected amount."""
    coded = codes(examples, model.words)
    parts = [
        model({"numeric": examples.numeric[rows], "words": coded[rows]}).numpy()
        for rows in ranker.blocks(len(examples))
    ]
    return np.concatenate(parts).astype(np.float64)


def calibration(model: ranker.Ranker, trees: Forest, tail: Examples) -> NDArray[np.float64]:
    """Slope, share of the trees, and shift [heads, 3] from the tail, to be folded into the graph."""
    seen = tail.labels, model.amounts.relative(tail.amount), tail.log_rate
    labels, amount, log_rate = (values.astype(np.float64) for values in seen)
    found = calibrate(outputs_of(model, tail), ranking_forest.logits(trees, tail), labels, amount, log_rate)
    log.info("calibration, slope, trees, shift: %s", dict(zip(ranker.HEADS, found.round(3).tolist(), strict=True)))
    return found


def _write(
    served: ranker.Served,
    params: train_ranker.Params,
    settings: Settings,
    retrieval: artifact.Artifact,
    neighbours: Neighbours,
    facts: Mapping[str, Any],
) -> artifact.Artifact:
    as_of = datasets.end_of(params.day).isoformat()
    parents = {"retrieval": retrieval.manifest.version}
    folder = datasets.models_folder(settings)
    with artifact.draft(folder, kind="ranker", run=params.run, as_of=as_of, parents=parents) as draft:
        served.save(draft.path / "model", len(transforms.RANKING_FEATURES))
        neighbours.save(draft.path)
        draft.meta |= {
            "features": list(transforms.RANKING_FEATURES),
            "heads": list(ranker.HEADS),
            "blend": dict(ranker.BLEND),
            "calibration": dict(zip(ranker.HEADS, served.calibrated.tolist(), strict=True)),
            "amount": asdict(served.amounts),
            **facts,
        }
    return draft.finished


def _measured(scorer: ranker.Scorer, tail: Examples) -> dict[str, float]:
    """Figures on the tail, for the curve of runs in MLflow; the gate has its own rows."""
    found = scorer.score(tail.inputs())
    score = ranker.blend(found, ranker.BLEND).astype(np.float64)
    figures = {"tail_ndcg_10": float(ranking_metrics.ndcg(score, tail.gains(ranker.BLEND), tail.request, 10)[0].mean())}
    for head, name in enumerate(ranker.CHAIN):
        area = ranking_metrics.auc(found[name].astype(np.float64), tail.labels[:, head].astype(np.float64))
        if area is not None:
            figures[f"tail_auc_{name}"] = area
    return figures
