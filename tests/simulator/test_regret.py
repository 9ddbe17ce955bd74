"""Shoppers take back what does not please them, as the truth says."""

import numpy as np
import pytest

from simulator import canonical, frame, regret, world
from simulator.world import World


@pytest.fixture(scope="module")
def shop() -> World:
    return world.build(world.Plan(users=1_000, items=300, events=60_000, days=20))


@pytest.fixture(scope="module")
def log(shop: World) -> frame.Frame:
    return frame.concat(list(canonical.days(shop)))


def logits(shop: World, rows: frame.Frame) -> np.ndarray:
    return shop.click_logit(shop.shoppers.taste_at(0.5), rows.user, rows.item, 10)


@pytest.mark.parametrize(("kind", "of"), [(frame.DISLIKE, frame.VIEW), (frame.RETURN, frame.PURCHASE)])
def test_what_is_taken_back_pleases_less(shop: World, log: frame.Frame, kind: int, of: int) -> None:
    taken, done = log.take(log.kind == kind), log.take(log.kind == of)
    assert 0.01 < len(taken) / len(done) < 0.15
    assert logits(shop, taken).mean() < logits(shop, done).mean() - 0.3


def test_a_return_is_of_an_earlier_purchase_of_the_same_visitor(log: frame.Frame) -> None:
    bought: dict[tuple[int, int, int], int] = {}
    for row in np.flatnonzero(np.isin(log.kind, [frame.PURCHASE, frame.RETURN])):
        key = (int(log.user[row]), int(log.session[row]), int(log.item[row]))
        if log.kind[row] == frame.PURCHASE:
            bought.setdefault(key, int(log.time[row]))
        else:
            assert log.time[row] - bought[key] >= 86_400_000_000


def test_a_dislike_names_the_request_that_showed_the_item(log: frame.Frame) -> None:
    disliked = log.take(log.kind == frame.DISLIKE)
    shown = set(zip(log.request[log.kind == frame.IMPRESSION], log.item[log.kind == frame.IMPRESSION], strict=True))
    asked = disliked.request >= 0
    assert asked.mean() > 0.2
    assert set(zip(disliked.request[asked], disliked.item[asked], strict=True)) <= shown


def test_the_chances_fall_with_liking() -> None:
    liking = np.linspace(-6, 4, 50)
    for chance in (regret.dislike_chance(liking), regret.return_chance(liking)):
        assert (np.diff(chance) < 0).all()
        assert 0 < chance.min() < chance.max() < 0.5
