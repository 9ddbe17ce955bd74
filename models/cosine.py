"""Vectors of length one, whose inner products are cosines."""

import numpy as np
from numpy.typing import NDArray


def unit(vectors: NDArray[np.floating], count: int) -> NDArray[np.float32]:
    """[count, d] the vectors, each divided by its length.

    A row of zeros, an item without an embedding, stays as it is: its cosine with every other is 0.

    Raises:
        ValueError: not [count, d], or not finite.
    """
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"vectors must be [{count}, d], one row per item, got shape {vectors.shape}")
    rows = np.asarray(vectors, np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if not np.isfinite(lengths).all():
        raise ValueError("vectors must be finite, got NaN or infinity; pass zeros for an item without a vector")
    return np.asarray(rows / np.where(lengths > 0, lengths, 1)[:, None])
