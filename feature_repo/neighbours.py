"""Which items go with which: for every item its strongest neighbours, a weight each; numpy only.

Fitted by `pipelines.item_neighbours` on what visitors had, kept beside the ranker that learnt to use it, and read by
the ranking features of training and serving alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.ranking_table import RELATIONS

FILE = "neighbours.npz"


@dataclass(frozen=True)
class Links:
    """The neighbours of each item in one relation.

    Attributes:
        other: [items, K] int32, rows of items, or what the holder says for none where an item has fewer than K.
        weight: [items, K] float32; 0 where there is none.
    """

    other: NDArray[np.int32]
    weight: NDArray[np.float32]


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of a catalogue's items.

    Attributes:
        item_ids: [items] str.
        links: by relation of `ranking_table.RELATIONS`; `other` is a place in `item_ids`, -1 for none.
    """

    item_ids: NDArray[np.str_]
    links: Mapping[str, Links]

    def save(self, folder: Path) -> None:
        """Write `neighbours.npz` into a folder."""
        arrays: dict[str, Any] = {f"{name}_other": links.other for name, links in self.links.items()}
        arrays |= {f"{name}_weight": links.weight for name, links in self.links.items()}
        np.savez_compressed(folder / FILE, item_ids=self.item_ids, **arrays)

    @staticmethod
    def load(folder: Path) -> "Neighbours":
        """Read what `save` wrote; verify the artifact first."""
        with np.load(folder / FILE, allow_pickle=False) as found:
            links = {name: Links(found[f"{name}_other"], found[f"{name}_weight"]) for name in RELATIONS}
            return Neighbours(found["item_ids"], links)

    def among(self, row_of: Mapping[str, int]) -> dict[str, Links]:
        """The same by row of another catalogue. A row more than it has stands for none, and has no neighbours."""
        size = len(row_of)
        row = np.array([*(row_of.get(item, size) for item in self.item_ids.tolist()), size], np.int32)
        found = {}
        for name, links in self.links.items():
            other = np.full((size + 1, links.other.shape[1]), size, np.int32)
            weight = np.zeros(other.shape, np.float32)
            other[row[:-1]], weight[row[:-1]] = row[links.other], links.weight
            other[-1], weight[-1] = size, 0.0
            found[name] = Links(other, weight)
        return found


NO_LINKS = Links(np.empty((0, 1), np.int32), np.empty((0, 1), np.float32))
NOBODY = Neighbours(np.empty(0, "<U1"), dict.fromkeys(RELATIONS, NO_LINKS))
