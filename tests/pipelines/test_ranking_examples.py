"""Examples as they were at the moment of the request: nothing from its future, and the same as serving computes."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from offline_views import put

from feature_repo import events, names, store, transforms
from models import ranker
from pipelines import datasets, past, ranking_examples, ranking_requests, ranking_users
from recsys.settings import Settings

DAY = date(2026, 1, 20)
NOON = datetime(2026, 1, 20, 12, tzinfo=UTC)
ITEMS = ("lamp", "mug", "rug", "vase")
USER_VIEWS = ("user_profile", "user_history", "user_activity", "user_categories")


def put_user(settings: Settings, user_id: str, when: datetime, items: list[str]) -> None:
    """All that the views say of a user who bought some items, a day apart, up to a moment."""
    times = [int((when - timedelta(days=len(items) - k)).timestamp()) for k in range(len(items))]
    put(settings, "user_profile", when, user_id=user_id, region="DE", preferences=["Home"])
    bought = ["purchase"] * len(items)
    history = {"history_items": items, "history_events": bought, "history_times": times}
    put(settings, "user_history", when, user_id=user_id, **history)
    activity = {"purchase_7d": float(len(items)), "mean_price_30d": 7.0, "activity_time": int(when.timestamp())}
    put(settings, "user_activity", when, user_id=user_id, **activity)
    weights = {"top_categories": ["Home"], "top_category_weights": [0.9]}
    put(settings, "user_categories", when, user_id=user_id, **weights)


def users_at(settings: Settings, requests: pd.DataFrame, *known: past.Past) -> dict[str, list[Any]]:
    # The stage that writes the views leaves none of them without a table.
    put(settings, "session_history", NOON - timedelta(days=2), session_id="another")
    return ranking_users.users_at(store.apply(settings), requests, *known)


def deeds(*views: tuple[str, int]) -> past.Deeds:
    """Views of items at epoch seconds."""
    items, times = zip(*views, strict=True)
    kinds, none = np.array(["view"] * len(items), object), np.empty((len(items), 0))
    return past.Deeds(np.array(items, object), kinds, np.array(times, np.int64), none)


def asked(*users: str, when: datetime = NOON) -> pd.DataFrame:
    """One request per user; "" is anonymous, in session s."""
    return pd.DataFrame(
        {"user_id": users, "session_id": "s", "time": when.timestamp(), "region": "DE", "surface": "home"}
    )


def test_users_are_as_they_were_and_a_planted_future_changes_nothing(settings: Settings) -> None:
    put_user(settings, "ann", NOON - timedelta(days=2), ["mug"])
    put_user(settings, "ann", NOON - timedelta(days=1), ["mug", "lamp"])
    before = users_at(settings, asked("ann", "nobody", "ann"))
    put_user(settings, "ann", NOON + timedelta(seconds=1), ["rug"] * 5)
    put_user(settings, "nobody", NOON + timedelta(seconds=1), ["rug"] * 5)
    after = users_at(settings, asked("ann", "nobody", "ann"))
    assert before["history_items"] == [["mug", "lamp"], [], ["mug", "lamp"]]
    assert before["purchase_7d"] == [2.0, None, 2.0]
    assert str(after) == str(before)


def test_a_profile_survives_a_first_event_that_is_still_to_come(settings: Settings) -> None:
    put(settings, "user_profile", NOON - timedelta(days=1), user_id="ann", region="FR")
    put_user(settings, "ann", NOON + timedelta(days=1), ["mug"])
    found = users_at(settings, asked("ann"))
    assert found["region"] == ["FR"]
    assert found["history_items"] == [[]]


def test_who_has_no_history_yet_has_that_of_the_session_as_in_serving(settings: Settings) -> None:
    put_user(settings, "ann", NOON + timedelta(days=1), ["lamp"])
    put_user(settings, "bob", NOON - timedelta(days=1), ["rug"])
    before = {"history_items": ["mug"], "history_events": ["view"], "history_times": [1]}
    put(settings, "session_history", NOON - timedelta(hours=12), session_id="s", **before)
    found = users_at(settings, asked("", "ann", "bob"))
    assert found["user_id"] == ["", "ann", "bob"]
    assert found["history_items"] == [["mug"], ["mug"], ["rug"]]


def test_a_history_goes_on_from_midnight_to_the_second_of_the_request(settings: Settings) -> None:
    midnight = NOON - timedelta(hours=12)
    put_user(settings, "ann", midnight, ["mug"])
    at = [int((midnight + timedelta(hours=hour)).timestamp()) for hour in (-1, 1, 12)]
    known = past.Past({"ann": deeds(*zip(("mug", "lamp", "rug"), at, strict=True)), "s": deeds(("vase", at[1]))})
    found = users_at(settings, asked("ann", "", "nobody").assign(session_id=["s", "s", "t"]), known)
    assert found["history_items"] == [["mug", "lamp"], ["vase"], []]
    assert found["history_events"] == [["purchase", "view"], ["view"], []]
    assert found["history_times"][0][-1] == at[1]


@pytest.mark.services
def test_offline_features_are_those_of_serving(online_settings: Settings) -> None:
    put_user(online_settings, "ann", NOON - timedelta(hours=12), ["mug", "lamp", "mug"])
    feast = store.apply(online_settings)
    offline = users_at(online_settings, asked("ann"))
    feast.materialize(NOON - timedelta(days=1), NOON, feature_views=list(USER_VIEWS))
    online = store.read_online(feast, "ranking_v1", "user_id", ["ann"]) | {"user_id": ["ann"]}
    matrix = transforms.item_matrix({name: columns(items())[name] for name in transforms.ITEM_COLUMNS})
    rows = transforms.Candidates(np.zeros(4, int), np.arange(4), np.linspace(1, 0, 4), np.arange(4))
    both = [
        transforms.ranking_features(
            transforms.Requests(users, np.array([NOON.timestamp()]), ["DE"], ["home"]), rows, matrix
        )
        for users in (offline, online)
    ]
    assert np.abs(both[0]).sum() > 10
    np.testing.assert_allclose(both[0], both[1], atol=1e-5, rtol=0)


def items() -> pa.Table:
    """Four goods; the vase is of tomorrow."""
    rows = [
        {
            "item_id": name,
            "title": name,
            "category": "Home > Goods",
            "price": 5.0,
            "created_at": NOON + timedelta(days=1) if name == "vase" else NOON - timedelta(days=9),
            "available": True,
        }
        for name in ITEMS
    ]
    table = pa.Table.from_pylist(rows, schema=events.ITEMS.arrow())
    for name in (*names.ITEM_STATS, "item_first_event_time", "item_last_event_time", "stats_time"):
        table = table.append_column(
            name, pa.array(np.zeros(4), pa.float32() if name in names.ITEM_STATS else pa.int64())
        )
    return table


def columns(table: pa.Table) -> dict[str, Any]:
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


class Towers:
    """Everybody likes the items in the order of the alphabet; popularity shows in the length of the vectors."""

    def users(self, inputs: dict[str, Any]) -> Any:
        return np.ones((len(inputs["hour"]), 1), np.float32)

    def items(self, inputs: dict[str, Any]) -> Any:
        popularity = inputs["stats"][:, list(names.ITEM_STATS).index("popularity")]
        return (np.linspace(1, 0.1, len(popularity)) + popularity)[:, None].astype(np.float32)


@pytest.fixture
def shelf(settings: Settings) -> ranking_examples.Shelf:
    lake = datasets.lake(settings)
    lake.write(datasets.ITEMS, DAY, items().select(events.ITEMS.names))
    put(settings, "item_stats", NOON.replace(hour=0), item_id="rug", popularity=5.0)
    put(settings, "item_stats", NOON + timedelta(hours=12), item_id="lamp", popularity=9.0)
    return ranking_examples.Shelf(lake, DAY, Towers())


def visit(*chosen: str) -> ranking_requests.Judged:
    rows = pd.DataFrame({"request": 0, "item_id": list(chosen), "position": -1, "amount": 7.5})
    return ranking_requests.Judged(asked("ann"), rows.assign(**dict.fromkeys(ranker.CHAIN, 1.0)), shown=False)


def nobody() -> dict[str, list[Any]]:
    known = {name: [None] for name in (*transforms.USER_COLUMNS, "age_group")} | {"user_id": ["ann"]}
    return known | {name: [[]] for name in names.HISTORY}


def build(shelf: ranking_examples.Shelf, judged: ranking_requests.Judged, **plan: Any) -> ranking_examples.Examples:
    seen = past.Past({"ann": deeds(("rug", 0))})
    settled = ranking_examples.Plan(**({"candidates": 3, "negatives": 0, "allow_repeats": True, "seed": 1} | plan))
    return ranking_examples.build(judged, nobody(), shelf, Towers(), 10, settled, seen)


def test_candidates_are_what_retrieval_would_have_found_then(shelf: ranking_examples.Shelf) -> None:
    """The rug led by its popularity at midnight; the lamp's of tonight and the vase of tomorrow do not count."""
    found = build(shelf, visit("mug"))
    ranks = dict(zip(found.item_id, found.feature("retrieval_rank").tolist(), strict=True))
    assert ranks == pytest.approx({"rug": 0.0, "lamp": np.log(2), "mug": np.log(3)})
    assert found.labels[found.item_id == "mug"].tolist() == [[1, 1, 1]]
    assert found.labels.sum() == 3
    assert found.amount.tolist() == [7.5 * (item == "mug") for item in found.item_id]
    assert found.chosen.tolist() == [1]


