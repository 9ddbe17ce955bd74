"""Consumables run out: some of those who bought coffee or shampoo buy the very same again when it is used up."""

import numpy as np
from numpy.typing import NDArray

from simulator import catalogue, frame, shelf, vocabulary
from simulator.frame import Frame
from simulator.world import World

Ints = NDArray[np.int64]

SHARE = 0.45  # of the purchases of consumables by people who are logged in are repeated
DAYS = 18.0  # mean time that one piece lasts
SPREAD = 0.25  # of that time, as a share of it
SECOND = 1_000_000


def due(world: World, bought: Frame, index: int) -> Frame:
    """The purchases that will follow on those of a day, at the time when they will be made.

    Args:
        world: the truth.
        bought: the events of a day.
        index: the day, for its stream of chance.
    """
    rng = world.rng("restock", index)
    consumable = np.array([leaf.consumable for leaf in vocabulary.LEAVES])[world.items.leaf[bought.item]]
    again = (bought.kind == frame.PURCHASE) & bought.known & consumable & (rng.random(len(bought)) < SHARE)
    purchases = bought.take(again)
    lasts = DAYS * np.sqrt(purchases.quantity) * np.maximum(0.3, 1 + SPREAD * rng.normal(size=len(purchases)))
    return purchases.but(time=purchases.time + (lasts * catalogue.DAY_US).astype(np.int64))


def visits(world: World, due_today: Frame, index: int, first_session: int) -> Frame:
    """Short visits without a page of the shop: search, view, cart, purchase."""
    count = len(due_today)
    rng = world.rng("restock visits", index)
    visit = due_today.but(
        session=shelf.numbers(index, count, first_session),
        request=np.full(count, -1),
        surface=np.full(count, frame.SEARCH),
        position=np.full(count, -1),
    )
    seconds = np.round(5 + rng.exponential(15, size=count), 1)
    nothing = np.full(count, np.nan)
    seen = visit.of(frame.VIEW).but(value=nothing, quantity=np.full(count, -1), duration=seconds)
    cart = visit.of(frame.CART).but(time=visit.time + (seconds * SECOND).astype(np.int64))
    bought = visit.of(frame.PURCHASE).but(
        time=cart.time + ((20 + rng.exponential(40, count)) * SECOND).astype(np.int64)
    )
    return frame.concat([seen, cart, bought])
