"""What a linear bandit knows of a shopper and an arm: a few numbers, the same in every process.

They are kept for a day beside the response that explored with them (`arms:context:<request_id>`, JSON), because an
outcome teaches only together with the numbers that led to it.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from feature_repo import online
from feature_repo.events import top_category
from serving.api.visit import Visit

Floats = NDArray[np.float64]

# Another list, or another meaning of one, needs another name: statistics of the old one say nothing about it.
NAME = "arms-1"
FEATURES = ("one", "likeness", "popularity", "newness", "price", "favourite")
SECONDS = online.SECONDS_PER_DAY


def of(visit: Visit, rows: NDArray[np.int64], query: NDArray[np.float32] | None) -> Floats:
    """[n, FEATURES] in about -1..1.

    Args:
        visit: the request.
        rows: [n] catalogue rows of the arms.
        query: [dim] the shopper's vector; None where retrieval did not serve.
    """
    live = visit.live
    liked = [*visit.shopper.preferences, *visit.shopper.profile.favourites[:3]]
    tops = {top_category(name) for name in liked}
    codes = [live.top_codes[name] for name in tops if name in live.top_codes]
    return np.stack(
        [
            np.ones(len(rows)),
            live.vectors[rows] @ query if query is not None else np.zeros(len(rows)),
            live.popularity_rank[rows],
            live.is_new[rows].astype(np.float64),
            live.price_rank[rows],
            np.isin(live.tops[rows], codes).astype(np.float64),
        ],
        axis=1,
    )


def key(request_id: str) -> str:
    return f"arms:context:{request_id}"


def encode(found: Mapping[str, Sequence[float]]) -> bytes:
    """The contexts of the explored items of a response."""
    return json.dumps({item: [round(float(value), 6) for value in row] for item, row in found.items()}).encode()


def decode(value: bytes | None) -> dict[str, list[float]]:
    """What `encode` wrote; nothing for a response that is not known, or of another version."""
    found: dict[str, list[float]] = json.loads(value) if value else {}
    return {item: row for item, row in found.items() if len(row) == len(FEATURES)}
