"""The ranking features of what a visitor did: touches, deeds, rhythm, repeats, visits, prices and neighbours."""

import math

import numpy as np
import pytest
from three_items import POSTER, features, history, shop

from feature_repo.neighbours import Links, Neighbours
from feature_repo.ranking_table import RELATIONS

MINUTE = 1 / 1440  # days
LOG10 = math.log(10)  # log price of the mug; the lamp's is twice that


def test_history_is_counted_per_item_category_and_brand() -> None:
    found = features(history(("mug", "view", 7.0), ("mug", "purchase", 1.0), ("lamp", "view", 3.0)))
    assert found["item_touches"] == pytest.approx([math.log(3), math.log(2), 0, 0])
    assert found["top_category_touches"] == pytest.approx([math.log(4), math.log(4), 0, 0])
    assert found["brand_touches"] == pytest.approx([math.log(4), math.log(4), 0, 0])
    assert found["item_recency"] == pytest.approx([1 / 2, 1 / 4, 0, 0])
    assert found["item_decayed_7d"][0] == pytest.approx(math.log1p(1 * 0.5 + 4 * 0.5 ** (1 / 7)))
    assert found["item_bought"] == pytest.approx([math.log(2), 0, 0, 0])
    assert found["user_history_distinct"] == pytest.approx([2 / 3] * 4)
    assert found["user_is_new"] == [0, 0, 0, 0]


def test_an_item_without_brand_shares_no_brand() -> None:
    found = features(history(("poster", "view", 1.0)))
    assert found["brand_touches"] == [0, 0, 0, 0]
    assert found["category_touches"][POSTER] > 0


def test_touches_are_placed_in_visits_and_in_the_order_of_events() -> None:
    """A visit to the mug; days later one to the lamp, then to the mug again."""
    found = features(history(("mug", "view", 10.0), ("lamp", "purchase", 5.0), ("mug", "view", 5.0 - 10 * MINUTE)))
    assert found["item_last_visit"] == pytest.approx([math.log(2), math.log(2), 0, 0])
    assert found["brand_last_visit"] == pytest.approx([math.log(3), math.log(3), 0, 0])
    assert found["item_visit_share"] == pytest.approx([1, 1 / 2, 0, 0])
    assert found["top_category_visit_share"] == pytest.approx([1, 1, 0, 0])
    assert found["item_events_ago"] == pytest.approx([1, 1 / 2, 0, 0])
    assert found["price_band_touches"] == pytest.approx([math.log(3), math.log(2), 0, 0])


def test_deeds_are_counted_by_kind() -> None:
    kinds = ("view", "click", "add_to_cart", "purchase")
    found = features(history(*(("mug", kind, 3.0) for kind in kinds), ("lamp", "rate", 2.0), ("lamp", "complete", 2.0)))
    assert found["item_viewed"] == pytest.approx([math.log(3), 0, 0, 0])
    assert found["item_carted"] == pytest.approx([math.log(2), 0, 0, 0])
    assert found["item_bought"] == pytest.approx([math.log(2), 0, 0, 0])
    assert found["item_liked"] == pytest.approx([0, math.log(3), 0, 0])
    assert found["category_liked"] == pytest.approx([0, math.log(3), 0, 0])
    assert found["brand_liked"] == pytest.approx([math.log(3), math.log(3), 0, 0])


def test_a_category_has_its_hours_and_its_weekday() -> None:
    """It is Tuesday, 22:13. The mug was viewed a week ago, and this morning; the lamp on Monday at 00:37."""
    found = features(history(("mug", "view", 7.0), ("lamp", "view", 1.9), ("mug", "view", 0.5)))
    assert found["category_same_hours"] == pytest.approx([1 / 2, 1 / 2, 0, 0])
    assert found["category_same_weekday"] == pytest.approx([1, 0, 0, 0])


def test_a_repeated_purchase_is_due_after_its_usual_gap() -> None:
    found = features(history(("mug", "purchase", 30.0), ("mug", "purchase", 20.0), ("mug", "purchase", 10.0)))
    assert found["item_bought_due"] == pytest.approx([1, 0, 0, 0])
    assert found["item_bought_recency"] == pytest.approx([1 / 11, 0, 0, 0])


