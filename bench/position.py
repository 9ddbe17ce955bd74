"""Does the ranker learn what shoppers like, or where it was shown? Judged against the truth of a simulated shop.

    .venv/bin/python -m bench.position [--run RUN]

Takes the examples of a finished `train_ranker` on the simulator (the newest run, if none is named) and shows its lists
anew, the dearest first, as a shop with an eye on its revenue may. Clicks are drawn by the simulator's own rule: a look,
which falls with the place, times a liking, which does not. Then the click head is trained three ways.

Prints Kendall's tau between score and true liking within the lists of the newest requests, mean over lists, beside the
ranker that knows nothing of places, and the calibration error of every probability of the ranker as the run made it.
"""

import argparse
import itertools
import json
import logging
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from bench import figures
from pipelines import datasets, ranking_metrics, split, stage, train_ranker
from recsys import settings as configuration
from recsys.errors import UsageError
from recsys.settings import Settings
from simulator import behaviour, canonical, world

if TYPE_CHECKING:
    from pipelines.ranking_examples import Examples  # TensorFlow, which needs the settings first

MOST_ECE = 0.02
WAYS = ("none", "tower", "propensity")
log = logging.getLogger(__name__)
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="run id; default: the newest run that trained a ranker")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    settings = configuration.load()
    run = datasets.RunId(options.run or newest(settings))
    from models import artifact, ranker
    from pipelines import ranking_examples

    trained = stage.result_of(settings, run, "train_ranker")
    root = Path(settings.storage.root).resolve()
    parts = [ranking_examples.load(root / trained["examples"] / name) for name in ("train", "test")]
    report_calibration(
        ranker.Scorer.load(artifact.load(root / trained["artifact"]["path"], kind="ranker").path / "model"), parts[1]
    )
    params = train_ranker.Params(day=date.fromisoformat(f"{run[:4]}-{run[4:6]}-{run[6:8]}"), run=run)
    shop = world.build(world.Plan(**json.loads((root / "sources" / "simulator" / canonical.META).read_text())["plan"]))
    liking = [truth(shop, examples, asked) for examples, asked in zip(parts, requests(settings, params), strict=True)]
    rng = np.random.default_rng(settings.seed)
    shown = [show(part, logit, rng) for part, logit in zip(parts, liking, strict=True)]
    reached: dict[str, Floats] = {}
    for way in WAYS:
        reached[way] = reach(shown[0], shown[1], liking[1], params.model_copy(update={"debias": way}), settings.seed)
        ahead, error = ranking_metrics.mean_and_error(reached[way] - reached["none"])
        tau = float(reached[way].mean())
        figures.report(
            "position.kendall_tau",
            tau,
            "tau",
            peer=float(reached["none"].mean()),
            debias=way,
            ahead=round(ahead, 4),
            error=round(error, 4),
            lists=len(reached[way]),
        )


def newest(settings: Settings) -> str:
    """The run of the newest result of `train_ranker`.

    Raises:
        UsageError: there is none.
    """
    found = sorted(Path(settings.storage.root).glob("runs/*/train_ranker.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError("no run has trained a ranker; `make run` makes one on the simulated shop")
    return found[-1].parent.name


def requests(settings: Settings, params: train_ranker.Params) -> list[pd.DataFrame]:
    """Who asked, for the training and for the test examples: the same draw as the stage's."""
    from pipelines import ranker_training, ranking_requests

    lake = datasets.lake(settings)
    cut = split.holdout(lake, params.day)
    judged = ranking_requests.read(lake, cut.cutoff, cut.end)
    border = cut.cutoff.timestamp() + ranker_training.TRAIN_SHARE * (cut.end - cut.cutoff).total_seconds()
    return [part.requests for part in ranker_training.sample(judged, border, params, settings.seed)]


def truth(shop: world.World, examples: "Examples", asked: pd.DataFrame) -> Floats:
    """[n] log odds that the visitor clicks on each row's item when it is looked at; NaN for anonymous visitors."""
    user = np.array([int(name[1:]) if name else -1 for name in asked["user_id"]])[examples.request]
    item = np.array([int(name[1:]) for name in examples.item_id])
    start = shop.plan.start_us / 1e6
    day = ((asked["time"].to_numpy() - start) // 86_400).astype(int)[examples.request]
    found = np.full(len(examples), np.nan)
    for index in np.unique(day):
        rows = (day == index) & (user >= 0)
        tastes = shop.shoppers.taste_at(index / shop.plan.days)
        found[rows] = shop.click_logit(tastes, user[rows], item[rows], int(index))
    return found


def show(examples: "Examples", liking: Floats, rng: np.random.Generator) -> "Examples":
    """The lists with the dearest first, and the clicks that come of it; rows of anonymous visitors go."""
    known = examples.only(np.isfinite(liking))
    liking = liking[np.isfinite(liking)]
    order = np.lexsort((rng.random(len(known)), -known.feature("item_price"), known.request))
    place = np.empty(len(known), np.int32)
    place[order] = np.arange(len(known)) - np.searchsorted(known.request, known.request)
    looked = rng.random(len(known)) < world.attention()[np.minimum(place, world.SLOTS - 1)]
    clicked = looked & (rng.random(len(known)) < behaviour.sigmoid(liking))
    labels = np.zeros_like(known.labels)
    labels[:, 0] = clicked
    return replace(known, position=place, labels=labels, amount=np.zeros_like(known.amount))


def reach(train: "Examples", test: "Examples", liking: Floats, params: train_ranker.Params, seed: int) -> Floats:
    """[lists] agreement with the truth of a click head that is trained on some lists, on the lists of others."""
    from pipelines import ranker_training

    model, _ = ranker_training.fit(*train.tail(), params.model_copy(update={"listwise": 0.0}), seed)
    return agreement(ranker_training.outputs_of(model, test)[:, 0], liking, test.request)


def agreement(score: Floats, liking: Floats, request: NDArray[np.int64]) -> Floats:
    """[lists] Kendall's tau-b of score and truth; lists of one row have none."""
    liking = liking[np.isfinite(liking)]
    bounds = np.flatnonzero(np.diff(request, prepend=-1, append=request[-1] + 1))
    lists = itertools.pairwise(bounds)
    found = [stats.kendalltau(score[a:b], liking[a:b]).statistic for a, b in lists if b - a > 1]
    return np.array([tau for tau in found if np.isfinite(tau)])


def report_calibration(scorer: Any, test: "Examples") -> None:
    from models import ranker

    answers = scorer.score(test.inputs())
    for head, name in enumerate(ranker.CHAIN):
        error = ranking_metrics.reliability(answers[name], test.labels[:, head]).error
        figures.report("position.calibration_error", error, "probability", limit=MOST_ECE, head=name, rows=len(test))


if __name__ == "__main__":
    main()
