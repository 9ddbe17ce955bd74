"""The item vectors of an index on disk, without ScaNN: `ids.parquet` and `embeddings.npy`, mapped.

The API scores candidates with them and measures likeness; ScaNN (`models.index`) is the predictors' alone.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from recsys.errors import Permanent


class BadIndex(Permanent):
    """The vectors, ids or files cannot make an index that may be searched."""


def read(folder: Path) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
    """Ids and vectors of an index on disk, without ScaNN and without judging them.

    Raises:
        BadIndex: a file is missing, truncated or of another type.
    """
    try:
        ids = pyarrow.parquet.read_table(folder / "ids.parquet").column("item_id").to_numpy(zero_copy_only=False)
        vectors = np.load(folder / "embeddings.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise BadIndex(f"{folder} cannot be read: {error}; build the index again") from error
    return ids, vectors
