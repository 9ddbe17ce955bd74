"""Candidates: where they come from, and the pool that they are merged into."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Ranked
from recsys.inference import RetrievalResponse
from serving.api.live import LiveRelease

Source = Literal["personal", "similar", "bought_with", "viewed_with", "feed", "popular", "catalogue"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """What one source proposes, best first.

    Attributes:
        source: which one.
        item_ids: [n] str.
        scores: [n] float32, comparable within the source only.
        scope, key: for "popular", which trending list; for the item-to-item sources, `key` is the item.
        evidence, evidence_events: [n] for "personal", see RetrievalResponse.
    """

    source: Source
    item_ids: NDArray[np.object_]
    scores: NDArray[np.float32]
    scope: str = ""
    key: str = ""
    evidence: NDArray[np.object_] | None = None
    evidence_events: NDArray[np.object_] | None = None


def personal(found: RetrievalResponse) -> Candidates:
    return Candidates("personal", found.item_ids, found.scores, "", "", found.evidence, found.evidence_events)


def similar(found: RetrievalResponse, item_id: str) -> Candidates:
    return Candidates("similar", found.item_ids, found.scores, key=item_id)


def listed(source: Source, ranked: Ranked, scope: str = "", key: str = "") -> Candidates:
    """Candidates of a ranked list."""
    ids = np.empty(len(ranked), object)
    ids[:] = [item_id for item_id, _ in ranked]
    scores = np.fromiter((score for _, score in ranked), np.float32, len(ranked))
    return Candidates(source, ids, scores, scope, key)


def rows(live: LiveRelease, chosen: NDArray[np.int64], category: str = "") -> Candidates:
    """Items of the catalogue itself, in the order given; scores fall from 1."""
    scores = (1 / (1 + np.arange(len(chosen)))).astype(np.float32)
    return Candidates("catalogue", live.catalogue.ids[chosen], scores, key=category)


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates of several sources, each item once, under the first source that proposed it.

    Attributes:
        parts: the sources.
        rows: [n] catalogue rows.
        part: [n] position in `parts`.
        place: [n] position in that source.
        scores: [n] float32, the source's own.
    """

    parts: Sequence[Candidates]
    rows: NDArray[np.int64]
    part: NDArray[np.int64]
    place: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: NDArray[np.int64]) -> "Pool":
        return Pool(
            self.parts, self.rows[positions], self.part[positions], self.place[positions], self.scores[positions]
        )

    def scored(self, scores: NDArray[np.float32]) -> "Pool":
        """The first m candidates with these scores, [m] float32, best first; the others stay behind them."""
        order = np.concatenate([np.argsort(-scores, kind="stable"), np.arange(len(scores), len(self))])
        every = np.concatenate([scores, self.scores[len(scores) :]])
        return Pool(self.parts, self.rows, self.part, self.place, every).take(order)


def merged(parts: Sequence[Candidates], live: LiveRelease) -> Pool:
    """One pool, in the order of the sources; items that the release's catalogue lacks are left out."""
    sizes = [len(part.item_ids) for part in parts]
    found = [live.catalogue.rows(part.item_ids) for part in parts]
    every = np.concatenate([*found, np.empty(0, np.int64)])
    part = np.repeat(np.arange(len(parts)), sizes)
    place = np.concatenate([*(np.arange(size) for size in sizes), np.empty(0, np.int64)])
    scores = np.concatenate([*(p.scores for p in parts), np.empty(0, np.float32)])
    _, first = np.unique(every, return_index=True)
    first = np.sort(first[every[first] >= 0])
    return Pool(parts, every[first], part[first], place[first], scores[first])
