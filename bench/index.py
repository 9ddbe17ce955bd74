"""What search costs and finds, by catalogue size, beside exact search in numpy as its peer.

    nice .venv/bin/python -m bench.index [--sizes 5000 20000 100000] [--dim 128]

Prints one JSON line per figure. Vectors are clustered, as embeddings are; uniformly random ones would make any
approximate index look bad.
"""

import argparse
import time
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench import figures
from models import index
from recsys import settings

K = 500
LIMIT_MS = 5.0  # of the 30 ms that retrieval has, the tower needs most
LIMIT_RECALL = 0.95


def vectors(count: int, dim: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit vectors around 500 centres, with fewer directions that matter than dimensions."""
    centres = np.random.default_rng(7).normal(size=(500, dim))
    found = centres[rng.integers(0, len(centres), count)] + 0.7 * rng.normal(size=(count, dim))
    found *= np.linspace(1, 0.1, dim)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def measure(count: int, dim: int) -> None:
    rng = np.random.default_rng(1)
    items, queries = vectors(count, dim, rng), vectors(300, dim, rng)
    started = time.perf_counter()
    built = index.Index.build([f"i{n}" for n in range(count)], items)
    figures.report(f"index.build_{count}", time.perf_counter() - started, "s", leaves=built.settings.leaves)
    p50, p99 = figures.milliseconds(partial(built.search, query[None], K) for query in queries)
    exact, _ = figures.milliseconds(partial(index.exact_search, items, query[None], K) for query in queries)
    figures.report(f"index.search_{count}_p50", p50, "ms", limit=LIMIT_MS, exact_p50_ms=round(exact, 3))
    figures.report(f"index.search_{count}_p99", p99, "ms", limit=LIMIT_MS)
    found, _ = built.search(queries, K)
    truth, _ = index.exact_search(items, queries, K)
    for depth in (20, 100, K):
        shared = [len(set(a[:depth]) & set(b[:depth])) / depth for a, b in zip(found, truth, strict=True)]
        figures.report(f"index.recall_{count}_at_{depth}", float(np.mean(shared)), "share", limit=LIMIT_RECALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000, 100_000])
    parser.add_argument("--dim", type=int, default=128)
    options = parser.parse_args()
    settings.load()
    for count in options.sizes:
        measure(count, options.dim)


if __name__ == "__main__":
    main()