def test_gaps_between_purchases_have_a_mean_and_a_spread() -> None:
    """The mug after 10 and 20 days: 15 on average, 5 off; the lamp once."""
    found = features(history(*(("mug", "purchase", days) for days in (40.0, 30.0, 10.0)), ("lamp", "purchase", 40.0)))
    for scope in ("item", "category"):
        assert found[f"{scope}_bought_gap"] == pytest.approx([math.log(16), 0, 0, 0])
        assert found[f"{scope}_bought_gap_spread"] == pytest.approx([1 / 3, 0, 0, 0])
        assert found[f"{scope}_bought_due"] == pytest.approx([2 / 3, 0, 0, 0])
        assert found[f"{scope}_bought_recency"] == pytest.approx([1 / 11, 1 / 41, 0, 0])


def test_an_item_is_due_after_its_usual_number_of_visits() -> None:
    """Four visits: the mug in the first and the third, the lamp in the second and the last."""
    past = [("mug", "view", 40.0), ("lamp", "view", 30.0), ("mug", "view", 20.0)]
    found = features(history(*past, ("lamp", "view", 10.0)))
    assert found["item_visits_ago"] == pytest.approx([1 / 3, 1 / 2, 0, 0])
    assert found["item_visits_due"] == pytest.approx([1, 1 / 2, 0, 0])
    going_on = features(history(*past, ("lamp", "view", 10 * MINUTE)))
    assert going_on["item_visits_ago"] == pytest.approx([1 / 2, 1, 0, 0])
    assert going_on["item_visits_due"] == pytest.approx([1 / 2, 0, 0, 0])


def test_what_was_put_in_the_cart_and_not_bought_is_open() -> None:
    mug = [("mug", "purchase", 5.0), ("mug", "add_to_cart", 3.0)]
    lamp = [("lamp", "view", 6.0), ("lamp", "add_to_cart", 4.0), ("lamp", "purchase", 2.0)]
    found = features(history(*mug, *lamp, ("poster", "add_to_cart", 1.0), ("poster", "view", 1.0)))
    assert found["item_cart_open"] == [1, 0, 1, 0]
    assert found["category_since_bought"] == pytest.approx([math.log(2), 0, math.log(3), 0])


def test_the_last_visit_is_described() -> None:
    """After visits 9 and 6 days ago: the poster, the mug, the lamp, bought, and nothing for two days."""
    before = [("poster", "view", 8.0), ("poster", "view", 5.0)]
    last = [("poster", "view", 2.0), ("mug", "view", 2.0 - 10 * MINUTE), ("lamp", "purchase", 2.0 - 15 * MINUTE)]
    found = features(history(*before, *last))
    assert found["visit_is_open"] == [0] * 4
    assert found["visit_events"] == pytest.approx([math.log(4)] * 4)
    assert found["visit_minutes"] == pytest.approx([math.log(16)] * 4)
    assert found["visit_categories"] == pytest.approx([1] * 4)
    assert found["visit_wanted"] == pytest.approx([1 / 3] * 4)
    assert found["visit_count"] == pytest.approx([math.log(4)] * 4)
    assert found["visit_gap"] == pytest.approx([math.log(4)] * 4)
    assert found["visit_due"] == pytest.approx([(2 - 15 * MINUTE) / 3] * 4)
    assert found["category_run"] == pytest.approx([0, math.log(2), 0, 0])
    assert found["top_category_run"] == pytest.approx([math.log(3), math.log(3), 0, 0])
    assert found["brand_run"] == pytest.approx([math.log(3), math.log(3), 0, 0])


def test_a_visit_ends_after_half_an_hour() -> None:
    going_on = features(history(("mug", "view", 60 * MINUTE), ("mug", "view", 30 * MINUTE)))
    assert going_on["visit_is_open"] == [1] * 4
    assert going_on["visit_count"] == pytest.approx([math.log(2)] * 4)
    over = features(history(("mug", "view", 62 * MINUTE), ("mug", "view", 31 * MINUTE)))
    assert over["visit_is_open"] == [0] * 4
    assert over["visit_count"] == pytest.approx([math.log(3)] * 4)


