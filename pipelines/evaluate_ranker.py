"""Gate G3: is the ranker worth its place? Judged on the newest requests of the holdout, which nothing was fitted on.

Every sorter orders the same candidates of the same requests: the ranker; retrieval's own score; what costs nothing to
run (popularity, what sells in these days, what the visitor had before, the items that go with it by EASE's weights, or
by cosines in a large catalogue); and boosted trees fitted on the same features of the same training requests. A
difference is a mean over requests of the paired difference in NDCG@10; noise means twice its standard error. A ranker
that does not beat what is free does not earn its place, and the gate says so. Retrieval, from whose score the ranker
starts, and XGBoost may be ahead by noise alone; LightGBM is shown and does not decide.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from feature_repo import transforms
from models import artifact, ranker
from pipelines import datasets, ranking_examples, ranking_metrics, ranking_plots, stage, tracking, trees
from pipelines.ranking_examples import Examples
from recsys.settings import Settings

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
FORWARD_ROWS = 500
IMPORTANCE_ROWS = 6_000  # scored once per feature
IMPORTANCE_LENGTH = 40
TAIL_RANK = 0.8  # the less popular four fifths of the catalogue are the tail
REGIONS = 6  # largest regions that have a slice of their own


class Params(stage.Params):
    """The bars."""

    max_ece: float = Field(0.05, gt=0, description="largest expected calibration error of a head")
    max_forward_ms: float = Field(
        50.0, gt=0, description="largest time of one forward pass of 500 rows, of its fastest tenth"
    )
    noise: float = Field(
        2.0, ge=0, description="standard errors that retrieval and XGBoost may be ahead and count as equal"
    )


@dataclass(frozen=True)
class Sorted:
    """NDCG of one sorter: per request at 10 and at 20."""

    at_10: Floats
    at_20: Floats

    def figures(self) -> dict[str, float]:
        ten, error = ranking_metrics.mean_and_error(self.at_10)
        return {"ndcg_10": ten, "ndcg_10_error": error, "ndcg_20": ranking_metrics.mean_and_error(self.at_20)[0]}


def main(params: Params, settings: Settings) -> stage.Result:
    trained = stage.result_of(settings, params.run, "train_ranker")
    root = Path(settings.storage.root).resolve()
    made = artifact.load(root / trained["artifact"]["path"], kind="ranker")
    train, test = (ranking_examples.load(root / trained["examples"] / part) for part in ("train", "test"))
    scorer, blend = ranker.Scorer.load(made.path / "model"), made.manifest.meta["blend"]
    answers = scorer.score(test.inputs())
    finite = all(np.isfinite(values).all() for values in answers.values())
    gains = test.gains(blend)
    sorters = {
        "ranker": ranker.blend(answers, blend),
        "retrieval": test.feature("retrieval_score"),
        **free(test, made.manifest.meta["together"]),
        **trees.scores(train, test, blend, settings.seed),
    }
    judged = {name: _sorted(np.nan_to_num(scores), gains, test) for name, scores in sorters.items()}
    curves = {h: ranking_metrics.reliability(answers[h], test.labels[:, k]) for k, h in enumerate(ranker.CHAIN)}
    latency = forward_ms(scorer, test)
    heads = _heads(answers, curves, test)
    earned, tenths = revenue(answers, test, ranker.Amounts(**made.manifest.meta["amount"]))
    metrics: dict[str, Any] = {name: found.figures() for name, found in judged.items()} | {
        "heads": heads,
        "revenue": earned,
        "forward_ms": latency,
        "requests": len(judged["ranker"].at_10),
        "rows": len(test),
    }
    reasons = verdict(judged, heads, latency["p10"], finite, params)
    sliced = slices(sorters["ranker"], sorters["retrieval"], gains, test)
    drops = importance(scorer, blend, test, settings.seed)
    folder = datasets.run_folder(settings, params.run) / "evaluate_ranker"
    _draw(folder, judged, curves, tenths, drops, sliced)
    passed = not any(reason.startswith("FAILED") for reason in reasons)
    important = sorted(drops.items(), key=lambda pair: -pair[1])
    with tracking.stage_run(settings, params.run, "evaluate_ranker", params.model_dump()) as run:
        run.verdict(passed, reasons, metrics | {"slices": {row["slice"]: row for row in sliced}})
        run.table("ranker_baselines", [{"order by": name, **found.figures()} for name, found in judged.items()])
        run.table("ranker_slices", sliced)
        run.table("ranker_features", [{"feature": name, "ndcg_10 lost": drop} for name, drop in important])
        run.artifacts(folder)
    return {
        "passed": passed,
        "reasons": reasons,
        "metrics": metrics,
        "slices": sliced,
        "importance": dict(important[:25]),
    }


def _sorted(scores: NDArray[Any], gains: Floats, test: Examples) -> Sorted:
    values = scores.astype(np.float64)
    ten, twenty = (ranking_metrics.ndcg(values, gains, test.request, k)[0] for k in (10, 20))
    return Sorted(ten, twenty)


def verdict(
    judged: Mapping[str, Sorted], heads: Mapping[str, Mapping[str, Any]], forward: float, finite: bool, params: Params
) -> list[str]:
    """One line per bar, those missed first and marked FAILED."""
    lines = [(finite, "all answers are finite" if finite else "some answers are NaN or infinite")]
    ours = judged["ranker"].at_10
    if len(ours) == 0:
        return ["FAILED: no request of the test has anything to find; give the holdout more days"]
    for name in sorted(judged.keys() - {"ranker"}):
        ahead, error = ranking_metrics.mean_and_error(ours - judged[name].at_10)
        least = {"retrieval": -params.noise * error, "xgboost": -params.noise * error, "lightgbm": -np.inf}.get(name)
        fine = ahead > 0 if least is None else ahead >= least
        means = f"NDCG@10 {ours.mean():.4f} against {judged[name].at_10.mean():.4f} of {name}"
        lines.append((fine, f"{means}: {ahead:+.4f} ± {error:.4f} over {len(ours)} requests"))
    for head, figures in heads.items():
        limit = f"calibration error of {head} {figures['ece']:.4f}, limit {params.max_ece}"
        lines.append((figures["ece"] <= params.max_ece, limit))
    timing = f"one forward pass of {FORWARD_ROWS} rows {forward:.1f} ms, limit {params.max_forward_ms:.0f}"
    lines.append((forward <= params.max_forward_ms, timing))
    ordered = sorted(lines, key=lambda line: line[0])
    return [text if fine else f"FAILED: {text}" for fine, text in ordered]


def free(test: Examples, together: str) -> dict[str, NDArray[np.float32]]:
    """[n] scores of the sorters that need no training of their own.

    Args:
        together: what the relation "together" of the ranker's neighbours is: "ease" or "cosines".
    """
    popular = test.feature("item_popularity")

    def then_popular(name: str) -> NDArray[np.float32]:
        """A feature, and popularity where it is the same: the place of each such pair among all."""
        pairs = np.column_stack([test.feature(name), popular])
        return np.unique(pairs, axis=0, return_inverse=True)[1].astype(np.float32)

    return {
        "popularity": popular,
        "trend": test.feature("item_popularity_fast"),
        "repeats": then_popular("item_touches"),
        together: then_popular("together_20e"),
    }


def _heads(
    answers: Mapping[str, NDArray[np.float32]],
    curves: Mapping[str, ranking_metrics.Reliability],
    test: Examples,
) -> dict[str, dict[str, Any]]:
    found = {}
    for head, name in enumerate(ranker.CHAIN):
        p, labels = answers[name], test.labels[:, head]
        found[name] = {
            "auc": ranking_metrics.auc(p, labels),
            "ece": curves[name].error,
            "positives": int(labels.sum()),
            "predicted": float(p.mean()),
            "observed": float(labels.mean()),
        }
    return found


def revenue(
    answers: Mapping[str, NDArray[np.float32]], test: Examples, amounts: ranker.Amounts
) -> tuple[dict[str, float | None], ranking_metrics.Reliability]:
    """Revenue per row in average purchases, and what purchases brought in by tenths of what was expected of them.

    The Gini coefficients say how well large purchases are told from small ones: by what the head expects, and by the
    item's price, which is free and has the order of price times any mean quantity. Where the price paid is not known, a
    purchase counts as one, and neither for the coefficients nor for the tenths.
    """
    known, amount = test.amount > 0, amounts.relative(test.amount)
    expected = answers["revenue"][known] / np.maximum(answers["purchase"][known], np.finfo(np.float32).tiny)
    predicted = float(answers["revenue"].mean(dtype=np.float64))
    observed = float(np.where(known, amount, test.labels[:, -1]).mean(dtype=np.float64))
    figures: dict[str, float | None] = {
        "purchases": int(known.sum()),
        "predicted": predicted,
        "observed": observed,
        "ratio": predicted / observed if observed else None,
        "gini": ranking_metrics.gini(expected, amount[known]),
        "gini_of_price": ranking_metrics.gini(test.feature("item_price")[known], amount[known]),
    }
    return figures, ranking_metrics.reliability(expected, amount[known], 10)


def forward_ms(scorer: ranker.Scorer, test: Examples, repeats: int = 60) -> dict[str, float]:
    """Milliseconds of one forward pass of 500 rows after a warm-up: p10, which says what the model costs even where
    other work shares the machine, p50 and p99."""
    rows = np.resize(np.arange(len(test)), FORWARD_ROWS)
    inputs = {name: values[rows] for name, values in test.inputs().items()}
    spent = []
    for _ in range(repeats + 10):
        started = time.perf_counter()
        scorer.score(inputs)
        spent.append(1000 * (time.perf_counter() - started))
    return {f"p{rank}": float(np.percentile(spent[10:], rank)) for rank in (10, 50, 99)}


def slices(ours: NDArray[Any], theirs: NDArray[Any], gains: Floats, test: Examples) -> list[dict[str, Any]]:
    """NDCG@10 of ranker and retrieval order for kinds of users, regions, and items of the tail alone."""
    everywhere = test.strings["region"]
    known, counts = np.unique(everywhere[everywhere != ""].astype(str), return_counts=True)
    regions = known[np.argsort(-counts, kind="stable")][:REGIONS]
    new = test.feature("user_is_new") > 0
    masks = {
        "all": np.ones(len(test), bool),
        "users with a history": ~new,
        "new users": new,
        "tail items only": test.feature("item_popularity_rank") < TAIL_RANK,
        **({f"region {name}": everywhere == name for name in regions} if len(regions) > 1 else {}),
    }
    found = []
    for name, mask in masks.items():
        request = np.unique(test.request[mask], return_inverse=True)[1].astype(np.int64)
        values = [ranking_metrics.ndcg(s[mask].astype(np.float64), gains[mask], request, 10)[0] for s in (ours, theirs)]
        if len(values[0]):
            row = {"ranker": float(values[0].mean()), "retrieval": float(values[1].mean())}
            found.append({"slice": name, "requests": len(values[0]), **row})
    return found


def importance(scorer: ranker.Scorer, blend: Mapping[str, float], test: Examples, seed: int) -> dict[str, float]:
    """What NDCG@10 loses when one feature is shuffled between the rows of a sample of requests (Breiman, 2001).

    A feature that is the same in all rows can lose nothing and is not tried.
    """
    rng = np.random.default_rng([seed, 3])
    # Long lists are thinned to what was chosen and some of the others: more requests for the same cost say more.
    kept = (test.labels[:, 0] > 0) | (rng.random(len(test)) < IMPORTANCE_LENGTH * len(test.time) / len(test))
    thin = test.only(kept)
    bounds = np.searchsorted(thin.request, np.arange(len(thin.time) + 1))
    few = thin.split_at(max(1, int(np.searchsorted(bounds, IMPORTANCE_ROWS))))[0]
    gains = few.gains(blend)
    score = _quality(scorer, blend, few, gains)
    whole = score(few.numeric)
    drops = dict.fromkeys(transforms.RANKING_FEATURES, 0.0)
    for column in np.flatnonzero(np.ptp(few.numeric, axis=0)):
        shuffled = few.numeric.copy()
        shuffled[:, column] = rng.permutation(shuffled[:, column])
        drops[transforms.RANKING_FEATURES[column]] = whole - score(shuffled)
    return drops


def _quality(
    scorer: ranker.Scorer, blend: Mapping[str, float], few: Examples, gains: Floats
) -> Callable[[NDArray[np.float32]], float]:
    def measure(numeric: NDArray[np.float32]) -> float:
        scores = ranker.blend(scorer.score({**few.inputs(), "numeric": numeric}), blend).astype(np.float64)
        return ranking_metrics.mean_and_error(ranking_metrics.ndcg(scores, gains, few.request, 10)[0])[0]

    return measure


def _draw(
    folder: Path,
    judged: Mapping[str, Sorted],
    curves: Mapping[str, ranking_metrics.Reliability],
    tenths: ranking_metrics.Reliability,
    drops: Mapping[str, float],
    sliced: list[dict[str, Any]],
) -> None:
    bars = {name: ranking_metrics.mean_and_error(found.at_10) for name, found in judged.items()}
    ranking_plots.quality(folder / "quality.png", bars, len(judged["ranker"].at_10))
    ranking_plots.calibration(folder / "calibration.png", curves)
    if len(tenths.count):
        ranking_plots.amounts(folder / "amounts.png", tenths)
    ranking_plots.importance(folder / "importance.png", drops)
    ranking_plots.slices(folder / "slices.png", sliced)
