"""Lists shown anew in a small simulated shop, and how well an order agrees with the truth."""

import numpy as np
import pandas as pd
import pytest

from bench import position
from feature_repo import transforms
from models import ranker
from pipelines import train_ranker
from pipelines.ranking_examples import Examples
from simulator import world


def examples(lists: int, length: int, price: np.ndarray) -> Examples:
    count = lists * length
    numeric = np.zeros((count, len(transforms.RANKING_FEATURES)), np.float32)
    numeric[:, transforms.RANKING_FEATURES.index("item_price")] = price
    request = np.repeat(np.arange(lists), length)
    return Examples(
        numeric=numeric,
        strings={name: np.full(count, "", object) for name in ranker.STRINGS},
        request=request,
        item_id=np.array([f"i{k:08d}" for k in np.tile(np.arange(length), lists)], object),
        position=np.zeros(count, np.int32),
        labels=np.ones((count, len(ranker.CHAIN)), np.float32),
        amount=np.ones(count, np.float32),
        log_rate=np.zeros(count, np.float32),
        chosen=np.zeros(lists, np.int64),
        time=np.arange(lists, dtype=np.float64),
    )


def test_the_dearest_is_shown_first_and_looks_fall_with_the_place() -> None:
    lists = 4000
    given = examples(lists, 3, np.tile([1.0, 3.0, 2.0], lists))
    shown = position.show(given, np.full(3 * lists, 20.0), np.random.default_rng(1))
    assert shown.position.tolist() == [2, 0, 1] * lists
    clicked = shown.labels[:, 0].reshape(lists, 3).mean(0)[[1, 2, 0]]
    assert clicked == pytest.approx(world.attention()[:3], abs=0.03), "everybody likes everything, and clicks on a look"
    assert not shown.labels[:, 1:].any()
    assert not shown.amount.any()


def test_who_is_not_known_has_no_truth_and_leaves_the_lists() -> None:
    shop = world.build(world.Plan(users=60, items=60, events=2_000, days=5))
    asked = pd.DataFrame({"user_id": ["u00000003", ""], "time": [shop.plan.start_us / 1e6 + 100.0] * 2})
    given = examples(2, 4, np.arange(8.0))
    liking = position.truth(shop, given, asked)
    tastes = shop.shoppers.taste_at(0)
    own = shop.click_logit(tastes, np.full(4, 3), np.arange(4), 0)
    assert liking[:4] == pytest.approx(own)
    assert np.isnan(liking[4:]).all()
    assert position.show(given, liking, np.random.default_rng(1)).request.tolist() == [0] * 4


def test_a_click_head_learns_a_plain_truth() -> None:
    rng = np.random.default_rng(2)
    price = rng.permuted(np.tile([1.0, 2.0, 3.0, 4.0], (60, 1)), axis=1).ravel()
    liking = 4 * (price - 2.5)  # the dear ones
    shown = position.show(examples(60, 4, price), liking, rng)
    params = train_ranker.Params(day="2026-01-01", run="r", epochs=3, batch=8, learning_rate=5e-3, debias="none")
    found = position.reach(shown, shown, liking, params, seed=3)
    assert found.shape == (60,)
    assert found.mean() > 0.9


def test_agreement_is_one_for_the_true_order_and_minus_one_for_its_reverse() -> None:
    request, liking = np.array([0, 0, 0, 1, 1, 2]), np.array([3.0, 2, 1, 5, 6, 1])
    assert position.agreement(liking, liking, request).tolist() == [1.0, 1.0], "a list of one has no order"
    assert position.agreement(-liking, liking, request).tolist() == [-1.0, -1.0]
