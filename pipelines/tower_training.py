"""Train the two towers on the events before the holdout, and keep them as a "retrieval" artifact.

What is not given as an option follows from the data's size (`settle`). The learning rate falls to nothing, and what is
kept is where that leads; the loss on the last days of a tenth of the visitors is for people to see. Item statistics are
those known at the time of each example, looked up at a number of moments of the past, so nothing is predicted from a
count that includes it.

Started once per worker that TF_CONFIG names, it trains the same model on all of them, a part of every batch on each.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from feature_repo import names, transforms
from models import artifact, health, towers, two_tower, workers
from models.vocabulary import FIRST
from pipelines import baselines, corpus, datasets, examples, plots, split, stage, tracking, train_retrieval
from recsys.errors import BadData
from recsys.settings import Settings

FULL_SOFTMAX = 20_000  # items up to which every item competes in every step
FEW_STAY_SHORT = 0.05  # of the visitors
CUT_SHORT = 0.3  # of them per step, in such a shop
LINEAR_ITEMS = 12_000  # the most popular ones; their weights take 15 s and 2.4 GB at the peak
FEWEST_WATCHED = 200  # examples; the loss on fewer is noise, and not worth keeping them out
SHOWN = {"cross_entropy": "loss", "val_cross_entropy": "val_loss", "val_recall_100": "val_recall@100"}
Report = Callable[[int, Mapping[str, float]], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """The settled hyperparameters of one training.

    Attributes:
        rate: of learning, at the start.
        chunk: events after which a long visit is cut into another example.
        targets: places for targets in an example.
        horizon: days in which the weight of a target halves.
        fade: events in which it halves besides.
        short_histories: share of visitors per step whose history is cut to a few events.
        linear_half_life: later events after which an event counts half in the linear autoencoder.
    """

    epochs: int
    batch: int
    rate: float
    negatives: int
    moments: int
    chunk: int
    targets: int
    horizon: float
    fade: float
    short_histories: float
    linear_half_life: float


def settle(params: train_retrieval.Params, counted: corpus.Census, cutoff: datetime) -> Recipe:
    """Hyperparameters from the size of the data, where the caller has not decided.

    Batch: a power of two near a ninth of the items, since each step embeds all items, whatever the batch. Epochs: the
    more, the more events there are of an item, as what little is said of an item is soon learnt by heart; at most two
    million events in all, so that training time stays level; within 2 to 8. Statistics are looked up about weekly, each
    moment shared by enough events to fill batches. Targets count half after a twenty-fourth of the span, which is half
    of what the holdout asks about; a visit is cut every eight events, or every two half-lives of `fade` if that is
    sooner. Histories are cut short where few visitors have short ones: a short history is then a beginning, and says
    what people begin with rather than what follows these events. The linear autoencoder forgets as EASE's query does,
    and sooner where what comes next is all that is asked.
    """
    items, events = len(counted.words.items), counted.events
    days = (cutoff.timestamp() - counted.first_time) / transforms.SECONDS_PER_DAY
    batch = params.batch_size or 1 << int(np.clip(np.log2(max(items, 1) / 9), 8, 10))
    rate = params.learning_rate or 0.002 * min(batch / 256, 2)
    borne = 0.6 * np.sqrt(events / max(items, 1))
    epochs = params.epochs or int(np.clip(min(borne, 2_000_000 / max(events, 1)), 2, 8))
    negatives = params.negatives if params.negatives is not None else (0 if items <= FULL_SOFTMAX else 8192)
    weekly = int(np.clip(days // 7, 1, 52))
    moments = params.moments if params.moments is not None else min(weekly, events // 2_000)
    horizon = float(np.clip(days / 24, 1, 14))
    stay_short = np.mean(np.diff(counted.seen.indptr) < towers.SHORT)
    short = CUT_SHORT if stay_short < FEW_STAY_SHORT else 0.0
    return Recipe(
        epochs=epochs,
        batch=batch,
        rate=rate,
        negatives=negatives,
        moments=moments,
        chunk=int(np.clip(2 * params.fade, 1, 8)),
        targets=64,
        horizon=horizon,
        fade=params.fade,
        short_histories=params.short_histories if params.short_histories is not None else short,
        linear_half_life=min(4.0 * params.fade, baselines.EASE_EVENTS),
    )


def run(params: train_retrieval.Params, settings: Settings) -> stage.Result | None:
    """Train, and write the artifact; a worker that is not the chief does the first alone."""
    strategy = workers.strategy()
    root, place = Path(settings.storage.root).resolve(), datasets.run_folder(settings, params.run)
    if not workers.is_chief(strategy):
        found, counted, recipe = _read(params, settings)
        train(params, found, counted, recipe, settings.seed, place, lambda *_: None, strategy)
        return None
    folder = place / "train_retrieval"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "plots").mkdir(parents=True)
    with tracking.stage_run(settings, params.run, "train_retrieval", params.model_dump()) as tracked:
        found, counted, recipe = _read(params, settings)
        tracked.params({f"recipe.{name}": value for name, value in vars(recipe).items()})
        trained = train(params, found, counted, recipe, settings.seed, folder, tracked.metrics_at, strategy)
        tracked.metrics(trained.metrics)
        plots.loss_curve(folder / "plots" / "loss.png", trained.curve)
        tracked.artifacts(folder / "plots")
    made = _keep(params, settings, found.cutoff, trained, counted)
    reference = {"kind": "retrieval", "version": made.manifest.version, "path": str(made.path.relative_to(root))}
    return {"artifact": reference, "metrics": trained.metrics, "recipe": vars(recipe), "cutoff": str(found.cutoff)}


def _read(params: train_retrieval.Params, settings: Settings) -> tuple[corpus.Source, corpus.Census, Recipe]:
    lake = datasets.lake(settings)
    cutoff = split.holdout(lake, params.day).cutoff
    found = corpus.source(lake, params.day, cutoff)
    counted = corpus.census(found)
    if not counted.words.items:
        raise BadData(f"no positive events before {cutoff}; take a later day or ingest more data")
    recipe = settle(params, counted, cutoff)
    log.info("%d events on %d items before %s: %s", counted.events, len(counted.words.items), cutoff, recipe)
    return found, counted, recipe


@dataclass(frozen=True)
class Trained:
    """A model, its figures per epoch, and those that sum it up."""

    model: two_tower.TwoTower
    curve: list[dict[str, float]]
    metrics: dict[str, Any]


def train(
    params: train_retrieval.Params,
    found: corpus.Source,
    counted: corpus.Census,
    recipe: Recipe,
    seed: int,
    folder: Path,
    report: Report,
    strategy: Any,
) -> Trained:
    """Cut the examples, fit the towers, measure their health. Deterministic under the seed on one kind of machine.

    Args:
        folder: where the examples lie while this runs; they may be larger than memory.
        report: told the figures of every epoch.
        strategy: from `workers.strategy`; each worker cuts all examples and learns from its part of every batch.
    """
    started = time.monotonic()
    keras.utils.set_random_seed(seed % 2**32)
    tf.config.experimental.enable_op_determinism()
    looked_at = corpus.moments(found, counted.first_time, len(counted.words.items), recipe.moments)
    known = corpus.corpus(found, counted, looked_at, params.dim, seed)
    shape = towers.Shape(
        dim=params.dim,
        history_length=params.history_length,
        layers=params.layers,
        history_dropout=params.history_dropout,
        short_histories=recipe.short_histories,
        linear=params.linear,
        linear_half_life=recipe.linear_half_life,
        id_dropout=params.id_dropout,
        dropout=params.dropout,
    )
    layout = examples.Layout(params.history_length, recipe.targets, corpus.NO_STATED)
    cutoff = found.cutoff.timestamp()
    watched = (cutoff - counted.first_time) / split.SHARE
    plan = examples.Plan(
        layout=layout,
        moments=np.array([counted.first_time, *(datasets.end_of(day).timestamp() for day in looked_at)]),
        validate_from=cutoff - min(watched, split.LONGEST_DAYS * transforms.SECONDS_PER_DAY),
        chunk=recipe.chunk,
        horizon=recipe.horizon,
        fade=recipe.fade,
    )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".examples-") as place:
        written = examples.write(Path(place), corpus.sequences(found, counted.words), plan, seed)
        log.info("%d examples, %d kept out to watch, after %.0f s", *written.values(), time.monotonic() - started)
        with strategy.scope():
            model = two_tower.TwoTower(shape, counted.words.sizes(), known, recipe.negatives)
        curve = fit(model, Path(place), layout, recipe, seed, report)
        model.learn_newcomers()
        if params.linear:
            log.info("fitting the linear autoencoder after %.0f s", time.monotonic() - started)
            model.learn_linear(baselines.ease_of(counted.seen[:, FIRST : FIRST + LINEAR_ITEMS]))
    seconds = time.monotonic() - started
    scale = float(np.exp(model.log_scale.numpy()))
    metrics = {"last": curve[-1], "scale": scale, "examples": written, "seconds": round(seconds, 1)}
    metrics["health"] = health.measure(model.catalogue().numpy()[FIRST:], seed)
    return Trained(model, curve, metrics)


def fit(
    model: two_tower.TwoTower,
    place: Path,
    layout: examples.Layout,
    recipe: Recipe,
    seed: int,
    report: Report,
) -> list[dict[str, float]]:
    """Train to the end of the schedule; returns the figures of each epoch.

    The best weights by the loss on what was kept out may be those before the rate has fallen: of four epochs on Amazon
    Beauty the first had the lowest loss, and two that are gone through have a lower one and better lists (0007).
    """
    learnt, kept_out = place / "train", place / "valid"
    enough = examples.batches([kept_out], layout, 1) >= FEWEST_WATCHED
    folders = [learnt] if enough else [learnt, kept_out]
    strategy = model.distribute_strategy
    steps, watched_steps = (examples.batches(those, layout, recipe.batch) for those in (folders, [kept_out]))
    data = workers.shared(strategy, partial(examples.dataset, folders, layout, recipe.batch, seed), steps)
    valid = partial(examples.dataset, [kept_out], layout, recipe.batch, None)
    watched = workers.shared(strategy, valid, watched_steps) if enough else None
    falling = keras.optimizers.schedules.CosineDecay(recipe.rate, max(steps * recipe.epochs, 1))
    with strategy.scope():
        model.compile(keras.optimizers.Adam(falling))
    curve: list[dict[str, float]] = []

    def after(epoch: int, logs: dict[str, float]) -> None:
        kept = {SHOWN[name]: float(value) for name, value in logs.items() if name in SHOWN}
        kept["scale"] = float(np.exp(model.log_scale.numpy()))
        curve.append({"epoch": epoch + 1, **kept})
        log.info("epoch %d of %d: %s", epoch + 1, recipe.epochs, " ".join(f"{k} {v:.4f}" for k, v in kept.items()))
        report(epoch + 1, kept)

    model.fit(
        data,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        validation_data=watched,
        validation_steps=watched_steps,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=after)],
        verbose=0,
    )
    return curve


def _keep(
    params: train_retrieval.Params, settings: Settings, cutoff: datetime, trained: Trained, counted: corpus.Census
) -> artifact.Artifact:
    folder = datasets.models_folder(settings)
    as_of = cutoff.isoformat()
    with artifact.draft(folder, kind="retrieval", run=params.run, as_of=as_of) as draft:
        two_tower.save(trained.model, counted.words, draft.path)
        draft.meta |= {
            "dim": params.dim,
            "history_length": params.history_length,
            "stats": list(names.ITEM_STATS),
            "vocabulary": counted.words.sizes(),
            "metrics": {name: value for name, value in trained.metrics.items() if name != "seconds"},
        }
    return draft.finished
