"""What the history leads to, by the items that go together and those that come next: block "neighbours"."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.groups import Floats, Ints
from feature_repo.moments import Histories, Moments
from feature_repo.neighbours import Links
from feature_repo.ranking_table import HALF_LIVES_EVENTS, NEIGHBOURS, RELATIONS

HALF_LIFE_DAYS = 7.0


def neighbours(m: Moments) -> Iterator[NDArray[Any]]:
    past, wanted, count = m.histories, m.candidates, len(m.requests)
    found = np.zeros((len(wanted), len(NEIGHBOURS)), np.float32)
    order = np.argsort(wanted.request, kind="stable")
    asked = np.searchsorted(wanted.request[order], np.arange(count + 1))
    place = np.full(len(m.items) + 1, -1, np.int64)
    for request in np.flatnonzero((np.diff(past.bounds) > 0) & (np.diff(asked) > 0)):
        rows = order[asked[request] : asked[request + 1]]
        events = slice(past.bounds[request], past.bounds[request + 1])
        weights = _weights(past, events)
        item = wanted.item[rows]
        place[item] = np.arange(len(rows))
        place[-1] = -1  # no item
        scores = [
            _led_to(m.items.links[relation], past.item[events], past.visit[events] == 0, weights, place, len(rows))
            for relation in RELATIONS
        ]
        found[rows] = np.concatenate(scores, axis=1)[place[item]]
        place[item] = -1
    yield found


def _weights(past: Histories, events: slice) -> Floats:
    """[events, sums] how much each event of a request counts in each sum."""
    ago, age = past.ago[events], past.age[events]
    halved = np.exp2(-ago[:, None] / np.array(list(HALF_LIVES_EVENTS.values())))
    return np.column_stack([halved, np.exp2(-age / HALF_LIFE_DAYS), past.wanted[events], ago == 0])


def _led_to(links: Links, item: Ints, visit: NDArray[np.bool_], weights: Floats, place: Ints, size: int) -> Floats:
    """What one request's history leads to: [size + 1, columns of a relation], the last row for an unknown item.

    Args:
        item, visit: [events] row of the item, whether in the last visit. weights: of `_weights`.
        place: [items + 1] row of the result, -1 for an item that nobody asks about.
    """
    to = place[links.other[item]].ravel()
    hit = np.flatnonzero(to >= 0)
    event, slot = np.divmod(hit, links.other.shape[1])
    to, weight = to[hit], links.weight[item[event], slot].astype(np.float64)
    best, in_visit = np.zeros((2, size + 1))
    np.maximum.at(best, to, weight)
    recent = visit[event]
    np.maximum.at(in_visit, to[recent], weight[recent])
    kinds = weights.shape[1]
    cell = to[:, None] * kinds + np.arange(kinds)
    sums = np.bincount(cell.ravel(), (weight[:, None] * weights[event]).ravel(), (size + 1) * kinds)
    count = np.bincount(to, minlength=size + 1)
    return np.column_stack([sums.reshape(-1, kinds), best, in_visit, np.log1p(count)])
