"""What ranking costs per request: 500 candidates of one visitor, features and forward pass.

    .venv/bin/python -m bench.ranker [--items 20000] [--artifact var/current/models/ranker/VERSION]

Prints one JSON line per figure, p50 and p99 beside the limit. Without an artifact the forward pass is
that of an untrained ranker, which costs the same.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import figures
from feature_repo import events, names, transforms
from feature_repo.neighbours import Links, Neighbours
from feature_repo.ranking_table import RELATIONS
from pipelines import item_neighbours
from recsys import settings

CANDIDATES = 500
LAST_VISIT = 10  # events
FEATURES_LIMIT_MS = 3.0
FORWARD_LIMIT_MS = 20.0
MATRIX_LIMIT_SECONDS = 2.0  # for 20,000 items; a predictor builds it at its start and at every refresh
NOW = 1_700_000_000.0
DAY = 86_400.0


def catalogue(count: int, rng: np.random.Generator) -> dict[str, Any]:
    """Columns of a made-up catalogue of 200 categories and 500 brands."""
    return {
        "item_id": [f"item-{k}" for k in range(count)],
        "category": [f"Top {k % 20} > Kind {k % 200}" for k in range(count)],
        "brand": [f"Brand {k % 500}" for k in range(count)],
        "tags": [[f"tag{k % 50}", f"tag{k % 70}"] for k in range(count)],
        "price": rng.lognormal(2, 1, count),
        "regions": [[] if k % 5 else ["GB", "DE"] for k in range(count)],
        "created_at": NOW - rng.uniform(0, 300, count) * DAY,
        "item_last_event_time": NOW - rng.uniform(0, 30, count) * DAY,
        "stats_time": np.full(count, NOW - 0.4 * DAY),
        **{name: rng.gamma(1, 20, count) for name in names.ITEM_STATS},
    }


def visitor(items: int, rng: np.random.Generator) -> dict[str, Any]:
    """One user as Feast returns it, with a full history that ends in a visit still going on."""
    n = names.HISTORY_LENGTH
    before = np.sort(rng.uniform(600, 60 * DAY, n - LAST_VISIT))[::-1]
    ago = np.append(before, np.linspace(590, 10, LAST_VISIT))  # seconds
    return {
        "user_id": ["u"],
        "region": ["GB"],
        "signup_time": [int(NOW - 200 * DAY)],
        "preferences": [["Top 3", "tag7"]],
        "history_items": [[f"item-{k}" for k in rng.integers(0, items, n)]],
        "history_events": [list(rng.choice(events.POSITIVE, n))],
        "history_times": [list((NOW - ago).astype(int))],
        **{name: [float(rng.gamma(1, 5))] for name in names.USER_ACTIVITY},
        "first_event_time": [int(NOW - 100 * DAY)],
        "activity_time": [int(NOW - 0.4 * DAY)],
        "categories": [[f"Top {k} > Kind {k}" for k in range(10)]],
        "category_weights": [list(np.full(10, 0.1))],
        "top_categories": [[f"Top {k}" for k in range(10)]],
        "top_category_weights": [list(np.full(10, 0.1))],
        "brands": [[f"Brand {k}" for k in range(10)]],
        "brand_weights": [list(np.full(10, 0.1))],
    }


def measure(name: str, call: Callable[[], object], repeats: int, limit: float, **facts: object) -> None:
    """Report p50 and p99 of a call, after 20 to warm up."""
    for _ in range(20):
        call()
    taken = figures.milliseconds(itertools.repeat(call, repeats))
    for percentile, value in zip(("p50", "p99"), taken, strict=True):
        figures.report(f"ranker.{name}_{percentile}", value, "ms", limit=limit, **facts)


def neighbours(item_ids: list[str], rng: np.random.Generator) -> Neighbours:
    """As many per item as training keeps, anywhere in the catalogue."""
    shape = len(item_ids), item_neighbours.KEPT
    other = rng.integers(0, len(item_ids), shape).astype(np.int32)
    links = Links(other, rng.uniform(0, 0.1, shape).astype(np.float32))
    return Neighbours(np.array(item_ids), dict.fromkeys(RELATIONS, links))


def untrained(inputs: dict[str, Any], folder: Path) -> Path:
    """A ranker of the default shape that has learnt nothing."""
    from models import places, ranker

    strings = {name: inputs[name] for name in ranker.STRINGS}
    slots = places.Slots.learn(np.full(CANDIDATES, -1, np.int32), np.zeros(CANDIDATES, np.float32))
    click = ranker.Start(transforms.RANKING_FEATURES.index("retrieval_score"), slope=1.0, shift=-4.0, usual=0.0)
    amount = ranker.Start(transforms.RANKING_FEATURES.index("item_price"), slope=1.0, shift=-2.0, usual=2.0)
    shape = ranker.Shape()
    words = ranker.Words(ranker.vocabulary(strings, floor=1))
    scaling = ranker.Scaling.learn(inputs["numeric"], shape.pieces)
    model = ranker.Ranker(shape, scaling, words, slots, click, amount, ranker.Amounts(1, 1.0, 1.0))
    calibration = np.tile([1.0, 0.0, 0.0], (len(ranker.HEADS), 1))
    ranker.Served(model, calibration).save(folder / "model", inputs["numeric"].shape[1])
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000, help="size of the made-up catalogue")
    parser.add_argument("--artifact", type=Path, help="ranker artifact whose forward pass is measured too")
    parser.add_argument("--repeats", type=int, default=500, help="calls per figure")
    options = parser.parse_args()
    rng = np.random.default_rng(7)
    started = time.perf_counter()
    columns = catalogue(options.items, rng)
    items = transforms.item_matrix(columns, neighbours(columns["item_id"], rng))
    figures.report(
        "ranker.item_matrix", time.perf_counter() - started, "s", limit=MATRIX_LIMIT_SECONDS, items=len(items)
    )
    requests = transforms.Requests(visitor(options.items, rng), np.array([NOW]), ["GB"], ["home"])
    candidates = transforms.Candidates(
        np.zeros(CANDIDATES, np.int64),
        rng.choice(options.items, CANDIDATES, replace=False),
        np.sort(rng.uniform(0, 1, CANDIDATES))[::-1],
        np.arange(CANDIDATES),
    )
    facts = {"candidates": CANDIDATES, "features": len(transforms.RANKING_FEATURES), "items": len(items)}
    made = partial(transforms.ranking_inputs, requests, candidates, items)
    measure("features", made, options.repeats, FEATURES_LIMIT_MS, **facts)
    settings.load()  # before TensorFlow is imported
    from models import ranker

    inputs = made()
    with tempfile.TemporaryDirectory() as folder:
        scorer = ranker.Scorer.load((options.artifact or untrained(inputs, Path(folder))) / "model")
        measure("forward_pass", partial(scorer.score, inputs), options.repeats, FORWARD_LIMIT_MS, **facts)


if __name__ == "__main__":
    main()
