"""The catalogue of a release in memory: content and statistics of every item, and the static popular lists.

Held by the API (titles, categories, rules) and by the ranking predictor (the item matrix), so that no item
feature is fetched per request.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from feature_repo.events import ITEMS

UNAVAILABLE = "unavailable.json"
Ranked = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Catalogue:
    """Items by row; the row order is that of the release's index.

    Attributes:
        items: columns of `feature_repo.events.ITEMS`, then `names.ITEM_STATS`, then the times of `item_stats`.
        popular: the trending lists at release time, scope → key → [(item_id, score)]; the last rung of the ladder.
        meta: facts about the data, such as `allow_repeats`.
        unavailable: ids that the build knew and left out, because they cannot be bought or watched; None where an older
            build did not say.
    """

    items: pa.Table
    popular: Mapping[str, Mapping[str, Ranked]]
    meta: Mapping[str, Any]
    unavailable: frozenset[str] | None = None

    @cached_property
    def ids(self) -> NDArray[np.object_]:
        return self.column("item_id")

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        return {item_id: row for row, item_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return int(self.items.num_rows)

    def column(self, name: str) -> NDArray[Any]:
        """One column as numpy; strings as objects."""
        values: NDArray[Any] = self.items.column(name).to_numpy(zero_copy_only=False)
        return values

    def rows(self, item_ids: Sequence[str] | NDArray[np.object_]) -> NDArray[np.int64]:
        """Rows of item ids, -1 where an id is unknown."""
        row_of = self.row_of
        return np.fromiter((row_of.get(i, -1) for i in item_ids), np.int64, len(item_ids))

    def changed(self, changes: Mapping[str, Mapping[str, Any] | None]) -> "Catalogue":
        """The catalogue with other content of some items, each in its row, and with new items behind, in their order.

        New items have no statistics. A deleted one (None) that the catalogue holds is unavailable; one that it does
        not hold stays out, as does a new one that is unavailable, because a build would leave it out as well.

        Args:
            changes: by item id, the columns of `feature_repo.events.ITEMS`.
        """
        rows = self.rows(list(changes))
        told = [(row, item) for row, item in zip(rows, changes.values(), strict=True) if row >= 0 or _sold(item)]
        if not told:
            return self
        places = np.array([row for row, _ in told])
        held = places >= 0
        before = iter(self.items.take(places[held]).to_pylist())
        nothing = {name: None if name in ITEMS.names else 0 for name in self.items.column_names}
        now = [{**(next(before) if row >= 0 else nothing), **(item or {"available": False})} for row, item in told]
        order = np.concatenate([np.arange(len(self)), len(self) + np.flatnonzero(~held)])
        order[places[held]] = len(self) + np.flatnonzero(held)
        every = pa.concat_tables([self.items, pa.Table.from_pylist(now, self.items.schema)])
        return replace(self, items=every.take(order))

    def contains(self, item_id: str, item: Mapping[str, Any] | None) -> bool:
        """Whether the catalogue says of an item what a change says, so that the change would change nothing."""
        row = self.row_of.get(item_id)
        if row is None or item is None or not _sold(item):
            return row is None and not _sold(item)
        held = self.items.slice(row, 1).to_pylist()[0]
        return all((held[name] or None) == (item[name] or None) for name in ITEMS.names)


def _sold(item: Mapping[str, Any] | None) -> bool:
    return item is not None and bool(item["available"])


def write(
    folder: Path, items: pa.Table, popular: Mapping[str, Mapping[str, Ranked]], unavailable: Sequence[str] = ()
) -> None:
    """Write the files of a catalogue artifact."""
    (folder / UNAVAILABLE).write_text(json.dumps(list(unavailable)))
    pyarrow.parquet.write_table(items, folder / "items.parquet", compression="zstd")
    (folder / "popular.json").write_text(json.dumps(popular))


def read(folder: Path, meta: Mapping[str, Any]) -> Catalogue:
    """Read what `write` wrote; `meta` is that of the artifact's manifest."""
    items = pyarrow.parquet.read_table(folder / "items.parquet")
    popular = json.loads((folder / "popular.json").read_text())
    left_out = folder / UNAVAILABLE
    unavailable = frozenset(json.loads(left_out.read_text())) if left_out.exists() else None
    return Catalogue(items, popular, meta, unavailable)
