"""Gate G1: the towers of the run on the holdout, against baselines and against the live release.

The primary figure is recall@100: retrieval hands hundreds of candidates to the ranker, so what counts is whether
what people want is among them, not in which order. It is taken over all items where the shop's customers buy the
same things again, over items new to each user otherwise. The gate passes if the towers

- find no less of what is new to each user than popularity, decayed popularity and EASE (while the catalogue is small
  enough for it): a deep model that a closed formula beats has not earned its place;
- where customers buy again, have no less among the candidates of the ranker, their first 500, than a list of what
  each customer bought before, filled up with what sells;
- are not worse than the live release beyond `tolerance` and two standard errors of the paired difference;
- have not collapsed in a slice: at least half of the best impersonal baseline, wherever 50 users are;
- reach `min_recall`, if one is demanded.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models import artifact, health, release, two_tower
from pipelines import baselines, datasets, holdout, plots, recall, split, stage, tracking
from recsys.settings import Settings

PRIMARY = 100
CANDIDATES = 500  # as many as the ranker is given
COLLAPSED = 0.5
SMALLEST_SLICE = 50
REGIONS = 5
IMPERSONAL = ("popularity", "decayed popularity")
EASE = "EASE"
REPEATS = ("bought before", "bought before, decayed")
log = logging.getLogger(__name__)


class Params(stage.Params):
    users: int = Field(10_000, ge=1, description="users of the holdout that are asked about, at most")
    min_recall: float = Field(0.0, ge=0, le=1, description="recall@100 that the towers must reach besides")
    ease_items: int = Field(
        baselines.EASE_ITEMS, ge=0, description="items up to which EASE is a baseline; it inverts a matrix of items"
    )
    tolerance: float = Field(0.02, ge=0, description="share by which recall@100 may be below the live release's")


@dataclass(frozen=True)
class Report:
    """All rankers on one trial: figures by view and ranker, the towers first."""

    trial: holdout.Trial
    figures: Mapping[recall.View, Mapping[str, recall.Figures]]
    view: recall.View

    @property
    def primary(self) -> Mapping[str, recall.Figures]:
        return self.figures[self.view]


def main(params: Params, settings: Settings) -> stage.Result:
    """Judge the towers of the run; the verdict is in the result, the exit code says only that judging worked."""
    lake, root = datasets.lake(settings), Path(settings.storage.root).resolve()
    folder = datasets.run_folder(settings, params.run) / "evaluate_retrieval"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = split.holdout(lake, params.day)
    reference = stage.result_of(settings, params.run, "train_retrieval")["artifact"]
    candidate = artifact.load(root / reference["path"], kind="retrieval")
    with tracking.stage_run(settings, params.run, "evaluate_retrieval", params.model_dump()) as run:
        trial = holdout.load(lake, params.day, parts, params.users, settings.seed)
        log.info("%d users, %d items, holdout of %d days", len(trial), len(trial.item_ids), parts.days)
        vectors = embeddings(trial, candidate)
        rankers: dict[str, recall.Ranker] = {"two towers": _dot(*vectors), **baseline_rankers(trial, params.ease_items)}
        champion = live_towers(root, candidate, parts)
        if champion is not None:
            rankers["live release"] = _dot(*embeddings(trial, champion))
        repeats = bool(stage.result_of(settings, params.run, "features")["allow_repeats"])
        report = judge_all(trial, rankers, repeats)
        slices = slice_figures(report)
        reasons, passed = verdict(report, slices, params)
        metrics = {
            "view": report.view,
            "views": {v: {n: f.summary(trial.truth) for n, f in by.items()} for v, by in report.figures.items()},
            "slices": slices,
            "health": {
                "users": health.measure(vectors[0], settings.seed),
                "items": health.measure(vectors[1], settings.seed),
            },
            "users": len(trial),
            "items": len(trial.item_ids),
            "holdout_days": parts.days,
        }
        draw(report, slices, folder)
        run.verdict(passed, reasons, metrics)
        tell(run, report, slices)
        run.artifacts(folder)
    for reason in reasons:
        log.info("%s", reason)
    return {"passed": passed, "reasons": reasons, "metrics": metrics}


def embeddings(trial: holdout.Trial, model: artifact.Artifact) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Users and items of the trial by the towers of an artifact."""
    opened = two_tower.Towers.load(model.path)
    return trial.embed_users(opened, int(model.manifest.meta["history_length"])), trial.embed_items(opened)


