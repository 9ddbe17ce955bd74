"""What ranking costs per request: 500 candidates of one visitor, features and forward pass.

    .venv/bin/python bench/ranker.py [--items 20000] [--artifact var/current/models/ranker/VERSION]

Prints one JSON line per figure: p50 and p99 in milliseconds beside the limit. Without an artifact the forward pass is
that of an untrained ranker, which costs the same.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from feature_repo import events, names, transforms
from recsys import settings

CANDIDATES = 500
FEATURES_LIMIT_MS = 3.0
FORWARD_LIMIT_MS = 20.0
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
    """One user as Feast returns it, with a full history."""
    n = names.HISTORY_LENGTH
    return {
        "user_id": ["u"],
        "region": ["GB"],
        "signup_time": [int(NOW - 200 * DAY)],
        "preferences": [["Top 3", "tag7"]],
        "history_items": [[f"item-{k}" for k in rng.integers(0, items, n)]],
        "history_events": [list(rng.choice(events.POSITIVE, n))],
        "history_times": [list(np.sort(NOW - rng.uniform(0, 60, n) * DAY).astype(int))],
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


def milliseconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """p50 and p99 of a call, after 20 to warm up."""
    for _ in range(20):
        call()
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        spent.append(1000 * (time.perf_counter() - started))
    return float(np.percentile(spent, 50)), float(np.percentile(spent, 99))


def report(name: str, figures: tuple[float, float], limit: float, **facts: Any) -> None:
    p50, p99 = figures
    print(json.dumps({"figure": name, "p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "limit_ms": limit, **facts}))


def untrained(inputs: dict[str, Any], folder: Path) -> Path:
    """A ranker of the default shape that has learnt nothing."""
    from models import ranker

    strings = {name: inputs[name] for name in ranker.STRINGS}
    slots = ranker.Slots.learn(np.full(CANDIDATES, -1, np.int32), np.zeros(CANDIDATES, np.float32))
    shape = ranker.Shape()
    words = ranker.Words(ranker.vocabulary(strings, floor=1))
    model = ranker.Ranker(shape, ranker.Scaling.learn(inputs["numeric"], shape.pieces), words, slots)
    ranker.Served(model, np.tile([1.0, 0.0], (3, 1))).save(folder / "model", inputs["numeric"].shape[1])
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000, help="size of the made-up catalogue")
    parser.add_argument("--artifact", type=Path, help="ranker artifact whose forward pass is measured too")
    parser.add_argument("--repeats", type=int, default=500, help="calls per figure")
    options = parser.parse_args()
    rng = np.random.default_rng(7)
    started = time.perf_counter()
    items = transforms.item_matrix(catalogue(options.items, rng))
    print(
        json.dumps({"figure": "item_matrix", "seconds": round(time.perf_counter() - started, 3), "items": len(items)})
    )
    requests = transforms.Requests(visitor(options.items, rng), np.array([NOW]), ["GB"], ["home"])
    candidates = transforms.Candidates(
        np.zeros(CANDIDATES, np.int64),
        rng.choice(options.items, CANDIDATES, replace=False),
        np.sort(rng.uniform(0, 1, CANDIDATES))[::-1],
        np.arange(CANDIDATES),
    )
    figures = milliseconds(lambda: transforms.ranking_inputs(requests, candidates, items), options.repeats)
    width = len(transforms.RANKING_FEATURES)
    report("ranking_features", figures, FEATURES_LIMIT_MS, candidates=CANDIDATES, features=width, items=len(items))
    settings.load()  # before TensorFlow is imported
    from models import ranker

    inputs = transforms.ranking_inputs(requests, candidates, items)
    with tempfile.TemporaryDirectory() as folder:
        scorer = ranker.Scorer.load((options.artifact or untrained(inputs, Path(folder))) / "model")
        report("forward_pass", milliseconds(lambda: scorer.score(inputs), options.repeats), FORWARD_LIMIT_MS)


if __name__ == "__main__":
    main()
