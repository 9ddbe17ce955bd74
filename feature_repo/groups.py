"""Rows grouped by an integer key: what each group sums up to, and which group another row's key finds. A hash join."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Groups:
    """Rows by key. What is known per group has one row more, the last: for a key that no row has.

    Attributes:
        keys: [groups] sorted, unique.
        order: [members] rows by key; those of one key as they came.
        starts: [groups] where each begins in `order`.
    """

    keys: Ints
    order: Ints
    starts: Ints

    @staticmethod
    def of(keys: Ints, member: Bools) -> "Groups":
        """Group the rows that are `member`; keys [rows] are at least 0.

        Keys [kinds, rows] put each row into as many groups; those of different kinds must differ.
        """
        places = np.flatnonzero(member)
        flat = keys.ravel()[places]
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        starts = np.flatnonzero(_changes(ordered))
        return Groups(ordered[starts], places[order] % max(keys.shape[-1], 1), starts)

    def find(self, keys: Ints) -> Ints:
        """The group of each key, the last where there is none."""
        place = np.searchsorted(self.keys, keys)
        return np.where(np.append(self.keys, -1)[place] == keys, place, len(self.keys))

    def total(self, values: NDArray[np.generic]) -> Floats:
        """[groups + 1, …] sums of `values` [rows, …]; 0 where there is none."""
        return self._reduced(np.add, values, 0.0)

    def least(self, values: NDArray[np.generic]) -> Floats:
        """[groups + 1, …] smallest of `values` [rows, …]; infinite where there is none."""
        return self._reduced(np.minimum, values, np.inf)

    def most(self, values: NDArray[np.generic]) -> Floats:
        """[groups + 1, …] largest of `values` [rows, …]; 0 where there is none."""
        return self._reduced(np.maximum, values, 0.0)

    @cached_property
    def group(self) -> Ints:
        """[members] the group of each, in the order of `order`."""
        return np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, len(self.order))))

    def of_each(self, values: Ints, worth: NDArray[np.generic] | None = None) -> Floats:
        """[groups + 1] number of different `values` [rows], or what their first rows are worth; equal values of a group
        lie side by side."""
        first = _changes(self.group) | _changes(values[self.order])
        return self.counted(first if worth is None else first * worth[self.order])

    def counted(self, members: NDArray[np.generic]) -> Floats:
        """[groups + 1] sums of a value per member."""
        return np.bincount(self.group, members, len(self.keys) + 1).astype(np.float64, copy=False)

    def _reduced(self, function: np.ufunc, values: NDArray[np.generic], nothing: float) -> Floats:
        found = np.full((len(self.keys) + 1, *values.shape[1:]), nothing)
        if len(self.keys):
            function.reduceat(values[self.order], self.starts, axis=0, out=found[:-1], dtype=np.float64)
        return found


def _changes(values: Ints) -> Bools:
    """Whether a value differs from the one before; the first does."""
    found = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=found[1:])
    return found
