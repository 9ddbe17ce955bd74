"""Machines among the shoppers: scrapers walk the catalogue second by second at night; boosters click and like one
item every three seconds. Neither looks at impressions."""

import numpy as np
from numpy.typing import NDArray

from simulator import catalogue, frame, shelf, shoppers
from simulator.frame import Frame
from simulator.world import World

Ints = NDArray[np.int64]

SECOND = 1_000_000
SHARE = 0.02  # of all events
VISIT = 120  # fewest events that a machine makes on a day when it is at work


def visits(world: World, index: int, events: int, first_session: int) -> list[Frame]:
    """The visits of a few machines on one day; arguments as `behaviour.people`."""
    rng, who = world.rng("bots", index), world.shoppers
    machines = np.flatnonzero(who.bot > 0)
    busy = rng.permutation(machines)[: max(1, events // VISIT)]
    shares = np.diff(np.linspace(0, events, len(busy) + 1).astype(np.int64))
    present = shelf.of_day(world, index).present
    opening = world.plan.start_us + index * catalogue.DAY_US
    made = []
    for nth, (user, count) in enumerate(zip(busy, shares, strict=True)):
        steps = np.arange(count)
        begin = opening + int(rng.integers(3600)) * SECOND
        session = shelf.numbers(index, 1, first_session + nth)[0]
        if who.bot[user] == shoppers.SCRAPER:
            walk = present[(rng.integers(len(present)) + steps) % len(present)]
            scraped = _machine(user, session, begin + steps * SECOND, walk, np.full(count, frame.VIEW))
            made.append(scraped.but(duration=np.full(count, 0.2)))
        else:
            pushed = np.full(count, world.rng("booster", int(user)).choice(np.flatnonzero(world.demand(0))))
            kinds = np.where(steps % 4 == 3, frame.LIKE, frame.CLICK)
            made.append(_machine(user, session, begin + 3 * steps * SECOND, pushed, kinds))
    return made


def _machine(user: int, session: int, time: Ints, item: Ints, kind: Ints) -> Frame:
    count = len(time)
    return frame.blank(
        time=time,
        user=np.full(count, user),
        known=np.ones(count, bool),
        session=np.full(count, session),
        request=np.full(count, -1),
        item=item,
        kind=kind,
        surface=np.full(count, frame.SEARCH),
        position=np.full(count, -1),
    )
