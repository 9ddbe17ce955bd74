"""Rows of two matrices as of one."""

import numpy as np

from models.embeddings import Extended


def test_rows_are_those_of_one_matrix() -> None:
    shipped, fresh = np.eye(3, dtype=np.float32), np.full((2, 3), 0.5, np.float32)
    both = Extended(shipped, fresh)
    rows = np.array([4, 0, 2, 3, 0])
    np.testing.assert_array_equal(both[rows], np.concatenate([shipped, fresh])[rows])
    assert both[rows[:0]].shape == (0, 3)
    assert both.shape == (5, 3)
    assert (both @ np.array([1, 2, 3], np.float32)).tolist() == [1, 2, 3, 3, 3]
