"""A shop of three items that a reader can hold in mind, and the ranking features of its visitors."""

import math
from typing import Any

import numpy as np

from feature_repo import names, transforms
from feature_repo.neighbours import NOBODY, Neighbours

NOW = 1_700_000_000.0  # a Tuesday, 22:13 UTC
DAY = 86_400.0
MUG, LAMP, POSTER = 0, 1, 2


def shop(neighbours: Neighbours = NOBODY, **changed: Any) -> transforms.ItemMatrix:
    """A mug and a lamp of brand Acme, and a poster, sold in France only, that nobody has priced."""
    columns: dict[str, Any] = {
        "item_id": ["mug", "lamp", "poster"],
        "category": ["Home > Kitchen", "Home > Light", "Art"],
        "brand": ["Acme", "Acme", None],
        "tags": [["Tea"], [], None],
        "price": [9.0, 99.0, math.nan],
        "regions": [[], None, ["FR"]],
        "created_at": np.array([NOW - 100 * DAY, NOW - DAY, np.nan]),
        "item_last_event_time": [NOW - 2 * DAY, 0, 0],
        "stats_time": [NOW - DAY] * 3,
        **{name: [0.0, 0.0, math.nan] for name in names.ITEM_STATS},
        "popularity": [10.0, 5.0, 0.0],
    }
    return transforms.item_matrix(columns | changed, neighbours)


def users(count: int = 1, **known: Any) -> dict[str, Any]:
    """`count` users of whom nothing is known, unless given."""
    nobody = {name: [None] * count for name in transforms.USER_COLUMNS} | {"user_id": [""] * count}
    return nobody | known


def history(*past: tuple[str, str, float]) -> dict[str, Any]:
    """The history columns of one user, from (item, event, days ago)."""
    return {
        "user_id": ["ann"],
        "history_items": [[item for item, _, _ in past]],
        "history_events": [[event for _, event, _ in past]],
        "history_times": [[int(NOW - days * DAY) for _, _, days in past]],
    }


def requests(known: dict[str, Any] | None = None, region: str = "") -> transforms.Requests:
    return transforms.Requests(users(**(known or {})), np.array([NOW]), [region], ["home"])


def candidates(items: list[int], rank: list[int] | None = None, request: list[int] | None = None) -> Any:
    return transforms.Candidates(
        np.array(request or [0] * len(items)),
        np.array(items),
        np.linspace(0.9, 0.1, len(items)),
        np.array(rank or range(len(items))),
    )


def features(known: dict[str, Any] | None = None, region: str = "", matrix: Any = None) -> dict[str, list[float]]:
    """Per feature, its value for the mug, the lamp, the poster and an unknown item."""
    found = transforms.ranking_features(requests(known, region), candidates([0, 1, 2, -1]), matrix or shop())
    return {name: found[:, k].tolist() for k, name in enumerate(transforms.RANKING_FEATURES)}
