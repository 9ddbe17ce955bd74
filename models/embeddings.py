"""The item vectors of an index on disk, without ScaNN: `ids.parquet` and `embeddings.npy`, mapped.

The API scores candidates with them and measures likeness; ScaNN (`models.index`) is the predictors' alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from recsys.errors import Permanent


class BadIndex(Permanent):
    """The vectors, ids or files cannot make an index that may be searched."""


@dataclass(frozen=True, eq=False)
class Extended:
    """Rows of an index and more behind them, looked up as those of one matrix; the mapped ones are not copied.

    Attributes:
        shipped: [n, dim].
        fresh: [m, dim], rows n and up.
    """

    shipped: "Vectors"
    fresh: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), int(self.shipped.shape[1])

    def __len__(self) -> int:
        return len(self.shipped) + len(self.fresh)

    def __getitem__(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """[k, dim] the vectors of k rows."""
        found = np.empty((len(rows), self.shape[1]), np.float32)
        behind = rows >= len(self.shipped)
        found[~behind] = self.shipped[rows[~behind]]
        found[behind] = self.fresh[rows[behind] - len(self.shipped)]
        return found

    def __matmul__(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n + m] dot products of all vectors with one, [dim]."""
        return np.concatenate([self.shipped @ query, self.fresh @ query])


Vectors = NDArray[np.float32] | Extended


def read(folder: Path) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
    """Ids and vectors of an index on disk, without ScaNN and without judging them.

    Raises:
        BadIndex: a file is missing, truncated or of another type.
    """
    try:
        ids = pyarrow.parquet.read_table(folder / "ids.parquet").column("item_id").to_numpy(zero_copy_only=False)
        # As a plain array over the same pages: numpy's class for them makes every small product half as long again.
        vectors = np.asarray(np.load(folder / "embeddings.npy", mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise BadIndex(f"{folder} cannot be read: {error}; build the index again") from error
    return ids, vectors
