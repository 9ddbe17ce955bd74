"""The live release in memory: what a request needs of it, as arrays."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo import transforms
from feature_repo.events import top_category
from models import catalogue, embeddings, release
from models.catalogue import Catalogue, Ranked
from models.release import Release

NEW_DAYS = 14.0
CATEGORIES = 256  # whose paths are remembered, a byte for each path of the catalogue
Lists = Mapping[str, Mapping[str, Ranked]]


@dataclass(frozen=True, eq=False)
class LiveRelease:
    """A release and its catalogue, with the columns that a request needs as arrays by catalogue row.

    Attributes:
        release: the record.
        catalogue: its items, as they are now.
        vectors: [items, dim] of its index, mapped from disk, so that all processes of a machine share one copy; zeros
            for a new item that retrieval has not embedded yet.
        under: the release as it was loaded, where changes of the catalogue lie over it.
    """

    release: Release
    catalogue: Catalogue
    vectors: embeddings.Vectors
    under: "LiveRelease | None" = None

    @property
    def release_id(self) -> str:
        return self.release.release_id

    @property
    def popular(self) -> Lists:
        """The trending lists at release time: scope → key → ranked."""
        return self.catalogue.popular

    @property
    def allow_repeats(self) -> bool:
        """Whether shoppers of this catalogue buy the same item again, so that what they know stays in."""
        return bool(self.catalogue.meta.get("allow_repeats", False))

    @property
    def loaded(self) -> "LiveRelease":
        """As it was loaded, without changes."""
        return self.under or self

    @property
    def shipped(self) -> int:
        """Rows that the release was made with; behind them are items that are new since."""
        return len(self.loaded.catalogue)

    @cached_property
    def as_of(self) -> float:
        return datetime.fromisoformat(self.release.as_of).timestamp()

    def now(self, wall: float) -> float:
        """The time that this release's features and watched sets are read for."""
        return transforms.request_time(wall, self.as_of)

    @cached_property
    def titles(self) -> NDArray[np.object_]:
        return self.catalogue.column("title")

    @cached_property
    def prices(self) -> NDArray[np.float64]:
        """NaN where unknown."""
        return np.asarray(self.catalogue.column("price"), np.float64)

    @cached_property
    def currencies(self) -> NDArray[np.object_]:
        return self.catalogue.column("currency")

    @cached_property
    def brands(self) -> NDArray[np.object_]:
        return self.catalogue.column("brand")

    @cached_property
    def brand_names(self) -> list[str]:
        """Every brand, that of the most popular item first."""
        return list(dict.fromkeys(name for name in self.brands[self.by_popularity] if name))

    @cached_property
    def known_brands(self) -> frozenset[str]:
        return frozenset(self.brand_names)

    @cached_property
    def priced_in(self) -> list[str]:
        """The currencies of the items that are there."""
        return sorted({name for name in self.currencies[self.available] if name})

    @cached_property
    def created(self) -> NDArray[np.float64]:
        """[items] epoch seconds at which an item came into the catalogue; NaN where unknown."""
        times = self.catalogue.column("created_at").astype("datetime64[us]")
        return np.where(np.isnat(times), np.nan, times.astype(np.int64) / 1e6)

    @cached_property
    def newest(self) -> NDArray[np.int64]:
        """Rows of the items that came in the last `NEW_DAYS` of the release's data or after it, the newest first; those
        that the release does not have before the others. One that is back after it was sold out is not new."""
        age, since = self.as_of - self.created, np.arange(len(self.created)) >= self.shipped
        fresh = np.flatnonzero((since | (age >= 0)) & (age < NEW_DAYS * transforms.SECONDS_PER_DAY))
        return fresh[np.lexsort((age[fresh], ~since[fresh]))]

    @cached_property
    def is_new(self) -> NDArray[np.bool_]:
        """[items] whether each is among the newest."""
        found = np.zeros(len(self.catalogue), bool)
        found[self.newest] = True
        return found

    @cached_property
    def seldom_shown(self) -> NDArray[np.int64]:
        """Rows of the half of the catalogue that was shown least in the last 30 days, the most popular first; by
        popularity alone where the data know no impressions."""
        shown = self._statistic("impression_30d")
        if not shown.any():
            shown = self._statistic("popularity")
        seldom: NDArray[np.int64] = self.by_popularity[shown[self.by_popularity] <= np.median(shown)]
        return seldom

    @cached_property
    def brand_record(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[items] clicks and impressions of the last 30 days of all items of an item's brand; 0 for those without."""
        names, brand = np.unique([name or "" for name in self.brands], return_inverse=True)
        known = (names != "")[brand]
        sums = [np.bincount(brand, self._statistic(name)) for name in ("click_30d", "impression_30d")]
        return np.where(known, sums[0][brand], 0.0), np.where(known, sums[1][brand], 0.0)

    def _statistic(self, name: str) -> NDArray[np.float64]:
        """[items] a statistic of the release, 0 where it is not known."""
        if name not in self.catalogue.items.column_names:
            return np.zeros(len(self.catalogue))
        return np.nan_to_num(self.catalogue.column(name).astype(np.float64))

    @cached_property
    def available(self) -> NDArray[np.bool_]:
        return self.catalogue.column("available").astype(bool)

    @cached_property
    def _paths(self) -> tuple[list[str], NDArray[np.int32]]:
        column: Any = self.catalogue.items.column("category").combine_chunks()
        encoded = column.dictionary_encode()
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)

    @property
    def category_paths(self) -> list[str]:
        """Every category path; `categories` are positions in it."""
        return self._paths[0]

    @property
    def categories(self) -> NDArray[np.int32]:
        return self._paths[1]

    @cached_property
    def top_codes(self) -> Mapping[str, int]:
        """Code of each most general category."""
        names = dict.fromkeys(map(top_category, self.category_paths))
        return {name: code for code, name in enumerate(names)}

    @cached_property
    def tops(self) -> NDArray[np.int32]:
        """[items] code of the most general category."""
        of_path = [self.top_codes[top_category(path)] for path in self.category_paths]
        return np.asarray(of_path, np.int32)[self.categories]

    @cached_property
    def popularity_rank(self) -> NDArray[np.float64]:
        """[items] 0 for the least popular to 1 for the most."""
        return _ranks(self._statistic("popularity"))

    @cached_property
    def price_rank(self) -> NDArray[np.float64]:
        """[items] 0 for the cheapest to 1 for the dearest; 0.5 where the price is unknown."""
        return _ranks(self.prices)

    @cached_property
    def known(self) -> frozenset[str]:
        """Every category and every more general one above it."""
        parts = [path.split(" > ") for path in self.category_paths]
        return frozenset(" > ".join(names[: depth + 1]) for names in parts for depth in range(len(names)))

    @cached_property
    def category_names(self) -> list[str]:
        """The same, the most general first."""
        return sorted(self.known, key=lambda path: (path.count(" > "), path))

    @cached_property
    def examples(self) -> list[str]:
        """A few general categories, for people."""
        return sorted({top_category(path) for path in self.category_paths})[:5]

    def category(self, row: int) -> str:
        return str(self.category_paths[self.categories[row]])

    @cached_property
    def by_popularity(self) -> NDArray[np.int64]:
        """All rows, the most popular first; the order of the catalogue where it has no statistics."""
        return np.argsort(-self._statistic("popularity"), kind="stable")

    def below(self, category: str) -> NDArray[np.int64]:
        """Rows of a category and of all below it, the most popular first; empty for an unknown category."""
        rows: NDArray[np.int64] = self.by_popularity[self.inside(category)[self.categories[self.by_popularity]]]
        return rows

    def inside(self, category: str) -> NDArray[np.bool_]:
        """[category paths] True for a category and all below it."""
        return self._inside(category)

    @cached_property
    def _inside(self) -> Callable[[str], NDArray[np.bool_]]:
        """The same, remembered for the categories that were asked for last: a thousand paths take 0.1 ms."""

        @lru_cache(CATEGORIES)
        def found(category: str) -> NDArray[np.bool_]:
            below = f"{category} > "
            return np.asarray([path == category or path.startswith(below) for path in self.category_paths], bool)

        return found

    @cached_property
    def _regional(self) -> tuple[NDArray[np.bool_], Mapping[str, NDArray[np.bool_]]]:
        """[items] True for items without a restriction; and per region, items that name it."""
        lists: Any = self.catalogue.items.column("regions").combine_chunks()
        free = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)) == 0
        parents = np.asarray(pc.list_parent_indices(lists))
        values = np.asarray(pc.list_flatten(lists).to_pylist(), object)
        named: dict[str, NDArray[np.bool_]] = {}
        for region in set(values):
            named[region] = free.copy()
            named[region][parents[values == region]] = True
        return free, named

    def shown_in(self, region: str) -> NDArray[np.bool_]:
        """[items] True where an item may be shown in a region. A visitor of unknown region sees the items that may be
        shown everywhere, and no other."""
        free, named = self._regional
        return named.get(region, free)

    def unknown(self, item_ids: Collection[str]) -> set[str]:
        """The items that neither the release nor its changes know, sold out and deleted ones included; none where the
        release does not say which it left out."""
        left_out = self.catalogue.unavailable
        if left_out is None:
            return set()
        return {item for item in item_ids if item not in self.catalogue.row_of and item not in left_out}

    def shows(self, item_id: str) -> bool:
        """Whether an item is there and can be bought or watched."""
        row = self.catalogue.row_of.get(item_id)
        return row is not None and bool(self.available[row])

    def changed(
        self, changes: Mapping[str, Mapping[str, Any] | None], vectors: Mapping[str, NDArray[np.float32]]
    ) -> "LiveRelease":
        """The release as it was loaded, with these changes of the catalogue over it.

        Args:
            changes: see `Catalogue.changed`.
            vectors: [dim] of new items by id, as far as they are known.
        """
        under = self.loaded
        catalogue = under.catalogue.changed(changes)
        if catalogue is under.catalogue:
            return under
        fresh = np.zeros((len(catalogue) - self.shipped, under.vectors.shape[1]), np.float32)
        for row, item_id in enumerate(catalogue.ids[self.shipped :]):
            if item_id in vectors:
                fresh[row] = vectors[item_id]
        return LiveRelease(self.release, catalogue, embeddings.Extended(under.vectors, fresh), under).prepare()

    def prepare(self) -> "LiveRelease":
        """Compute the columns now, so that no request pays for them."""
        _ = (
            self.catalogue.row_of,
            self.titles,
            self.prices,
            self.currencies,
            self.available,
            self.tops,
            self._regional,
        )
        _ = (self.by_popularity, self.as_of, self.known, self.examples, self.brands, self.created, self.newest)
        _ = (self.known_brands, self.priced_in, self.category_names)
        _ = (self.is_new, self.seldom_shown, self.brand_record, self.popularity_rank, self.price_rank)
        return self


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(values)
    found = np.full(len(values), 0.5)
    order = np.argsort(np.argsort(values[known], kind="stable"), kind="stable")
    found[known] = order / max(int(known.sum()) - 1, 1)
    return found


def load(releases: release.Releases, found: Release) -> LiveRelease:
    """Open a release's catalogue and vectors, every byte of them checked.

    Raises:
        ArtifactError, BadIndex: they are damaged, or do not belong together.
    """
    opened = releases.open(found, "catalogue")
    items = catalogue.read(opened.path, opened.manifest.meta)
    ids, vectors = embeddings.read(releases.open(found, "index").path)
    if not np.array_equal(ids, items.ids):
        raise embeddings.BadIndex(f"the index of {found.release_id} holds other items than its catalogue; roll back")
    return LiveRelease(found, items, vectors).prepare()
