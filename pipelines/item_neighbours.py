"""Fit which items go with which, from what visitors had before a cutoff: the relations of `ranking_table.RELATIONS`."""

import logging
from collections.abc import Iterator
from typing import Literal

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from feature_repo.neighbours import Links, Neighbours
from pipelines import baselines
from pipelines.baselines import EASE_ITEMS, Interactions

KEPT = 64  # neighbours per item; more of EASE's weights rank no better on films and on a gift shop
SHRINKAGE = 10.0  # visitors in common below which a cosine is not to be trusted
REACH = 10  # later events that an item leads to
LEAD_EVENTS = 4.0  # half-life of how strongly
FEW_LEADS = 3.0  # sum of leads below which they are not to be trusted
BLOCK = 2_000  # items whose co-occurrences are in memory at once
log = logging.getLogger(__name__)


def fit(seen: Interactions, item_ids: list[str], ease_items: int = EASE_ITEMS) -> Neighbours:
    """The strongest neighbours of every item.

    Args:
        seen: sorted by visitor.
        ease_items: largest catalogue whose relation "together" are the weights of EASE; above, shrunk cosines.
    """
    count = len(item_ids)
    if together(count, ease_items) == "ease":
        related = strongest(baselines.ease(seen, count))
    else:
        log.info("%d items are more than the %d that EASE is fitted on; cosines of co-occurrence", count, ease_items)
        related = cosines(seen, count)
    return Neighbours(np.array(item_ids), {"together": related, "next": followers(seen, count)})


def together(items: int, ease_items: int) -> Literal["ease", "cosines"]:
    """What the relation "together" is in a catalogue of some size."""
    return "ease" if items <= ease_items else "cosines"


def strongest(weights: NDArray[np.float32]) -> Links:
    """The largest positive weights of each row of [items, items]."""
    kept = min(KEPT, len(weights))
    other = np.argpartition(-weights, kept - 1, axis=1)[:, :kept]
    return _links(other, np.take_along_axis(weights, other, 1))


def cosines(seen: Interactions, count: int) -> Links:
    """Cosine of the visitors of two items; one that rests on n common visitors is multiplied by n / (n + 10) (Bell
    and Koren, KDD Cup 2007)."""
    had = baselines.incidence(seen, count)
    size = np.sqrt(np.maximum(np.asarray(had.sum(0)).ravel(), 1.0))

    def blocks() -> Iterator[scipy.sparse.coo_matrix]:
        for start in range(0, count, BLOCK):
            common = (had[:, start : start + BLOCK].T @ had).tocoo()
            row = start + common.row
            value = common.data / size[row] / size[common.col] * common.data / (common.data + SHRINKAGE)
            yield scipy.sparse.coo_matrix((value * (row != common.col), (row, common.col)), shape=(count, count))

    return _largest(blocks(), count)


def followers(seen: Interactions, count: int) -> Links:
    """What comes soon after an item: each of a visitor's next `REACH` events, one that is d events away for 2^(-(d -
    1) / 4). The sum L over all visitors is divided by the root of both items' events, and shrunk by L / (L + 3)."""
    order = np.lexsort((-seen.age, seen.visitor))
    visitor, item = seen.visitor[order], seen.item[order]
    total = scipy.sparse.csr_matrix((count, count))
    for steps in range(1, REACH + 1):
        pair = np.flatnonzero((visitor[steps:] == visitor[:-steps]) & (item[steps:] != item[:-steps]))
        lead = np.full(len(pair), np.exp2(-(steps - 1) / LEAD_EVENTS))
        total = total + scipy.sparse.csr_matrix((lead, (item[pair], item[pair + steps])), shape=(count, count))
    size = np.sqrt(np.maximum(np.bincount(item, minlength=count), 1.0))
    found = total.tocoo()
    found.data *= found.data / (found.data + FEW_LEADS) / size[found.row] / size[found.col]
    return _largest([found], count)


def _largest(parts: Iterator[scipy.sparse.coo_matrix] | list[scipy.sparse.coo_matrix], count: int) -> Links:
    """The largest values of each row of a matrix that comes in parts of whole rows."""
    kept = min(KEPT, count)
    other, weight = np.zeros((count, kept), np.int64), np.zeros((count, kept), np.float32)
    for part in parts:
        order = np.lexsort((-part.data, part.row))
        row, column, value = part.row[order], part.col[order], part.data[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        best = place < kept
        other[row[best], place[best]], weight[row[best], place[best]] = column[best], value[best]
    return _links(other, weight)


def _links(other: NDArray[np.int64], weight: NDArray[np.float32]) -> Links:
    return Links(np.where(weight > 0, other, -1).astype(np.int32), np.maximum(weight, 0.0))
