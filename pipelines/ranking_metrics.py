"""How good a ranking and its probabilities are; numpy only, shared by the training's log and by gate G3."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Values = NDArray[np.floating[Any]]
TIE_SEED = 17


def ndcg(scores: Values, gains: Values, request: Ints, k: int) -> tuple[Floats, Ints]:
    """NDCG@k of each request that has a gain, and the numbers of those requests.

    Linear gain, logarithmic discount; the ideal order is that of the request's own rows. Ties are broken by a fixed
    random order, so that a constant score earns what chance would.

    Args:
        scores, gains: [n]. request: [n] ascending.
    """
    chance = np.random.default_rng(TIE_SEED).random(len(scores))
    return _dcg(scores, gains, chance, request, k), np.unique(request[gains > 0])


def _dcg(scores: Values, gains: Values, chance: Floats, request: Ints, k: int) -> Floats:
    if not len(request):
        return np.zeros(0)
    count = int(request[-1]) + 1
    total = []
    for order in (np.lexsort((chance, -scores, request)), np.lexsort((-gains, request))):
        place = np.arange(len(order)) - np.searchsorted(request, request)
        worth = np.where(place < k, gains[order] / np.log2(place + 2.0), 0.0)
        total.append(np.bincount(request, weights=worth, minlength=count))
    found, ideal = total
    return found[ideal > 0] / ideal[ideal > 0]


def auc(scores: Values, labels: Values) -> float | None:
    """Chance that a positive row scores above a negative one, ties half; None where there is only one kind."""
    wins = int(labels.sum())
    losses = len(labels) - wins
    if wins == 0 or losses == 0:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    return float((middle[place][labels > 0].sum() - wins * (wins + 1) / 2) / (wins * losses))


def gini(scores: Values, amounts: Values) -> float | None:
    """Normalised Gini coefficient: 1 where the scores have the order of the amounts, 0 where they say nothing of it (as
    in Wang et al., 2019); None where all amounts are alike. Rows of equal scores share what they have."""
    excess = amounts - amounts.mean(dtype=np.float64) if len(amounts) else amounts
    if not np.any(excess):
        return None

    def area(order: Values) -> float:
        _, place, counts = np.unique(-order, return_inverse=True, return_counts=True)
        return float(np.cumsum(np.repeat(np.bincount(place, excess) / counts, counts)).sum())

    return area(scores) / area(amounts)


@dataclass(frozen=True)
class Reliability:
    """Predicted against observed, by bins of equal count: [bins] each."""

    predicted: Floats
    observed: Floats
    count: Ints

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of predicted and observed, by count (Naeini et al., 2015)."""
        return float(np.abs(self.predicted - self.observed) @ self.count / max(self.count.sum(), 1))


def reliability(probabilities: Values, labels: Values, bins: int = 15) -> Reliability:
    """Bins of equal count, for most probabilities are small and equal widths would hold them all in one."""
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return Reliability(
        np.array([probabilities[part].mean(dtype=np.float64) for part in parts], np.float64),
        np.array([labels[part].mean(dtype=np.float64) for part in parts], np.float64),
        np.array([len(part) for part in parts], np.int64),
    )


def mean_and_error(values: Floats) -> tuple[float, float]:
    """Mean, and its standard error; 0 and 0 for no values."""
    if not len(values):
        return 0.0, 0.0
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
