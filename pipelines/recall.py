"""Figures of a ranking over the whole catalogue against what people then did; no sampled negatives.

Per visitor, then a plain mean: recall@k = hits among the first k / targets; NDCG@k divides by the best a list of
k could do. View `all`: what a visitor had before may be recommended and counts. View `new`: it is taken out of
the ranking and out of the targets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DEPTHS = (20, 100, 500)
CURVE = (5, 10, 20, 50, 100, 200, 500)
NDCG_AT = 20
AT_ONCE = 256  # visitors whose scores of all items are in memory

View = Literal["all", "new"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Ranker = Callable[[slice], NDArray[np.floating]]


@dataclass(frozen=True)
class Truth:
    """What each visitor had before, and did after.

    Attributes:
        seen, targets: per visitor, distinct rows of the catalogue.
        share: [items] popularity before the cutoff, summing to 1.
    """

    seen: Sequence[Ints]
    targets: Sequence[Ints]
    share: Floats


@dataclass(frozen=True)
class Figures:
    """One ranker under one view; arrays are per visitor, NaN for a visitor without targets.

    Attributes:
        recall: by depth of CURVE. ndcg: at 20.
        top: [visitors, 20] rows recommended first.
        found: per visitor, the targets among the first 100.
    """

    recall: Mapping[int, Floats]
    ndcg: Floats
    top: Ints
    found: Sequence[Ints]

    def summary(self, truth: Truth) -> dict[str, float]:
        """Means, with the standard error of the primary figure, coverage and novelty of the first 20."""
        told = np.isfinite(self.ndcg)
        out = {f"recall@{depth}": mean(self.recall[depth]) for depth in DEPTHS}
        out[f"ndcg@{NDCG_AT}"] = mean(self.ndcg)
        out["recall@100_se"] = standard_error(self.recall[100])
        out["coverage@20"] = len(np.unique(self.top[told])) / max(len(truth.share), 1)
        out["novelty@20"] = float(-np.log2(np.maximum(truth.share[self.top[told]], 1e-9)).mean()) if told.any() else 0.0
        return out


def mean(values: Floats) -> float:
    """Over the visitors that have a value; 0 where none has."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def standard_error(values: Floats) -> float:
    """Of the mean over the visitors that have a value; 0 for fewer than two."""
    n = int(np.isfinite(values).sum())
    return float(np.nanstd(values, ddof=1) / np.sqrt(n)) if n > 1 else 0.0


def measure(ranker: Ranker, truth: Truth, view: View) -> Figures:
    """Rank the catalogue for every visitor and compare with the targets.

    Args:
        ranker: gives the scores [visitors of the slice, items].
        truth: of all visitors.
        view: see the module.
    """
    visitors, items = len(truth.targets), len(truth.share)
    depth = min(max(CURVE), items)
    recall = {k: np.full(visitors, np.nan) for k in CURVE}
    ndcg = np.full(visitors, np.nan)
    top = np.zeros((visitors, min(NDCG_AT, items)), np.int64)
    found: list[Ints] = []
    discount = 1.0 / np.log2(np.arange(2, NDCG_AT + 2))
    for start in range(0, visitors, AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, visitors))
        scores = np.array(ranker(rows), np.float32)
        if view == "new":
            for row, seen in enumerate(truth.seen[rows]):
                scores[row, seen] = -np.inf
        lists = best(scores, depth)
        for row, ranked in enumerate(lists, start):
            targets = wanted(truth, row, view)
            hit = np.isin(ranked, targets)
            top[row] = ranked[: top.shape[1]]
            found.append(ranked[:100][hit[:100]])
            if len(targets):
                reached = np.cumsum(hit)
                for k in CURVE:
                    recall[k][row] = reached[min(k, depth) - 1] / len(targets)
                first = hit[:NDCG_AT]
                ndcg[row] = discount[: len(first)] @ first / discount[: min(len(targets), NDCG_AT)].sum()
    return Figures(recall, ndcg, top, found)


def wanted(truth: Truth, visitor: int, view: View) -> Ints:
    """The targets of a visitor under a view."""
    targets = truth.targets[visitor]
    return targets if view == "all" else np.setdiff1d(targets, truth.seen[visitor])


def best(scores: NDArray[np.float32], k: int) -> Ints:
    """[n, k] columns of the highest scores, best first, equal ones by column."""
    chosen = (
        np.argpartition(-scores, k - 1, axis=1)[:, :k]
        if k < scores.shape[1]
        else np.tile(np.arange(scores.shape[1]), (len(scores), 1))
    )
    chosen.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, chosen, 1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, 1)


def tail(share: Floats) -> NDArray[np.bool_]:
    """[items] which are in the tail: all but the most popular items that make up half of all interactions."""
    order = np.argsort(-share, kind="stable")
    head = np.searchsorted(np.cumsum(share[order]), 0.5) + 1
    found = np.ones(len(share), bool)
    found[order[:head]] = False
    return found


def target_recall(figures: Figures, truth: Truth, view: View, chosen: NDArray[np.bool_]) -> Floats:
    """Recall@100 counted over the chosen items alone, per visitor; NaN for one without such a target."""
    out = np.full(len(truth.targets), np.nan)
    for row, hits in enumerate(figures.found):
        targets = wanted(truth, row, view)
        of_them = int(chosen[targets].sum())
        if of_them:
            out[row] = chosen[hits].sum() / of_them
    return out
