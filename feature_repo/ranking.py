"""The ranking features of (request, item) pairs: numpy only, vectorised, called by training and by serving alike.

`transforms` gives them to callers. One request with 500 candidates and a batch of thousands of requests take the
same path, so that the two cannot drift apart. The names and meanings are in `feature_repo.ranking_table`.

Strings become integer codes once per catalogue, in `ItemMatrix`; code 0 means "none" and matches nothing. Every
array of the matrix has one row more than the catalogue, the last, for items that it does not hold.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import events, names
from feature_repo.ranking_table import (
    AFFINITY,
    BLOCKS,
    HALF_LIVES_DAYS,
    ITEM,
    RANKING_FEATURES,
    SCOPES,
    TOUCH,
    USER,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
DAY = 86_400.0
MAX_AGE_DAYS = 30.0
NOT_RETRIEVED = 8.0  # log1p of a rank of about 3,000, the most that retrieval returns
ITEM_COLUMNS = (
    *("item_id", "category", "brand", "tags", "price", "regions", "created_at"),
    *names.ITEM_STATS,
    *("item_last_event_time", "stats_time"),
)
USER_COLUMNS = (
    *("user_id", "region", "signup_time", "preferences", "history_items", "history_events", "history_times"),
    *names.USER_ACTIVITY,
    *("first_event_time", "activity_time"),
    *("categories", "category_weights", "top_categories", "top_category_weights", "brands", "brand_weights"),
)


@dataclass(frozen=True)
class ItemMatrix:
    """All that ranking needs of the items of one catalogue; build it with `item_matrix`, once per release.

    Attributes:
        row_of: row of an item id.
        category, brand: [items + 1] str, inputs of the model; "" where unknown.
        codes: by scope of `ranking_table.SCOPES`, [items + 1] int64, 1 and up; 0 where unknown.
        code_of: by scope, code of an id, category path, top category or brand.
        term_of, terms: code of a casefolded category part or tag; [items + 1, most terms] int64, padded with 0.
        static: [items + 1, block "item"] float32, features that do not depend on the request.
        log_price: [items + 1] float64, NaN where unknown.
        created, last_event, stats_time: [items + 1] float64 epoch seconds, NaN where unknown.
        region_of, allowed, named: code of a region; [regions + 1, items + 1] bool, may be shown there, names it.
    """

    row_of: Mapping[str, int]
    category: NDArray[np.object_]
    brand: NDArray[np.object_]
    codes: Mapping[str, Ints]
    code_of: Mapping[str, Mapping[str, int]]
    term_of: Mapping[str, int]
    terms: Ints
    static: NDArray[np.float32]
    log_price: Floats
    created: Floats
    last_event: Floats
    stats_time: Floats
    region_of: Mapping[str, int]
    allowed: NDArray[np.bool_]
    named: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row_of)

    def rows(self, item_ids: Iterable[str]) -> Ints:
        """Rows of item ids, -1 where an id is unknown."""
        return np.fromiter((self.row_of.get(item_id, -1) for item_id in item_ids), np.int64)


@dataclass(frozen=True)
class Requests:
    """One entry per request.

    Attributes:
        users: what Feast returns for feature service `ranking_v1`, online (`to_dict()`) or offline (columns of the
            frame): `USER_COLUMNS`, one value per request, None or NaN where unknown. `user_id`, which `store.read_online` leaves out, is "" for an
            anonymous visitor, whose `history_*` come from `session_v1`.
        now: [requests] float64 epoch seconds; events of a history from that moment on are not looked at.
        region: where the request comes from, "" where unknown: then the profile's.
        surface: home, similar, … ; "" where unknown.
    """

    users: Mapping[str, Sequence[Any]]
    now: Floats
    region: Sequence[str]
    surface: Sequence[str]

    def __len__(self) -> int:
        return len(self.now)


@dataclass(frozen=True)
class Candidates:
    """One entry per (request, item) pair, in any order.

    Attributes:
        request: [n] index of the request.
        item: [n] row of the item matrix, -1 for an item that it does not hold.
        score: [n] inner product of the towers.
        rank: [n] place in retrieval's order, 0 the best, -1 where retrieval did not return the item.
    """

    request: Ints
    item: Ints
    score: Floats
    rank: Ints

    def __len__(self) -> int:
        return len(self.request)


def item_matrix(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> ItemMatrix:
    """Build the matrix from `ITEM_COLUMNS`, such as `{name: catalogue.column(name) for name in ITEM_COLUMNS}`."""
    raise NotImplementedError


def ranking_features(requests: Requests, candidates: Candidates, items: ItemMatrix) -> NDArray[np.float32]:
    """[n, len(RANKING_FEATURES)] float32, finite, one row per candidate."""
    raise NotImplementedError


def ranking_inputs(requests: Requests, candidates: Candidates, items: ItemMatrix) -> dict[str, NDArray[Any]]:
    """Inputs of the serving signature: numeric [n, F] float32; category, brand, region, surface [n] str."""
    raise NotImplementedError
