"""What shoppers take back: they dislike what turns out not to please them, and return what they should not have bought.

Both chances follow from the truth, the same log-odds by which a shopper clicks: so what a shop gains by listening can
be measured without asking anybody.
"""

import numpy as np
from numpy.typing import NDArray

from simulator import catalogue, frame
from simulator.frame import Frame
from simulator.world import World

Floats = NDArray[np.float64]

DISLIKES = 0.35  # of the views of what displeases thoroughly
RETURNS = 0.5  # of such purchases
DAYS = 5.0  # mean days from a purchase to its return, after the first
SECOND = 1_000_000


def dislike_chance(logit: Floats) -> Floats:
    """[n] that who viewed an item dismisses it, from `World.click_logit`: an average item one time in four."""
    return DISLIKES / (1 + np.exp(1.2 * (logit + 2.2)))


def return_chance(logit: Floats) -> Floats:
    """[n] that a purchase is returned."""
    return RETURNS / (1 + np.exp(1.2 * (logit + 1.4)))


def dislikes(world: World, index: int, tastes: Floats, views: Frame, rng: np.random.Generator) -> Frame:
    """Dislikes that follow on views of a day.

    Args:
        world: the truth.
        index: the day.
        tastes: `shoppers.taste_at` of it.
        views: who viewed what.
        rng: a stream of chance of its own, so that all else that happens is the same as without.
    """
    logit = world.click_logit(tastes, views.user, views.item, index)
    displeased = views.take(rng.random(len(views)) < dislike_chance(logit))
    nothing = np.full(len(displeased), np.nan)
    wait = (400 + rng.exponential(60, size=len(displeased))) * SECOND
    return displeased.of(frame.DISLIKE).but(time=displeased.time + wait.astype(np.int64), duration=nothing)


def returns(world: World, made: Frame, index: int) -> Frame:
    """The returns that will follow on the purchases of a day, at the time when they will be made."""
    rng = world.rng("returns", index)
    bought = made.take(made.kind == frame.PURCHASE)
    logit = world.click_logit(world.shoppers.taste_at(index / world.plan.days), bought.user, bought.item, index)
    back = bought.take(rng.random(len(bought)) < return_chance(logit))
    count = len(back)
    days = 1 + rng.exponential(DAYS - 1, size=count)
    return back.of(frame.RETURN).but(
        time=back.time + (days * catalogue.DAY_US).astype(np.int64),
        request=np.full(count, -1),
        position=np.full(count, -1),
        value=np.full(count, np.nan),
        quantity=np.full(count, -1),
    )
