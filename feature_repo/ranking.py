"""The ranking features of (request, item) pairs: numpy only, vectorised, called by training and by serving alike.

`transforms` gives them to callers. One request with 500 candidates and a batch of thousands of requests take the
same path, and no feature looks at the other candidates of a request, so that a training sample and a full list
agree. Names and meanings are in `feature_repo.ranking_table`, the arithmetic of each block in `feature_repo.blocks`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.blocks import affinity, item, links, price, repeat, request, touch, user, visit
from feature_repo.item_matrix import ItemMatrix
from feature_repo.moments import Candidates, Moments, Requests
from feature_repo.ranking_table import BLOCKS, RANKING_FEATURES

# Each gives the columns of its block in order, one by one ([n]) or some at once ([n, some]).
_COMPUTE: Mapping[str, Callable[[Moments], Iterable[NDArray[Any]]]] = {
    "item": item.item,
    "freshness": item.freshness,
    "user": user.user,
    "context": request.context,
    "retrieval": request.retrieval,
    "touch": touch.touch,
    "deeds": touch.deeds,
    "rhythm": touch.rhythm,
    "repeat": repeat.repeat,
    "visit": visit.visit,
    "affinity": affinity.affinity,
    "price": price.price,
    "neighbours": links.neighbours,
}


def ranking_features(requests: Requests, candidates: Candidates, items: ItemMatrix) -> NDArray[np.float32]:
    """Compute `RANKING_FEATURES`: [n, F] float32, finite, one row per candidate; what a block leaves NaN is 0.

    Raises:
        ValueError: a user column is missing, or a history's arrays differ in length.
    """
    moments = Moments.of(requests, candidates, items)
    found = np.empty((len(candidates), len(RANKING_FEATURES)), np.float32)
    start = end = 0
    for name, columns in BLOCKS.items():
        end += len(columns)
        for part in _COMPUTE[name](moments):
            table = part[:, None] if part.ndim == 1 else part
            found[:, start : start + table.shape[1]] = table
            start += table.shape[1]
        if start != end:
            raise AssertionError(f"block {name!r} has {start - end + len(columns)} columns and {len(columns)} names")
    found[~np.isfinite(found)] = 0.0
    return found


def ranking_inputs(requests: Requests, candidates: Candidates, items: ItemMatrix) -> dict[str, NDArray[Any]]:
    """Inputs of the serving signature: numeric [n, F] float32; category, brand, region, surface [n] str."""
    return {
        "numeric": ranking_features(requests, candidates, items),
        "category": items.category[candidates.item],
        "brand": items.brand[candidates.item],
        "region": np.array([*requests.regions, ""], dtype=object)[candidates.request],
        "surface": np.array([*(name or "" for name in requests.surface), ""], dtype=object)[candidates.request],
    }
