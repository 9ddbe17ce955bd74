"""What the shop can show on a day, arranged for drawing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator import catalogue, vocabulary
from simulator.world import World

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEW_DAYS = 3


@dataclass(frozen=True)
class Shelf:
    """The items of a day, arranged so that drawing by popularity within any leaf is one binary search.

    Attributes:
        order: [n] item rows, sorted by leaf.
        cumulative: [n + 1] running sum of demand in that order.
        bounds: [leaves + 1] where each leaf begins in `order`.
        fresh: rows of the new arrivals. present: rows of all that have arrived.
    """

    order: Ints
    cumulative: Floats
    bounds: Ints
    fresh: Ints
    present: Ints

    def popular(self, chance: Floats) -> Ints:
        """[n] items by demand, from uniform numbers."""
        return self._at(chance * self.cumulative[-1])

    def within(self, leaf: Ints, chance: Floats) -> Ints:
        """[n] items of a leaf by demand; of the whole shop where the leaf is empty."""
        low, high = self.cumulative[self.bounds[leaf]], self.cumulative[self.bounds[leaf + 1]]
        empty = high - low <= 0
        return self._at(np.where(empty, chance * self.cumulative[-1], low + chance * (high - low)))

    def _at(self, point: Floats) -> Ints:
        slot = np.searchsorted(self.cumulative, point, side="right") - 1
        rows: Ints = self.order[np.clip(slot, 0, len(self.order) - 1)]
        return rows


def of_day(world: World, day: int) -> Shelf:
    """What can be shown on a day."""
    demand = world.demand(day)
    order = np.argsort(world.items.leaf, kind="stable")
    bounds = np.searchsorted(world.items.leaf[order], np.arange(len(vocabulary.LEAVES) + 1))
    present = np.flatnonzero(demand > 0)
    opening = world.plan.start_us + day * catalogue.DAY_US
    age = opening - world.items.created[present]
    fresh = present[age < NEW_DAYS * catalogue.DAY_US]
    return Shelf(order, np.concatenate([[0.0], np.cumsum(demand[order])]), bounds, fresh, present)


def numbers(index: int, count: int, first: int = 0) -> Ints:
    """Numbers unique over the simulation: ten million a day."""
    return np.int64(index) * 10_000_000 + first + np.arange(count)
