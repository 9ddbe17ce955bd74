"""The items of one catalogue as the ranking features need them: numbers scaled, strings turned into codes, once.

So nothing is compared as text, and no logarithm taken, per candidate on the request path. Code 0 means "none" and
matches nothing. Every array has one row more than the catalogue, the last: numpy's row -1, for unknown items.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import events, names
from feature_repo.neighbours import NOBODY, Links, Neighbours
from feature_repo.ranking_table import ITEM

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
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
        codes: by scope of `ranking_table.SCOPES`, [items + 1] int64, 1 and up; 0 where unknown.
        code_of: by scope, code of an id, category path, top category or brand.
        term_of, terms: code of a casefolded category part or tag; [items + 1, most terms] int64, padded with 0.
        static: [items + 1, block "item"] float32, the features that do not depend on the request.
        log_price: [items + 1] float64, NaN where unknown.
        created, last_event, stats_time: [items + 1] float64 epoch seconds, NaN where unknown.
        links: which items go with which, by relation of `ranking_table.RELATIONS`.
        region_of, allowed, named: code of a region; [regions + 1, items + 1] bool: may be shown there, names it.
            The last row is for regions that no item names.
    """

    row_of: Mapping[str, int]
    category: Strings
    brand: Strings
    codes: Mapping[str, Ints]
    code_of: Mapping[str, Mapping[str, int]]
    term_of: Mapping[str, int]
    terms: Ints
    static: NDArray[np.float32]
    log_price: Floats
    created: Floats
    last_event: Floats
    stats_time: Floats
    links: Mapping[str, Links]
    region_of: Mapping[str, int]
    allowed: NDArray[np.bool_]
    named: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row_of)

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
    coded = {
        "item": _encode(np.append(ids, "").astype(object)),
        "category": _encode(category),
        "top_category": _encode(top),
        "brand": _encode(brand),
    }
    codes = {scope: code for scope, (code, _) in coded.items()}
    price = _floats(columns["price"])
    log_price = np.log1p(np.where(price > 0, price, np.nan))
    terms, term_of = _terms(category, _lists(columns["tags"]))
    regions, allowed, named = _regions(_lists(columns["regions"]))
    return ItemMatrix(
        row_of=row_of,
        category=category,
        brand=brand,
        codes=codes,
        code_of={scope: code_of for scope, (_, code_of) in coded.items()},
        term_of=term_of,
        terms=terms,
        static=_static(columns, log_price, codes["category"]),
        log_price=log_price,
        created=epoch(columns["created_at"]),
        last_event=epoch(columns["item_last_event_time"]),
        stats_time=epoch(columns["stats_time"]),
        links=neighbours.among(row_of),
        region_of=regions,
        allowed=allowed,
        named=named,
    )


def _static(columns: Mapping[str, Column], log_price: Floats, category: Ints) -> NDArray[np.float32]:
    """Block "item" of the table, [items + 1, features]."""
    stats = np.stack([_floats(columns[name]) for name in names.ITEM_STATS], axis=1)
    scaled = np.log1p(np.clip(np.nan_to_num(stats, nan=0.0), 0.0, 1e12))
    popularity = scaled[:, names.ITEM_STATS.index("popularity")]
    fast = scaled[:, names.ITEM_STATS.index("popularity_fast")]
    known = ~np.isnan(log_price)
    priced, count = np.nan_to_num(log_price), np.bincount(category, weights=known)
    typical = np.bincount(category, weights=priced) / np.maximum(count, 1.0)
    found = np.column_stack(
        [
            scaled,
            fast - popularity,
            np.searchsorted(np.sort(popularity[:-1]), popularity) / max(len(popularity) - 1, 1),
            priced,
            known,
            np.where(known, priced - typical[category], 0.0),
        ]
    )
    found[-1] = 0.0
    if found.shape[1] != len(ITEM):
        raise AssertionError(f"block 'item' has {found.shape[1]} columns and {len(ITEM)} names")
    return found.astype(np.float32)


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