def test_a_chosen_item_that_retrieval_missed_is_no_row(shelf: ranking_examples.Shelf) -> None:
    found = build(shelf, visit("mug", "lamp"), candidates=2)
    assert sorted(found.item_id) == ["lamp", "rug"]
    assert found.chosen.tolist() == [2]


def test_sampled_negatives_say_at_what_rate(shelf: ranking_examples.Shelf) -> None:
    found = build(shelf, visit("mug"), negatives=1)
    assert len(found) == 2
    assert found.log_rate == pytest.approx(np.log([0.5, 0.5]))


def test_what_was_bought_is_no_candidate_where_nobody_repeats(shelf: ranking_examples.Shelf) -> None:
    assert sorted(build(shelf, visit("mug"), allow_repeats=False).item_id) == ["lamp", "mug"]


@pytest.mark.parametrize(
    ("here", "home", "found"),
    [("FR", None, "lamp mug rug"), ("", "FR", "lamp mug rug"), ("DE", "FR", "lamp mug"), ("", None, "lamp mug")],
)
def test_candidates_are_legal_where_the_visitor_is_or_else_at_home(
    settings: Settings, here: str, home: str | None, found: str
) -> None:
    goods = items().select(events.ITEMS.names).to_pylist()
    goods[ITEMS.index("rug")]["regions"] = ["FR"]
    lake = datasets.lake(settings)
    put(settings, "item_stats", NOON.replace(hour=0), item_id="rug")
    lake.write(datasets.ITEMS, DAY, pa.Table.from_pylist(goods, schema=events.ITEMS.arrow()))
    asking = visit("mug")
    asking = replace(asking, requests=asking.requests.assign(region=here))
    plan = ranking_examples.Plan(candidates=4, negatives=0, allow_repeats=True, seed=1)
    shelf = ranking_examples.Shelf(lake, DAY, Towers())
    made = ranking_examples.build(asking, nobody() | {"region": [home]}, shelf, Towers(), 10, plan)
    assert " ".join(sorted(made.item_id)) == found
    assert set(made.strings["region"]) == {here or home or ""}


def test_examples_survive_the_disk(shelf: ranking_examples.Shelf, tmp_path: Path) -> None:
    made = build(shelf, visit("mug"))
    ranking_examples.save(made, tmp_path / "test")
    found = ranking_examples.load(tmp_path / "test")
    np.testing.assert_array_equal(found.numeric, made.numeric)
    np.testing.assert_array_equal(found.labels, made.labels)
    np.testing.assert_array_equal(found.amount, made.amount)
    assert found.item_id.tolist() == made.item_id.tolist()
    assert {name: values.tolist() for name, values in found.strings.items()} == {
        name: values.tolist() for name, values in made.strings.items()
    }


def test_batches_hold_whole_requests(shelf: ranking_examples.Shelf) -> None:
    one = build(shelf, visit("mug"))
    words = np.zeros((len(one), 5), np.int32)
    [batch] = ranking_examples.batches(one, words, 8, np.random.default_rng(0))
    assert batch["group"].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(batch["numeric"], one.numeric)
    assert batch["amount"].tolist() == one.amount.tolist()
