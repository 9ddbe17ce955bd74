"""What re-ranking costs per request: 500 candidates of 128 dimensions, all score rules, one page or all pages arranged.

    .venv/bin/python -m bench.rerank [--repeats 500]

Prints one JSON line per figure, p50 and p99 of each diversity method beside the limit.
"""

import argparse
import itertools
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import figures, index
from models import factors, rerank
from recsys import settings

CANDIDATES, DIM, VIEWED = 500, 128, 20
PAGE = 20
LENGTHS = PAGE, 200  # a page; all pages of a request, as the API arranges them
LIMIT_MS = 10.0
NOW = 1_700_000_000.0
DAY = 86_400.0


class Request(NamedTuple):
    """Candidates [n] as the ranker leaves them, and what the rules look at."""

    relevance: NDArray[np.float64]
    categories: NDArray[np.int64]
    tops: NDArray[np.int64]
    vectors: NDArray[np.float32]
    viewed: NDArray[np.float32]
    created_at: NDArray[np.float64]
    promoted: NDArray[np.bool_]
    buried: NDArray[np.bool_]


def request(rng: np.random.Generator) -> Request:
    """A made-up request over 20 top categories and 200 categories."""
    tops = rng.integers(0, 20, CANDIDATES)
    return Request(
        rng.beta(1, 8, CANDIDATES),
        tops * 10 + rng.integers(0, 10, CANDIDATES),
        tops,
        index.vectors(CANDIDATES, DIM, rng),
        index.vectors(VIEWED, DIM, rng),
        NOW - rng.uniform(0, 20, CANDIDATES) * DAY,
        rng.random(CANDIDATES) < 0.1,
        rng.random(CANDIDATES) < 0.1,
    )


def answer(asked: Request, rules: rerank.Rules, length: int) -> rerank.Arrangement:
    """All score rules, then the arrangement."""
    adjusted = factors.adjusted(
        asked.relevance,
        {
            "freshness": factors.freshness(asked.created_at, NOW, boost=1.5),
            "session": factors.session(asked.vectors, asked.viewed, strength=0.5),
            "business": factors.business(
                CANDIDATES, {"promoted": (asked.promoted, 1.2), "buried": (asked.buried, 0.5)}
            ),
        },
    )
    return rerank.arranged(
        adjusted.relevance, asked.categories, asked.tops, asked.vectors, length=length, page=PAGE, rules=rules
    )


def measure(asked: Request, method: rerank.Method, length: int, repeats: int) -> None:
    """Report p50 and p99, after 20 calls to warm up."""
    call = partial(answer, asked, rerank.Rules(diversity=method), length)
    for _ in range(20):
        call()
    taken = figures.milliseconds(itertools.repeat(call, repeats))
    for percentile, value in zip(("p50", "p99"), taken, strict=True):
        facts = {"candidates": CANDIDATES, "dim": DIM, "viewed": VIEWED}
        figures.report(f"rerank.{method}_{length}_{percentile}", value, "ms", limit=LIMIT_MS, **facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=500, help="calls per figure")
    options = parser.parse_args()
    settings.load()
    asked = request(np.random.default_rng(7))
    for method in ("mmr", "dpp"):
        for length in LENGTHS:
            measure(asked, method, length, options.repeats)


if __name__ == "__main__":
    main()
