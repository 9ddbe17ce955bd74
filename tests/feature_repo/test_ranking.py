"""The ranking features of items, users, profiles and retrieval, and what holds for all: finite, no leak, no company."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from three_items import LAMP, MUG, NOW, POSTER, candidates, features, history, requests, shop

from feature_repo import events, names, transforms
from feature_repo.neighbours import Links, Neighbours
from feature_repo.ranking_table import BLOCKS, RELATIONS


def linked() -> transforms.ItemMatrix:
    """The shop where a mug leads to a lamp, a lamp to a poster and a poster to both others."""
    other, weight = np.array([[1, -1], [2, -1], [0, 1]], np.int32), np.array([[1, 0], [0.5, 0], [0.3, 0.2]], np.float32)
    links = Links(other, weight)
    return shop(Neighbours(np.array(["mug", "lamp", "poster"]), dict.fromkeys(RELATIONS, links)))


def test_every_feature_is_named_once_and_documented() -> None:
    assert len(set(transforms.RANKING_FEATURES)) == len(transforms.RANKING_FEATURES) >= 200
    assert sum(map(len, BLOCKS.values())) == len(transforms.RANKING_FEATURES)
    assert all(len(doc) > 10 for doc in transforms.RANKING_DOCS.values())


def test_future_events_change_nothing() -> None:
    """Neither at the moment of the request nor after it."""
    past = [("mug", "view", 7.0), ("lamp", "purchase", 3.0), ("mug", "purchase", 2.0), ("lamp", "view", 0.01)]
    future = [("lamp", "purchase", 0.0), ("poster", "purchase", -1.0), ("mug", "add_to_cart", -1.0)]
    assert features(history(*past), matrix=linked()) == features(history(*past, *future), matrix=linked())


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


def test_a_preference_lifts_over_everybodys() -> None:
    """The kitchen has 10 of 15 points of popularity, light 5, and this user is for light."""
    found = features({"categories": [["Home > Light"]], "category_weights": [[0.7]]})
    kitchen, light = math.log(0.01 / (2 / 3 + 0.01)), math.log(0.71 / (1 / 3 + 0.01))
    assert found["category_lift"] == pytest.approx([kitchen, light, 0, 0])
    assert found["brand_lift"] == [0, 0, 0, 0]


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
                st.sampled_from([*events.EVENT_TYPES, "unheard of"]),
                st.one_of(st.integers(-(2**40), 2**40), st.integers(int(NOW) - 7_200, int(NOW) + 60)),
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

    matrix = linked()
    request = np.array([row[0] % len(drawn) for row in rows], np.int64)
    item, score, rank = (np.array([row[k] for row in rows], kind) for k, kind in ((1, int), (2, float), (3, int)))
    together = transforms.ranking_features(batch(drawn), transforms.Candidates(request, item, score, rank), matrix)
    assert together.shape == (len(rows), len(transforms.RANKING_FEATURES))
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    order = np.array(data.draw(st.permutations(range(len(rows)))), np.int64)
    shuffled = transforms.Candidates(request[order], item[order], score[order], rank[order])
    np.testing.assert_array_equal(transforms.ranking_features(batch(drawn), shuffled, matrix), together[order])
    for row in range(len(rows)):
        alone = transforms.Candidates(np.array([0]), *(column[row : row + 1] for column in (item, score, rank)))
        by_itself = transforms.ranking_features(batch([drawn[request[row]]]), alone, matrix)
        np.testing.assert_allclose(by_itself[0], together[row], rtol=1e-6, atol=1e-6)
