"""Listening to a no, judged by the truth of a simulated shop: fewer dismissals, and no purchase less."""

import pytest

from bench import regret
from simulator.world import Plan


@pytest.mark.parametrize("seed", range(3))
def test_dismissals_fall_and_purchases_do_not(seed: int) -> None:
    heard, deaf = regret.compare(Plan(users=2_000, items=500, events=300_000, days=30, seed=seed))
    assert heard.dislikes < deaf.dislikes
    assert heard.returns < deaf.returns
    assert heard.purchases >= deaf.purchases
    assert heard.clicks >= deaf.clicks
