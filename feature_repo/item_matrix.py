"""The items of one catalogue as the ranking features need them: numbers scaled, strings turned into codes, once.

So nothing is compared as text, and no logarithm taken, per candidate on the request path. Code 0 means "none" and
matches nothing. Every array has one row more than the catalogue, the last: numpy's row -1, for unknown items.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import events, item_static, names
from feature_repo.groups import Floats, Ints
from feature_repo.neighbours import NOBODY, Links, Neighbours
from feature_repo.ranking_table import LIFT_FLOOR, PRICE_BANDS, SCOPES, WEIGHED

Strings = NDArray[np.object_]
Column = Sequence[Any] | NDArray[Any]
ITEM_COLUMNS = (
    *("item_id", "category", "brand", "tags", "price", "regions", "created_at"),
    *names.ITEM_STATS,
    *("item_last_event_time", "stats_time"),
)


@dataclass(frozen=True)
class ItemMatrix:
    """All that ranking needs of the items of one catalogue; build it with `item_matrix`, once per release.

    Attributes:
        row_of: row of an item id.
        category, brand: [items + 1] str, inputs of the model; "" where unknown.
        codes: [scopes, items + 1] int64, in the order of `ranking_table.SCOPES`, 1 and up; 0 where unknown.
        widths: [scopes] one more than the largest code.
        code_of: by scope, code of a category path, top category or brand.
        term_of, terms: code of a casefolded category part or tag; [items + 1, most terms] int64, padded with 0.
        static: [items + 1, block "item"] float32, the features that do not depend on the request.
        log_price: [items + 1] float64, NaN where unknown.
        price_place: [items + 1] int64, how many items cost at most as much, a code of the price; 0 where unknown.
        log_popularity_share: by scope of `ranking_table.WEIGHED`, [items + 1] log of the share of all popularity
            that the item's category, top category or brand has, `LIFT_FLOOR` added.
        created, last_event, stats_time: [items + 1] float64 epoch seconds, NaN where unknown.
        links: which items go with which, by relation of `ranking_table.RELATIONS`.
        region_of, allowed, named: code of a region; [regions + 1, items + 1] bool: may be shown there, names it.
            The last row is for regions that no item names.
    """

    row_of: Mapping[str, int]
    category: Strings
    brand: Strings
    codes: Ints
    widths: Ints
    code_of: Mapping[str, Mapping[str, int]]
    term_of: Mapping[str, int]
    terms: Ints
    static: NDArray[np.float32]
    log_price: Floats
    price_place: Ints
    log_popularity_share: Mapping[str, Floats]
    created: Floats
    last_event: Floats
    stats_time: Floats
    links: Mapping[str, Links]
    region_of: Mapping[str, int]
    allowed: NDArray[np.bool_]
    named: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row_of)

    def code(self, scope: str) -> Ints:
        """[items + 1] codes of one scope."""
        return np.asarray(self.codes[SCOPES.index(scope)])

    def rows(self, item_ids: Iterable[str]) -> Ints:
        """Rows of item ids, -1 where an id is unknown."""
        row_of = self.row_of
        return np.fromiter((row_of.get(item_id, -1) for item_id in item_ids), np.int64)


def item_matrix(columns: Mapping[str, Column], neighbours: Neighbours = NOBODY) -> ItemMatrix:
    """Build the matrix from `ITEM_COLUMNS`.

    Args:
        columns: equally long columns, such as `{name: catalogue.column(name) for name in ITEM_COLUMNS}`; times are
            numpy or Python times in UTC, or epoch seconds. None and NaN mean unknown, 0 does for times.
        neighbours: of these items, or of others among which they are.

    Raises:
        ValueError: a column is missing, or an item id comes twice.
    """
    if missing := [name for name in ITEM_COLUMNS if name not in columns]:
        raise ValueError(f"the item matrix needs columns {missing}; it got {sorted(columns)}")
    ids = _strings(columns["item_id"])[:-1]
    row_of = {str(item_id): row for row, item_id in enumerate(ids)}
    if len(row_of) < len(ids):
        raise ValueError(f"{len(ids) - len(row_of)} item ids come twice; the catalogue has one row per item")
    category, brand = _strings(columns["category"]), _strings(columns["brand"])
    top = np.array([events.top_category(path) for path in category], dtype=object)
    coded = {"category": _encode(category), "top_category": _encode(top), "brand": _encode(brand)}
    price = _floats(columns["price"])
    log_price = np.log1p(np.where((price > 0) & np.isfinite(price), price, np.nan))
    place = _places(log_price)
    codes = {
        "item": np.append(np.arange(1, len(ids) + 1), 0),
        **{scope: code for scope, (code, _) in coded.items()},
        "price_band": -(-place * PRICE_BANDS // max(place.max(), 1)),
    }
    stats = {name: np.clip(np.nan_to_num(_floats(columns[name]), nan=0.0), 0.0, 1e12) for name in names.ITEM_STATS}
    stats_time = epoch(columns["stats_time"])
    terms, term_of = _terms(category, _lists(columns["tags"]))
    regions, allowed, named = _regions(_lists(columns["regions"]))
    return ItemMatrix(
        row_of=row_of,
        category=category,
        brand=brand,
        codes=np.stack([codes[scope] for scope in SCOPES]),
        widths=np.array([codes[scope].max() + 1 for scope in SCOPES]),
        code_of={scope: code_of for scope, (_, code_of) in coded.items()},
        term_of=term_of,
        terms=terms,
        static=item_static.static(stats, log_price, codes["category"], ~np.isnan(stats_time)),
        log_price=log_price,
        price_place=place,
        log_popularity_share={scope: _log_share(stats["popularity"], codes[scope]) for scope in WEIGHED},
        created=epoch(columns["created_at"]),
        last_event=epoch(columns["item_last_event_time"]),
        stats_time=stats_time,
        links=neighbours.among(row_of),
        region_of=regions,
        allowed=allowed,
        named=named,
    )


def _places(log_price: Floats) -> Ints:
    """[items + 1] how many items cost at most as much; 0 where the price is unknown."""
    known = np.sort(log_price[~np.isnan(log_price)])
    return np.where(np.isnan(log_price), 0, np.searchsorted(known, log_price, side="right"))


def _log_share(popularity: Floats, code: Ints) -> Floats:
    """[items + 1] log of the share of all popularity that the items with the same code have."""
    share = np.bincount(code, popularity) / max(float(popularity.sum()), 1e-9)
    return np.log(share + LIFT_FLOOR)[code]


def epoch(times: Column) -> Floats:
    """[items + 1] epoch seconds of a column of times; NaN where unknown, and in the last row."""
    values = np.asarray(times)
    if values.dtype.kind == "M":
        seconds = np.where(np.isnat(values), np.nan, values.astype("datetime64[us]").astype(np.int64) / 1e6)
    elif values.dtype.kind == "O":
        seconds = np.array([v.timestamp() if hasattr(v, "timestamp") else v for v in values], np.float64)
    else:
        seconds = values.astype(np.float64)
    return np.append(np.where(seconds > 0, seconds, np.nan), np.nan)


def _floats(values: Column) -> Floats:
    return np.append(np.asarray(values, np.float64), np.nan)


def _strings(values: Column) -> Strings:
    """[items + 1] str; missing values, None or NaN, are ""."""
    return np.array([*(value if isinstance(value, str) else "" for value in values), ""], dtype=object)


def _lists(values: Column) -> list[Column]:
    """[items + 1] lists; missing ones are empty."""
    found: list[Column] = [value if isinstance(value, list | tuple | np.ndarray) else () for value in values]
    return [*found, ()]


def _encode(values: Strings) -> tuple[Ints, dict[str, int]]:
    """Codes of strings, from 1 in order of appearance; "" is 0."""
    code_of: dict[str, int] = {}
    codes = [code_of.setdefault(value, len(code_of) + 1) if value else 0 for value in values]
    return np.array(codes, np.int64), code_of


def _terms(category: Strings, tags: list[Column]) -> tuple[Ints, dict[str, int]]:
    """What a stated preference may name: the category path, its parts and the tags, casefolded."""
    code_of: dict[str, int] = {}
    rows: list[list[int]] = []
    for path, words in zip(category, tags, strict=True):
        terms = dict.fromkeys(word.casefold() for word in (path, *path.split(" > "), *words) if word)
        rows.append([code_of.setdefault(term, len(code_of) + 1) for term in terms])
    padded = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
    for row, codes in enumerate(rows):
        padded[row, : len(codes)] = codes
    return padded, code_of


def _regions(regions: list[Column]) -> tuple[dict[str, int], NDArray[np.bool_], NDArray[np.bool_]]:
    """Codes of the regions that items name, and where each item may be shown; none named means everywhere."""
    code_of = {name: code for code, name in enumerate(sorted({name for row in regions for name in row}))}
    named = np.zeros((len(code_of) + 1, len(regions)), bool)
    for row, names_ in enumerate(regions):
        named[[code_of[name] for name in names_], row] = True
    everywhere = np.array([len(row) == 0 for row in regions])
    return code_of, named | everywhere, named