def _dot(users: NDArray[np.float32], items: NDArray[np.float32]) -> recall.Ranker:
    return lambda rows: users[rows] @ items.T


def baseline_rankers(trial: holdout.Trial, ease_items: int = baselines.EASE_ITEMS) -> dict[str, recall.Ranker]:
    """The rankings that a counter gives, and that of EASE."""
    items, seen = len(trial.item_ids), trial.interactions
    ever = baselines.popularity(seen, items)
    trend = baselines.decayed_popularity(seen, items)

    def everybody(scores: NDArray[np.float64]) -> recall.Ranker:
        return lambda rows: np.tile(scores, (len(range(*rows.indices(len(trial)))), 1))

    def personal(half_life: float | None) -> recall.Ranker:
        return lambda rows: np.stack(
            [baselines.repeats(seen, user, trend, half_life) for user in range(*rows.indices(len(trial)))]
        )

    found = {
        "popularity": everybody(ever),
        "decayed popularity": everybody(trend),
        REPEATS[0]: personal(None),
        REPEATS[1]: personal(baselines.REPEAT_DAYS),
    }
    if items <= ease_items:
        weights = baselines.ease(seen, items)
        found[EASE] = lambda rows: (
            np.stack([baselines.query(seen, user, items) for user in range(*rows.indices(len(trial)))]) @ weights
        )
    return found


def live_towers(root: Path, candidate: artifact.Artifact, parts: split.Split) -> artifact.Artifact | None:
    """The retrieval artifact that serves, unless there is none, it is the candidate, or it has seen the holdout."""
    releases = release.Releases(root)
    live = releases.live()
    if live is None:
        return None
    found = releases.open(live, "retrieval")
    if found.digest == candidate.digest:
        return None
    if found.manifest.as_of > parts.cutoff.isoformat():
        log.warning("the live release learnt from the holdout (up to %s); not compared", found.manifest.as_of)
        return None
    return found


def judge_all(trial: holdout.Trial, rankers: Mapping[str, recall.Ranker], repeats: bool) -> Report:
    """Measure every ranker under both views."""
    views: tuple[recall.View, ...] = ("all", "new")
    figures = {v: {name: recall.measure(ranker, trial.truth, v) for name, ranker in rankers.items()} for v in views}
    return Report(trial, figures, "all" if repeats else "new")


def slices_of(trial: holdout.Trial) -> dict[str, NDArray[np.bool_]]:
    """Groups of users: by how much is known of them, and by region."""
    size = np.array([len(items) for items, _, _ in trial.histories])
    found = {
        "no history": size == 0,
        "1–4 events": (size >= 1) & (size < 5),
        "5–19 events": (size >= 5) & (size < 20),
        "20+ events": size >= 20,
    }
    regions = np.array([region or "" for region in trial.profile["region"]], object)
    common, counts = np.unique(regions[regions != ""], return_counts=True)
    for region in common[np.argsort(-counts, kind="stable")][:REGIONS]:
        found[str(region)] = regions == region
    return found


def slice_figures(report: Report) -> dict[str, dict[str, Any]]:
    """Recall@100 of every ranker in every slice: slice → {"users": n, "recall": {ranker: mean}}."""
    out: dict[str, dict[str, Any]] = {}
    for name, chosen in slices_of(report.trial).items():
        values = {ranker: f.recall[PRIMARY][chosen] for ranker, f in report.primary.items()}
        out[name] = _slice(values)
    rare = recall.tail(report.trial.truth.share)
    out["tail items"] = _slice(
        {r: recall.target_recall(f, report.trial.truth, report.view, rare) for r, f in report.primary.items()}
    )
    return {name: found for name, found in out.items() if found["users"]}