def test_a_price_is_compared_with_those_of_the_history() -> None:
    """A mug viewed and a lamp bought later: log prices of 1 and 2 times log 10."""
    found = features(history(("mug", "view", 3.0), ("lamp", "purchase", 2.0)))
    assert found["price_gap_history"] == pytest.approx([-LOG10 / 2, LOG10 / 2, 0, 0])
    for name in ("wanted", "visit", "last"):
        assert found[f"price_gap_{name}"] == pytest.approx([-LOG10, 0, 0, 0])
    assert found["price_gap_category"] == pytest.approx([0, 0, 0, 0])
    assert found["price_gap_deviations"] == pytest.approx([-1, 1, 0, 0])
    assert found["price_history_rank"] == pytest.approx([0, 1 / 2, 1 / 2, 1 / 2])
    assert found["price_history_spread"] == pytest.approx([LOG10 / 2] * 4)


def test_a_price_is_compared_within_its_category() -> None:
    kitchen = shop(category=["Home > Kitchen", "Home > Kitchen", "Art"])
    found = features(history(("mug", "view", 3.0), ("lamp", "view", 2.0), ("poster", "view", 1.0)), matrix=kitchen)
    assert found["price_gap_category"] == pytest.approx([-LOG10 / 2, LOG10 / 2, 0, 0])
    assert found["price_gap_last"] == [0, 0, 0, 0]


def test_neighbours_of_the_latest_events_count_most() -> None:
    """A mug leads to the poster, and half as much a lamp; the lamp came last, and the mug 4 times before it."""
    other, weight = np.array([[2], [2], [-1]], np.int32), np.array([[0.5], [1.0], [0]], np.float32)
    known = Neighbours(np.array(["lamp", "mug", "poster"]), dict.fromkeys(RELATIONS, Links(other, weight)))
    found = features(history(*[("mug", "view", 9.0 - k) for k in range(4)], ("lamp", "view", 1.0)), matrix=shop(known))
    mugs = np.arange(1, 5)
    weekly = 0.5 * 0.5 ** (1 / 7) + sum(0.5 ** (days / 7) for days in (9, 8, 7, 6))
    for relation in RELATIONS:
        for half_life in (1, 4, 20):
            expected = 0.5 + np.exp2(-mugs / half_life).sum()
            assert found[f"{relation}_{half_life}e"] == pytest.approx([0, 0, expected, 0])
        assert found[f"{relation}_ever"] == pytest.approx([0, 0, 4.5, 0])
        assert found[f"{relation}_7d"] == pytest.approx([0, 0, weekly, 0])
        assert found[f"{relation}_wanted"] == [0, 0, 0, 0]
        assert found[f"{relation}_last"] == [0, 0, 0.5, 0]
        assert found[f"{relation}_best"] == [0, 0, 1, 0]
        assert found[f"{relation}_best_visit"] == [0, 0, 0.5, 0]
        assert found[f"{relation}_count"] == pytest.approx([0, 0, math.log(6), 0])


def test_neighbours_of_what_was_wanted_count_apart() -> None:
    known = Neighbours(
        np.array(["mug"]), dict.fromkeys(RELATIONS, Links(np.array([[0]]), np.array([[0.5]], np.float32)))
    )
    found = features(history(("mug", "purchase", 5.0), ("mug", "view", 1.0)), matrix=shop(known))
    assert found["next_wanted"] == [0.5, 0, 0, 0]
    assert found["next_ever"] == [1, 0, 0, 0]


def test_a_stranger_has_done_nothing() -> None:
    found = features()
    neutral = {"price_history_rank": 0.5}
    for name in ("item_events_ago", "category_run", "visit_is_open", "visit_due", "next_last", *neutral):
        assert found[name] == [neutral.get(name, 0.0)] * 4


def test_the_order_of_the_store_does_not_matter_but_in_one_second() -> None:
    past = [("mug", "view", 9.0), ("lamp", "purchase", 5.0), ("poster", "view", 1.0)]
    assert features(history(*past)) == features(history(*past[::-1]))
    last, first = features(history(("mug", "view", 1.0), ("lamp", "view", 1.0)))["item_events_ago"][:2][::-1]
    assert (last, first) == pytest.approx((1, 1 / 2))
