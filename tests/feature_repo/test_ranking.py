"""The ranking features, checked on a shop of three items that a reader can hold in mind."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo import names, transforms
from feature_repo.neighbours import NOBODY, Links, Neighbours
from feature_repo.ranking_table import BLOCKS, RELATIONS

NOW = 1_700_000_000.0  # a Tuesday, 22:13 UTC
DAY = 86_400.0
MUG, LAMP, POSTER = 0, 1, 2


def shop(neighbours: Neighbours = NOBODY, **changed: Any) -> transforms.ItemMatrix:
    """A mug and a lamp of brand Acme, and a poster, sold in France only, that nobody has priced."""
    columns: dict[str, Any] = {
        "item_id": ["mug", "lamp", "poster"],
        "category": ["Home > Kitchen", "Home > Light", "Art"],
        "brand": ["Acme", "Acme", None],
        "tags": [["Tea"], [], None],
        "price": [9.0, 99.0, math.nan],
        "regions": [[], None, ["FR"]],
        "created_at": np.array([NOW - 100 * DAY, NOW - DAY, np.nan]),
        "item_last_event_time": [NOW - 2 * DAY, 0, 0],
        "stats_time": [NOW - DAY] * 3,
        **{name: [0.0, 0.0, math.nan] for name in names.ITEM_STATS},
        "popularity": [10.0, 5.0, 0.0],
    }
    return transforms.item_matrix(columns | changed, neighbours)


def users(count: int = 1, **known: Any) -> dict[str, Any]:
    """`count` users of whom nothing is known, unless given."""
    nobody = {name: [None] * count for name in transforms.USER_COLUMNS} | {"user_id": [""] * count}
    return nobody | known


def history(*past: tuple[str, str, float]) -> dict[str, Any]:
    """The history columns of one user, from (item, event, days ago)."""
    return {
        "user_id": ["ann"],
        "history_items": [[item for item, _, _ in past]],
        "history_events": [[event for _, event, _ in past]],
        "history_times": [[int(NOW - days * DAY) for _, _, days in past]],
    }


def requests(known: dict[str, Any] | None = None, region: str = "") -> transforms.Requests:
    return transforms.Requests(users(**(known or {})), np.array([NOW]), [region], ["home"])


def candidates(items: list[int], rank: list[int] | None = None, request: list[int] | None = None) -> Any:
    return transforms.Candidates(
        np.array(request or [0] * len(items)),
        np.array(items),
        np.linspace(0.9, 0.1, len(items)),
        np.array(rank or range(len(items))),
    )


def features(known: dict[str, Any] | None = None, region: str = "", matrix: Any = None) -> dict[str, list[float]]:
    """Per feature, its value for the mug, the lamp, the poster and an unknown item."""
    found = transforms.ranking_features(requests(known, region), candidates([0, 1, 2, -1]), matrix or shop())
    return {name: found[:, k].tolist() for k, name in enumerate(transforms.RANKING_FEATURES)}


def test_every_feature_is_named_once_and_documented() -> None:
    assert len(set(transforms.RANKING_FEATURES)) == len(transforms.RANKING_FEATURES) >= 60
    assert sum(map(len, BLOCKS.values())) == len(transforms.RANKING_FEATURES)
    assert all(len(doc) > 10 for doc in transforms.RANKING_DOCS.values())


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


def test_a_repeated_purchase_is_due_after_its_usual_gap() -> None:
    found = features(history(("mug", "purchase", 30.0), ("mug", "purchase", 20.0), ("mug", "purchase", 10.0)))
    assert found["item_bought_due"] == pytest.approx([1, 0, 0, 0])
    assert found["item_bought_recency"] == pytest.approx([1 / 11, 0, 0, 0])


def test_neighbours_of_the_latest_events_count_most() -> None:
    """A mug leads to the poster, and half as much a lamp; the lamp came last, and the mug 4 times before it."""
    other, weight = np.array([[2], [2], [-1]], np.int32), np.array([[0.5], [1.0], [0]], np.float32)
    known = Neighbours(np.array(["lamp", "mug", "poster"]), dict.fromkeys(RELATIONS, Links(other, weight)))
    found = features(history(*[("mug", "view", 9.0 - k) for k in range(4)], ("lamp", "view", 1.0)), matrix=shop(known))
    mugs = np.arange(1, 5)
    for relation in RELATIONS:
        for half_life in (1, 4, 20):
            expected = 0.5 + np.exp2(-mugs / half_life).sum()
            assert found[f"{relation}_{half_life}e"] == pytest.approx([0, 0, expected, 0])
        assert found[f"{relation}_ever"] == pytest.approx([0, 0, 4.5, 0])
        assert found[f"{relation}_best"] == [0, 0, 1, 0]


def test_an_item_without_brand_shares_no_brand() -> None:
    found = features(history(("poster", "view", 1.0)))
    assert found["brand_touches"] == [0, 0, 0, 0]
    assert found["category_touches"][POSTER] > 0


def test_future_events_change_nothing() -> None:
    past = history(("mug", "view", 7.0))
    leaked = history(("mug", "view", 7.0), ("lamp", "purchase", 0.0), ("poster", "purchase", -1.0))
    assert features(past) == features(leaked)


def test_affinities_and_stated_preferences_meet_the_item() -> None:
    known = {
        "categories": [["Home > Light", "Gone"]],
        "category_weights": [[0.7, 0.3]],
        "top_categories": [["Home"]],
        "top_category_weights": [[0.8]],
        "brands": [["Acme", ""]],
        "brand_weights": [[0.6, 0.9]],
        "preferences": [["HOME", "tea", "unheard of"]],
    }
    found = features(known)
    assert found["category_affinity"] == pytest.approx([0, 0.7, 0, 0])
    assert found["top_category_affinity"] == pytest.approx([0.8, 0.8, 0, 0])
    assert found["brand_affinity"] == pytest.approx([0.6, 0.6, 0, 0])
    assert found["preference_match"] == [2, 1, 0, 0]
    assert found["user_focus"] == pytest.approx([0.8] * 4)


def test_price_is_compared_with_what_the_user_pays() -> None:
    found = features({"mean_price_30d": [9.0], **history(("lamp", "view", 1.0))})
    assert found["price_gap"] == pytest.approx([0, math.log(10), 0, 0])
    assert found["price_gap_history"] == pytest.approx([-math.log(10), 0, 0, 0])


def test_regions_of_items_and_requests() -> None:
    assert features({}, "FR")["region_match"] == [1, 1, 1, 1]
    assert features({}, "FR")["region_named"] == [0, 0, 1, 0]
    assert features({}, "GB")["region_match"] == [1, 1, 0, 1]
    assert features({"region": ["GB"]})["region_match"] == [1, 1, 0, 1]
    assert features({}, "")["region_match"] == [1, 1, 1, 1]
    assert features({"region": ["GB"]}, "FR")["region_away"] == [1, 1, 1, 1]


def test_what_retrieval_did_not_return_is_marked() -> None:
    found = transforms.ranking_features(requests(), candidates([MUG, LAMP], rank=[3, -1]), shop())
    values = dict(zip(transforms.RANKING_FEATURES, found.T.tolist(), strict=True))
    assert values["retrieval_rank_reciprocal"] == [0.25, 0]
    assert values["retrieval_found"] == [1, 0]
    assert values["retrieval_rank"] == pytest.approx([math.log(4), 8])


def test_model_inputs_carry_the_strings() -> None:
    inputs = transforms.ranking_inputs(requests({"region": ["GB"]}), candidates([MUG, POSTER, -1]), shop())
    assert inputs["category"].tolist() == ["Home > Kitchen", "Art", ""]
    assert inputs["brand"].tolist() == ["Acme", "", ""]
    assert inputs["region"].tolist() == ["GB"] * 3
    assert inputs["surface"].tolist() == ["home"] * 3


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="history_times"):
        transforms.ranking_features(transforms.Requests({}, np.array([NOW]), [""], [""]), candidates([MUG]), shop())
    with pytest.raises(ValueError, match="stats_time"):
        transforms.item_matrix({"item_id": ["a"]})
    with pytest.raises(ValueError, match="come twice"):
        shop(item_id=["mug", "mug", "poster"])


ITEM_IDS = ["mug", "lamp", "poster", "gone"]
numbers = st.one_of(st.none(), st.floats(width=32))
users_drawn = st.fixed_dictionaries(
    {
        "past": st.lists(
            st.tuples(
                st.sampled_from(ITEM_IDS),
                st.sampled_from(["view", "purchase", "add_to_cart", "unheard of"]),
                st.integers(-(2**40), 2**40),
            ),
            max_size=6,
        ),
        "activity": numbers,
        "region": st.sampled_from([None, "", "FR", "GB"]),
        "weights": st.lists(st.floats(width=32), max_size=3),
        "preferences": st.one_of(st.none(), st.lists(st.sampled_from(["Home", "tea", ""]), max_size=3)),
        "time": st.one_of(st.none(), st.integers(-(2**40), 2**40)),
    }
)


def columns_of(drawn: list[dict[str, Any]]) -> dict[str, Any]:
    """User columns as Feast would give them."""
    return {
        **{name: [u["activity"] for u in drawn] for name in names.USER_ACTIVITY},
        "user_id": ["u" if u["past"] else "" for u in drawn],
        "region": [u["region"] for u in drawn],
        "preferences": [u["preferences"] for u in drawn],
        **{name: [u["time"] for u in drawn] for name in ("signup_time", "first_event_time", "activity_time")},
        **{
            f"history_{what}": [[past[k] for past in u["past"]] for u in drawn]
            for k, what in enumerate(("items", "events", "times"))
        },
        **{name: [["Home", "Art", "Acme"]] * len(drawn) for name in ("categories", "top_categories", "brands")},
        **{
            name: [u["weights"] for u in drawn]
            for name in ("category_weights", "top_category_weights", "brand_weights")
        },
    }


@settings(max_examples=60, deadline=None)
@given(
    drawn=st.lists(users_drawn, min_size=1, max_size=4),
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 2), st.floats(), st.integers(-1, 2000)), max_size=12),
    data=st.data(),
)
def test_any_input_gives_finite_features_that_do_not_depend_on_company_or_order(
    drawn: list[dict[str, Any]], rows: list[tuple[int, int, float, int]], data: st.DataObject
) -> None:
    def batch(people: list[dict[str, Any]]) -> transforms.Requests:
        here = ["FR"] * len(people)
        return transforms.Requests(columns_of(people), np.full(len(people), NOW), here, here)

    request = np.array([row[0] % len(drawn) for row in rows], np.int64)
    item, score, rank = (np.array([row[k] for row in rows], kind) for k, kind in ((1, int), (2, float), (3, int)))
    together = transforms.ranking_features(batch(drawn), transforms.Candidates(request, item, score, rank), shop())
    assert together.shape == (len(rows), len(transforms.RANKING_FEATURES))
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    order = np.array(data.draw(st.permutations(range(len(rows)))), np.int64)
    shuffled = transforms.Candidates(request[order], item[order], score[order], rank[order])
    np.testing.assert_array_equal(transforms.ranking_features(batch(drawn), shuffled, shop()), together[order])
    for row in range(len(rows)):
        alone = transforms.Candidates(np.array([0]), *(column[row : row + 1] for column in (item, score, rank)))
        by_itself = transforms.ranking_features(batch([drawn[request[row]]]), alone, shop())
        np.testing.assert_allclose(by_itself[0], together[row], rtol=1e-6, atol=1e-6)
