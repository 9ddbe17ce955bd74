"""Which items go with which: for every item its strongest neighbours, a weight each; numpy only.

Fitted by `pipelines.item_neighbours` on what visitors had together, kept beside the ranker that learnt to use it, and
read by the ranking features of training and serving alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = "neighbours.npz"


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of a catalogue's items.

    Attributes:
        item_ids: [items] str.
        other: [items, K] int32, places in `item_ids`; -1 where an item has fewer than K.
        weight: [items, K] float32; 0 where there is none.
    """

    item_ids: NDArray[np.str_]
    other: NDArray[np.int32]
    weight: NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Write `neighbours.npz` into a folder."""
        np.savez_compressed(folder / FILE, item_ids=self.item_ids, other=self.other, weight=self.weight)

    @staticmethod
    def load(folder: Path) -> "Neighbours":
        """Read what `save` wrote; verify the artifact first."""
        with np.load(folder / FILE, allow_pickle=False) as found:
            return Neighbours(found["item_ids"], found["other"], found["weight"])

    def among(self, row_of: Mapping[str, int]) -> "Links":
        """The same for the rows of another catalogue, one row more than it has, which has no neighbours."""
        size = len(row_of)
        row = np.array([*(row_of.get(item, size) for item in self.item_ids.tolist()), size], np.int64)
        other = np.full((size + 1, self.other.shape[1]), size, np.int32)
        weight = np.zeros((size + 1, self.other.shape[1]), np.float32)
        other[row[:-1]], weight[row[:-1]] = row[self.other], self.weight
        other[-1], weight[-1] = size, 0.0
        return Links(other, weight)


@dataclass(frozen=True)
class Links:
    """Neighbours by row of an item matrix: `other` [items + 1, K], the row past the last item for none; `weight`."""

    other: NDArray[np.int32]
    weight: NDArray[np.float32]


NOBODY = Neighbours(np.empty(0, "<U1"), np.empty((0, 1), np.int32), np.empty((0, 1), np.float32))
