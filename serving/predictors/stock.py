"""What retrieval may answer with at this moment: the index of the release, less what has left the catalogue, and the
items that are new since beside it, in a matrix that is searched exactly.

Rows are counted through: first those of the index, then those beside it. A stock never changes; another takes its
place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from feature_repo.changes import Overlay
from models import embeddings
from models.index import Index
from recsys.inference import strings

SPARE = 64  # results asked for beyond those wanted, while some are gone; seldom are more of the best gone


@dataclass(frozen=True, eq=False)
class Stock:
    """See above.

    Attributes:
        index: of the release, n items.
        new: [m] str, the items beside it.
        fresh: [m, dim] float32, their vectors, unit norm.
        gone: [n] True for the items of the index that are deleted or unavailable.
    """

    index: Index
    new: NDArray[np.object_]
    fresh: NDArray[np.float32]
    gone: NDArray[np.bool_]

    @classmethod
    def of(cls, index: Index, overlay: Overlay, vectors: Mapping[str, NDArray[np.float32]]) -> Self:
        """The stock after some changes.

        Args:
            index: of the release.
            overlay: the changes; of an item that the index holds only its availability counts.
            vectors: of the new items, those that are available and not in the index.
        """
        gone = np.zeros(len(index), bool)
        left = [item for item, change in overlay.changes.items() if not change.available]
        gone[[index.row_of[item] for item in left if item in index.row_of]] = True
        fresh = np.stack(list(vectors.values())) if vectors else np.empty((0, index.dim), np.float32)
        return cls(index, strings(list(vectors)), fresh, gone)

    @cached_property
    def ids(self) -> NDArray[np.object_]:
        """[n + m] the item of each row."""
        return np.concatenate([self.index.ids, self.new]) if len(self.new) else self.index.ids

    @cached_property
    def vectors(self) -> embeddings.Vectors:
        """[n + m, dim], by row."""
        return embeddings.Extended(self.index.vectors, self.fresh) if len(self.new) else self.index.vectors

    def row(self, item_id: str) -> int:
        """The row of an item, also of one that is gone; -1 where there is none."""
        return self.index.row_of.get(item_id, self._beside.get(item_id, -1))

    def search(
        self, vector: NDArray[np.float32], k: int, left_out: int = -1
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and scores of the nearest items by dot product, best first; equal scores by row.

        Args:
            vector: [1, dim].
            k: items wanted.
            left_out: a row that may not be among them; -1: none.
        """
        rows, scores = self._shipped(vector, k, left_out)
        if not len(self.new):
            return rows, scores
        beside = self.fresh @ vector[0]
        near = np.flatnonzero(beside >= (scores[-1] if len(rows) == k else -np.inf))
        near = near[near + len(self.index) != left_out]
        rows, scores = np.concatenate([rows, near + len(self.index)]), np.concatenate([scores, beside[near]])
        best = np.lexsort((rows, -scores))[:k]
        return rows[best], scores[best]

    def _shipped(
        self, vector: NDArray[np.float32], k: int, left_out: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The same in the index; asked for as many more as are gone only where a few more do not do."""
        wanted, spare = k + (left_out >= 0), min(self._count, SPARE)
        while True:
            rows, scores = (found[0] for found in self.index.search(vector, wanted + spare))
            kept = (rows >= 0) & (rows != left_out)
            if self._count:
                kept &= ~self.gone[rows]
            if kept.sum() >= k or spare == self._count:
                return rows[kept][:k], scores[kept][:k]
            spare = self._count

    @cached_property
    def _beside(self) -> Mapping[str, int]:
        return {item_id: len(self.index) + place for place, item_id in enumerate(self.new)}

    @cached_property
    def _count(self) -> int:
        return int(self.gone.sum())
