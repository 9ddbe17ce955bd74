"""What filling the exploration slots of a page costs, by policy, and what making a policy costs per edition.

    nice .venv/bin/python -m bench.bandits [--arms 200] [--slots 2] [--dim 32]

Prints one JSON line per figure. One arm in ten is not allowed, as items that a visitor has seen are not.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import threadpoolctl

from bench import figures
from models import bandits
from recsys import settings

REQUESTS = 2_000
LIMIT_MS = 2.0  # of the 10 ms that re-ranking has


def measure(name: str, choose: Callable[[str, bandits.Mask, int], object], arms: int, slots: int) -> None:
    rng = np.random.default_rng(2)
    masks = rng.random((REQUESTS, arms)) < 0.9
    calls = (partial(choose, f"request-{number}", mask, slots) for number, mask in enumerate(masks))
    p50, p99 = figures.milliseconds(calls)
    shape = {"arms": arms, "slots": slots, "particles": bandits.PARTICLES}
    figures.report(f"bandits.{name}_p50", p50, "ms", limit=LIMIT_MS, **shape)
    figures.report(f"bandits.{name}_p99", p99, "ms", limit=LIMIT_MS, **shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", type=int, default=200)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--dim", type=int, default=32)
    options = parser.parse_args()
    settings.load()
    rng = np.random.default_rng(1)
    posterior = bandits.Beta(1 + rng.poisson(3, options.arms), 20 + rng.poisson(60, options.arms))
    features = rng.normal(size=(1_000, options.dim))
    known = bandits.Regression.of(features, rng.random(1_000) < 0.1)
    contexts = rng.normal(size=(options.arms, options.dim))

    started = time.perf_counter()
    thompson = bandits.thompson(posterior, "bench", "1")
    figures.report("bandits.thompson_edition", time.perf_counter() - started, "s", arms=options.arms)
    started = time.perf_counter()
    linear = bandits.linear(known, 0.3, "bench", "1")
    figures.report("bandits.linear_edition", time.perf_counter() - started, "s", dim=options.dim)
    greedy = bandits.EpsilonGreedy(posterior.mean, 0.1, "bench", "1")

    def choose_linear(request_id: str, allowed: bandits.Mask, k: int) -> bandits.Choice:
        return linear.on(contexts).choose(request_id, allowed, k)

    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # as in a server
        measure("thompson", thompson.choose, options.arms, options.slots)
        measure("linear", choose_linear, options.arms, options.slots)
        measure("epsilon_greedy", greedy.choose, options.arms, options.slots)


if __name__ == "__main__":
    main()