def _slice(values: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    told = np.isfinite(next(iter(values.values())))
    means = {ranker: float(v[told].mean()) for ranker, v in values.items()} if told.any() else {}
    return {"users": int(told.sum()), "recall": means}


def verdict(report: Report, slices: Mapping[str, Mapping[str, Any]], params: Params) -> tuple[list[str], bool]:
    """The reasons, each a sentence with its figures, and whether all of them are good."""
    means = {n: f.summary(report.trial.truth)[f"recall@{PRIMARY}"] for n, f in report.primary.items()}
    own = means["two towers"]
    judged = [_holds(report, "new", PRIMARY, (*IMPERSONAL, EASE))]
    if report.view == "all":
        judged.append(_holds(report, "all", CANDIDATES, (*IMPERSONAL, *REPEATS)))
    if params.min_recall:
        judged.append((own >= params.min_recall, f"recall@{PRIMARY} {own:.4f}, demanded {params.min_recall:.4f}"))
    if "live release" in means:
        judged.append(_against_live(report, means, params.tolerance))
    judged += [found for name, one in slices.items() if (found := _collapse(name, one)) is not None]
    reasons = [("" if good else "FAILED: ") + text for good, text in judged]
    return reasons, all(good for good, _ in judged)


def _holds(report: Report, view: recall.View, depth: int, rivals: Sequence[str]) -> tuple[bool, str]:
    """Whether the towers find no less than each of the rivals that were measured."""
    found = {name: recall.mean(f.recall[depth]) for name, f in report.figures[view].items()}
    own, rival = found["two towers"], max((name for name in rivals if name in found), key=found.__getitem__)
    good = own >= found[rival]
    others = ", ".join(f"{name} {value:.4f}" for name, value in found.items() if name != "two towers")
    words = "not less than" if good else "less than"
    return good, f"recall@{depth} ({view} items) {own:.4f}, {words} {rival} {found[rival]:.4f}; all: {others}"


def _against_live(report: Report, means: Mapping[str, float], tolerance: float) -> tuple[bool, str]:
    own, live = report.primary["two towers"].recall[PRIMARY], report.primary["live release"].recall[PRIMARY]
    noise = 2.0 * recall.standard_error(own - live)
    allowed = means["live release"] * (1.0 - tolerance) - noise
    good = means["two towers"] >= allowed
    text = f"recall@{PRIMARY} {means['two towers']:.4f}, live release {means['live release']:.4f}"
    return good, f"{text}, at least {allowed:.4f} allowed (tolerance {tolerance:.0%}, noise {noise:.4f})"


def _collapse(name: str, one: Mapping[str, Any]) -> tuple[bool, str] | None:
    """A judgement on a slice that is large enough to judge and where something went wrong; None otherwise."""
    if one["users"] < SMALLEST_SLICE:
        return None
    own, rival = one["recall"]["two towers"], max(one["recall"][ranker] for ranker in IMPERSONAL)
    if own >= COLLAPSED * rival:
        return None
    return False, f"slice {name!r} ({one['users']} users) collapsed: recall@{PRIMARY} {own:.4f}, popularity {rival:.4f}"


def tell(run: tracking.Run, report: Report, slices: Mapping[str, Mapping[str, Any]]) -> None:
    """What compares two runs at a glance: tables, and recall as curves with the length of the list as MLflow's step."""
    summaries = [
        {"view": view, "ranker": name} | figures.summary(report.trial.truth)
        for view, by in report.figures.items()
        for name, figures in by.items()
    ]
    run.table("retrieval_baselines", summaries)
    run.table("retrieval_slices", [{"slice": n, "users": one["users"]} | one["recall"] for n, one in slices.items()])
    for length in recall.CURVE:
        means = {v: {n: recall.mean(f.recall[length]) for n, f in by.items()} for v, by in report.figures.items()}
        run.metrics_at(length, {"recall by length": means})


def draw(report: Report, slices: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Recall against list length for both views, and recall per slice."""
    titles = {"all": "everything may be recommended", "new": "only items new to the user"}
    for view, by in report.figures.items():
        # What a user had before cannot be told from the trend where it is taken out.
        shown = [n for n in by if view == "all" or not n.startswith("bought before")]
        curves = {n: {k: recall.mean(v) for k, v in by[n].recall.items()} for n in shown}
        errors = {k: recall.standard_error(v) for k, v in by["two towers"].recall.items()}
        told = int(np.isfinite(by["two towers"].ndcg).sum())
        plots.recall_curves(folder / f"recall_{view}.png", f"Recall, {titles[view]} ({told:,} users)", curves, errors)
    shown = [name for name in report.primary if name != "bought before"]
    groups = {ranker: {name: one["recall"][ranker] for name, one in slices.items()} for ranker in shown}
    sizes = {name: int(one["users"]) for name, one in slices.items()}
    plots.slice_bars(folder / "slices.png", f"Recall@100 per slice ({titles[report.view]})", groups, sizes)
