"""Candidates of one source, and the pool that those of all sources are merged into."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models import embeddings
from models.catalogue import Ranked
from serving.api.contract import Rung
from serving.api.live import LiveRelease

Tag = Literal[
    "personal", "similar", "bought_with", "viewed_with", "feed", "again", "taste", "popular", "new", "catalogue"
]


@dataclass(frozen=True, eq=False)
class Candidates:
    """What one source proposes, best first.

    Attributes:
        source: its tag, as it stands in the response.
        rung: what a page that begins with them stands on.
        item_ids: [n] str.
        scores: [n] float32, comparable within the source only.
        scope, key: which list, where the source has several; for the item-to-item sources, `key` is the item.
        because, causes, cause_events: for "personal", see RetrievalResponse.
        query: [dim] the vector that `scores` are dot products with; None where they are none.
        visitor: who asks, as retrieval knew them, for the ranker; "" where retrieval was not asked.
    """

    source: Tag
    rung: Rung
    item_ids: NDArray[np.object_]
    scores: NDArray[np.float32]
    scope: str = ""
    key: str = ""
    because: NDArray[np.integer] | None = None
    causes: Sequence[str] | NDArray[np.object_] = ()
    cause_events: Sequence[str] | NDArray[np.object_] = ()
    query: NDArray[np.float32] | None = None
    visitor: str = ""

    def first(self, count: int) -> "Candidates":
        """The best few."""
        return (
            self
            if len(self.item_ids) <= count
            else replace(self, item_ids=self.item_ids[:count], scores=self.scores[:count])
        )


def listed(source: Tag, rung: Rung, ranked: Ranked, scope: str = "", key: str = "") -> Candidates:
    """Candidates of a ranked list."""
    ids = np.empty(len(ranked), object)
    ids[:] = [item_id for item_id, _ in ranked]
    scores = np.fromiter((score for _, score in ranked), np.float32, len(ranked))
    return Candidates(source, rung, ids, scores, scope, key)


def ordered(source: Tag, rung: Rung, ids: NDArray[np.object_], key: str = "") -> Candidates:
    """Candidates that have an order but no scores; they fall from 1."""
    return Candidates(source, rung, ids, (1 / (1 + np.arange(len(ids)))).astype(np.float32), key=key)


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates of several sources, each item once, in the order of the sources.

    Attributes:
        parts: the sources.
        rows: [n] catalogue rows.
        part: [n] position in `parts` of the first source that proposed the item.
        place: [n] position in that source.
        scores: [n] float32, the source's own.
        proposed: [n, parts] every source that proposed it.
        origin: [n] position in the pool as it was merged.
    """

    parts: Sequence[Candidates]
    rows: NDArray[np.int64]
    part: NDArray[np.int64]
    place: NDArray[np.int64]
    scores: NDArray[np.float32]
    proposed: NDArray[np.bool_]
    origin: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rung(self) -> Rung:
        """What the pool stands on: the rung of its first candidate."""
        return self.parts[int(self.part[0])].rung if len(self) else Rung.STATIC

    @property
    def query(self) -> NDArray[np.float32] | None:
        """[dim] the vector that retrieval searched with; None where no source asked it."""
        return next((part.query for part in self.parts if part.query is not None), None)

    @property
    def visitor(self) -> str:
        """Who asks, as retrieval knew them; "" where no source asked it."""
        return next((part.visitor for part in self.parts if part.visitor), "")

    def take(self, positions: NDArray[np.int64]) -> "Pool":
        return replace(
            self,
            rows=self.rows[positions],
            part=self.part[positions],
            place=self.place[positions],
            scores=self.scores[positions],
            proposed=self.proposed[positions],
            origin=self.origin[positions],
        )

    @property
    def bits(self) -> NDArray[np.uint32]:
        """[n] `proposed` as bits, the first source's the lowest."""
        bits: NDArray[np.uint32] = self.proposed @ (1 << np.arange(len(self.parts), dtype=np.uint32))
        return bits

    def tags(self, positions: Sequence[int]) -> list[list[str]]:
        """For each position the tags of every source that proposed the candidate, its first source first."""
        proposed = self.bits[positions].tolist()
        # Of a hundred items most were proposed by the same sources as another.
        tags: dict[int, list[str]] = {
            bits: list(dict.fromkeys(part.source for k, part in enumerate(self.parts) if bits >> k & 1))
            for bits in set(proposed)
        }
        return [tags[bits] for bits in proposed]

    def retrieval_scores(self, vectors: embeddings.Vectors) -> NDArray[np.float32]:
        """[n] retrieval's scores, those of other sources' candidates by the same vector; NaN where no source gave one.

        Args:
            vectors: [items, dim] of the release, by catalogue row.
        """
        scores = np.full(len(self), np.nan, np.float32)
        asked = next(((place, part.query) for place, part in enumerate(self.parts) if part.query is not None), None)
        if asked is None:
            return scores
        place, query = asked
        own = self.part == place
        scores[own] = self.scores[own]
        scores[~own] = vectors[self.rows[~own]] @ query
        return scores

    def scored(self, scores: NDArray[np.float32]) -> "Pool":
        """The first m candidates with these scores, [m] float32, best first; the others stay behind them."""
        order = np.concatenate([np.argsort(-scores, kind="stable"), np.arange(len(scores), len(self))])
        every = np.concatenate([scores, self.scores[len(scores) :]])
        return replace(self, scores=every).take(order)


def merged(parts: Sequence[Candidates], live: LiveRelease) -> Pool:
    """One pool, in the order of the sources; items that the release's catalogue lacks are left out."""
    sizes = [len(part.item_ids) for part in parts]
    found = [live.catalogue.rows(part.item_ids) for part in parts]
    every = np.concatenate([*found, np.empty(0, np.int64)])
    part = np.repeat(np.arange(len(parts)), sizes)
    place = np.concatenate([*(np.arange(size) for size in sizes), np.empty(0, np.int64)])
    scores = np.concatenate([*(p.scores for p in parts), np.empty(0, np.float32)])
    distinct, first, which = np.unique(every, return_index=True, return_inverse=True)
    proposed = np.zeros((len(distinct), len(parts)), bool)
    proposed[which, part] = True
    known = np.flatnonzero(distinct >= 0)
    known = known[np.argsort(first[known])]
    first = first[known]
    return Pool(parts, every[first], part[first], place[first], scores[first], proposed[known], np.arange(len(first)))
