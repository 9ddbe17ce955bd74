"""Only consumables are bought again, after weeks, in visits of their own."""

import numpy as np
import pandas as pd
import pytest

from simulator import behaviour, frame, restock, vocabulary, world
from simulator.catalogue import DAY_US
from simulator.world import Plan


@pytest.fixture(scope="module")
def bought() -> tuple[world.World, frame.Frame]:
    shop = world.build(Plan(users=500, items=300, events=50_000, days=60))
    return shop, behaviour.people(shop, 5, 3_000)


def test_what_lasts_is_not_bought_again(bought: tuple[world.World, frame.Frame]) -> None:
    shop, day = bought
    again = restock.due(shop, day, 5)
    assert 0 < len(again) < (day.kind == frame.PURCHASE).sum()
    assert again.known.all()
    assert all(vocabulary.LEAVES[leaf].consumable for leaf in shop.items.leaf[again.item])
    weeks = (again.time - (shop.plan.start_us + 5 * DAY_US)) / DAY_US
    assert weeks.min() > 3
    assert 15 < np.median(weeks) < 35


def test_a_repeat_is_a_visit_of_view_cart_and_purchase(bought: tuple[world.World, frame.Frame]) -> None:
    shop, day = bought
    visits = restock.visits(shop, restock.due(shop, day, 5), 20, first_session=99).sorted()
    kinds = pd.Series(visits.kind).groupby(visits.session).agg(list)
    assert kinds.map(lambda found: found == [frame.VIEW, frame.CART, frame.PURCHASE]).all()
    assert (visits.request == -1).all()
