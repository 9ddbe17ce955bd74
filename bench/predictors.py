"""What the live release's predictors take per call, over the wire, one request after another.

    nice .venv/bin/python -m bench.predictors [--requests 500]

Needs a running platform with a live release. Prints one JSON line per figure: p50 and p99 of whole calls as a
client sees them, beside the limit, and the p50 of each stage inside. Ranking is told who asks by retrieval's answer, as
it is by the API. Beside them, what reading the features of the same candidates through Feast would take, which is why
the ranking predictor has them in memory.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import figures
from feature_repo import names, online, store
from models import catalogue
from models.release import Releases
from pipelines import datasets
from recsys import settings as configuration
from recsys.errors import UsageError
from recsys.inference import RankingRequest, RankingResponse, RetrievalRequest, RetrievalResponse
from recsys.inference_client import BlockingClient
from recsys.settings import Settings

K = 500
MATRIX_ROWS = 5_000  # items of a middling shop; looking up rows takes the same of any number
LIMITS_MS = {"retrieval": 6.0, "ranking": 8.0}  # p50 on an idle core; the budgets of the request path are 50 and 50

Answer = RetrievalResponse | RankingResponse


def measure(role: str, call: Callable[[int], Answer], requests: int) -> None:
    """Time a call per request number, after a few that are not counted."""
    for number in range(10):
        call(number)
    taken, stages = [], defaultdict(list)
    for number in range(requests):
        started = time.perf_counter()
        answer = call(number)
        taken.append(1000 * (time.perf_counter() - started))
        for stage, milliseconds in answer.timings.items():
            stages[stage].append(milliseconds)
    p50, p99 = np.percentile(taken, [50, 99]).tolist()
    figures.report(f"predictors.{role}_p50", p50, "ms", limit=LIMITS_MS[role], k=K)
    figures.report(f"predictors.{role}_p99", p99, "ms", k=K)
    for stage, values in stages.items():
        figures.report(f"predictors.{role}_{stage}_p50", float(np.percentile(values, 50)), "ms", k=K)


def from_memory_or_store(settings: Settings, candidates: Sequence[NDArray[np.object_]], requests: int) -> None:
    """Time reading the item features of candidates through Feast's own client, beside looking them up in memory."""
    features = store.connect(settings, online.WRITE_TIMEOUT)
    matrix = np.random.default_rng(settings.seed).random((MATRIX_ROWS, len(names.ITEM_STATS)), np.float32)
    rows = np.random.default_rng(settings.seed).integers(0, len(matrix), (len(candidates), len(candidates[0])))
    read, looked = [], []
    for number in range(requests):
        some = number % len(candidates)
        started = time.perf_counter()
        store.read_online(features, "items_v1", "item_id", candidates[some].tolist())
        read.append(1000 * (time.perf_counter() - started))
        started = time.perf_counter()
        matrix[rows[some]]
        looked.append(1000 * (time.perf_counter() - started))
    (p50, p99), memory = np.percentile(read, [50, 99]).tolist(), float(np.median(looked))
    figures.report("predictors.feast_items_p50", p50, "ms", peer=memory, k=len(candidates[0]), peer_is="in memory")
    figures.report("predictors.feast_items_p99", p99, "ms", k=len(candidates[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    options = parser.parse_args()
    settings = configuration.load()
    root = Path(settings.storage.root).resolve()
    release = Releases(root).live()
    if release is None:
        raise UsageError("nothing is live; `make run` brings a release live first")
    lake = datasets.lake(settings)
    users = lake.read(datasets.USERS, lake.days(datasets.USERS)[-1], ["user_id"]).column("user_id").to_pylist()
    items = catalogue.read(root / release.artifacts["catalogue"].path, {}).ids
    rng = np.random.default_rng(settings.seed)
    asked = rng.choice(users, options.requests + 10).tolist()
    scores = np.linspace(1, 0.1, min(K, len(items)), dtype=np.float32)
    candidates = [rng.choice(items, len(scores), replace=False) for _ in range(20)]
    with (
        BlockingClient(settings.predictor_address("retrieval", release.colour)) as retrieval,
        BlockingClient(settings.predictor_address("ranking", release.colour)) as ranking,
    ):
        measure("retrieval", lambda n: retrieval.retrieve(RetrievalRequest(asked[n], k=K)), options.requests)
        known = [retrieval.retrieve(RetrievalRequest(user, k=1)).visitor for user in asked]

        def rank(number: int) -> Answer:
            return ranking.rank(RankingRequest(candidates[number % 20], scores, asked[number], visitor=known[number]))

        measure("ranking", rank, options.requests)
    from_memory_or_store(settings, candidates, min(options.requests, 100))


if __name__ == "__main__":
    main()
