"""Fit which items go with which, from what visitors had before a cutoff."""

import logging

import numpy as np
from numpy.typing import NDArray

from feature_repo.neighbours import Neighbours
from pipelines import baselines
from pipelines.baselines import EASE_ITEMS, Interactions

KEPT = 64  # neighbours per item; more of EASE's weights rank no better on films and on a gift shop
SHRINKAGE = 10.0  # visitors in common below which a cosine is not to be trusted
BLOCK = 2_000  # items whose co-occurrences are in memory at once
log = logging.getLogger(__name__)


def fit(seen: Interactions, item_ids: list[str], ease_items: int = EASE_ITEMS) -> Neighbours:
    """The strongest weights of EASE, or, in a catalogue too large for it, shrunk cosines of co-occurrence.

    A cosine of n common visitors is multiplied by n / (n + 10) (Bell and Koren, KDD Cup 2007).
    """
    count = len(item_ids)
    kept = min(KEPT, max(count - 1, 1))
    if count <= ease_items:
        other, weight = _strongest(baselines.ease(seen, count), kept)
    else:
        log.info("%d items are more than the %d that EASE is fitted on; cosines of co-occurrence", count, ease_items)
        other, weight = _cosines(seen, count, kept)
    return Neighbours(np.array(item_ids), np.where(weight > 0, other, -1).astype(np.int32), np.maximum(weight, 0.0))


def _strongest(weights: NDArray[np.float32], kept: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns and values of the `kept` largest weights of each row."""
    other = np.argpartition(-weights, kept - 1, axis=1)[:, :kept]
    return other, np.take_along_axis(weights, other, 1)


def _cosines(seen: Interactions, count: int, kept: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    had = baselines.incidence(seen, count)
    size = np.sqrt(np.maximum(np.asarray(had.sum(0)).ravel(), 1.0)).astype(np.float32)
    other, weight = np.zeros((count, kept), np.int64), np.zeros((count, kept), np.float32)
    for start in range(0, count, BLOCK):
        common = (had[:, start : start + BLOCK].T @ had).tocoo()
        value = common.data / size[start + common.row] / size[common.col] * common.data / (common.data + SHRINKAGE)
        value[common.col == start + common.row] = 0.0
        order = np.lexsort((-value, common.row))
        row, column, value = common.row[order], common.col[order], value[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        best = place < kept
        other[start + row[best], place[best]], weight[start + row[best], place[best]] = column[best], value[best]
    return other, weight
