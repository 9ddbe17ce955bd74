"""The ranking features of items: what their statistics say, beside those of their category."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from three_items import DAY, NOW, features, shop

from feature_repo import names, transforms

KITCHEN = ["Home > Kitchen", "Home > Kitchen", "Art"]


def test_items_are_described_by_price_popularity_and_age() -> None:
    found = features()
    assert found["item_price"] == pytest.approx([math.log(10), math.log(100), 0, 0])
    assert found["item_has_price"] == [1, 1, 0, 0]
    assert found["item_popularity"] == pytest.approx([math.log(11), math.log(6), 0, 0])
    assert found["item_popularity_rank"][:3] == pytest.approx([2 / 3, 1 / 3, 0])
    assert found["item_age"] == pytest.approx([math.log(101), math.log(2), 0, 0])
    assert found["item_under_48h"] == [0, 1, 0, 0]
    assert found["item_stats_age"] == [1, 1, 1, 30]
    assert found["item_idle"][0] < found["item_idle"][1] == found["item_idle"][3]


def test_trends_compare_a_window_with_the_next_longer_one() -> None:
    """The mug: 6 of the week's 14 views and clicks today, and 30 in the month."""
    counts = {"view_1d": 4.0, "click_1d": 2.0, "view_7d": 14.0, "view_30d": 30.0}
    found = features(matrix=shop(**{name: [count, 0.0, 0.0] for name, count in counts.items()}))
    assert found["item_interest_1d_to_7d"] == pytest.approx([math.log(7 / 3), 0, 0, 0])
    assert found["item_interest_7d_to_30d"] == pytest.approx([math.log(15 / 8), 0, 0, 0])
    assert found["item_purchase_1d_to_7d"] == [0, 0, 0, 0]


def test_a_rate_leads_that_of_its_category() -> None:
    """20 purchases to 100 views in the kitchen; with 20 more views at that rate, 12 to 100 for the mug, 16 to 40."""
    found = features(matrix=shop(category=KITCHEN, view_30d=[80.0, 20.0, 0.0], purchase_30d=[8.0, 12.0, 5.0]))
    assert found["category_purchase_rate"] == pytest.approx([0.2, 0.2, 0, 0])
    assert found["item_purchase_rate_lead"] == pytest.approx([math.log(0.121 / 0.201), math.log(0.401 / 0.201), 0, 0])
    assert found["category_cart_rate"] == found["item_cart_rate_lead"] == [0, 0, 0, 0]


def test_items_are_ranked_within_their_category() -> None:
    found = features(matrix=shop(category=KITCHEN))
    assert found["item_category_rank"] == [1, 0, 0, 0]
    assert found["item_category_share"] == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert found["item_price_rank"] == [0, 1, 0, 0]
    assert found["item_price_category_rank"] == [0, 1, 0, 0]
    assert found["category_size"] == pytest.approx([math.log(3), math.log(3), math.log(2), 0])
    assert found["category_popularity"] == pytest.approx([math.log(8.5), math.log(8.5), 0, 0])
    assert found["category_trend"] == pytest.approx([-math.log(16), -math.log(16), 0, 0])


def test_an_item_of_tomorrow_does_not_count_in_its_category() -> None:
    """The lamp has no statistics yet: it is of a later day than the request."""
    found = features(matrix=shop(category=KITCHEN, popularity=[10.0, 0.0, 0.0], stats_time=[NOW - DAY, 0, NOW - DAY]))
    assert found["category_size"][0] == pytest.approx(math.log(2))
    assert found["category_popularity"][0] == pytest.approx(math.log(11))
    assert found["item_category_rank"][0] == 0


def test_price_bands_hold_equally_many_items() -> None:
    count = 20
    columns = {name: [None] * count for name in transforms.ITEM_COLUMNS} | {
        "item_id": [f"item {k}" for k in range(count)],
        "price": np.arange(1.0, count + 1),
        **{name: np.zeros(count) for name in names.ITEM_STATS},
    }
    bands = transforms.item_matrix(columns).code("price_band")
    assert bands.tolist() == [*np.repeat(np.arange(1, 11), 2), 0]


anything = st.lists(st.floats(width=32), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    stats=st.fixed_dictionaries(dict.fromkeys(names.ITEM_STATS, anything)),
    prices=anything,
    times=st.lists(st.sampled_from([0.0, NOW, math.nan]), min_size=3, max_size=3),
    category=st.lists(st.sampled_from(["Art", "Home", None]), min_size=3, max_size=3),
)
def test_any_statistics_give_finite_features(
    stats: dict[str, list[float]], prices: list[float], times: list[float], category: list[str | None]
) -> None:
    matrix = shop(**stats, price=prices, stats_time=times, category=category)
    assert np.isfinite(matrix.static).all()
    assert (matrix.static[-1] == 0).all()
