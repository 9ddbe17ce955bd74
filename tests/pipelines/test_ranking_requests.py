"""Requests and their labels, from logs short enough to read."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feature_repo.events import EVENTS, ITEMS
from pipelines import datasets, ranking_requests
from recsys.settings import Settings

START = pd.Timestamp("2026-01-10 12:00", tz="UTC")


def event(minute: float, kind: str, item: str, **more: Any) -> dict[str, Any]:
    """One event of user ann's visit s1."""
    known = {"user_id": "ann", "session_id": "s1", "surface": None, "position": None, "request_id": None}
    when = START + pd.Timedelta(minutes=minute)
    known |= {"region": "DE", "value": np.nan, "quantity": np.nan}
    return known | {"item_id": item, "event": kind, "event_time": when} | more


def shown(minute: float, *items: str, request: str = "r1") -> list[dict[str, Any]]:
    return [
        event(minute, "impression", item, request_id=request, position=k, surface="home")
        for k, item in enumerate(items)
    ]


def table(*events: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(events)


def labels(judged: ranking_requests.Judged) -> dict[str, tuple[int, int, int]]:
    rows = judged.rows[["item_id", "click", "cart", "purchase"]]
    return {item: (int(a), int(b), int(c)) for item, a, b, c in rows.itertuples(index=False)}


def amounts(judged: ranking_requests.Judged) -> dict[str, float]:
    return judged.rows.set_index("item_id")["amount"].to_dict()


def lists(*events: dict[str, Any]) -> ranking_requests.Judged:
    frame = table(*events)
    frame["visitor"] = "u:" + frame["user_id"]
    frame["time"] = frame["event_time"].astype("int64") / 1e9
    return ranking_requests.shown_lists(frame)


def test_what_was_shown_is_labelled_by_what_followed() -> None:
    judged = lists(
        *shown(0, "mug", "lamp", "rug"),
        event(1, "click", "lamp", request_id="r1"),
        event(1, "click", "rug", request_id="r1"),
        event(5, "add_to_cart", "rug"),
        event(9, "purchase", "rug"),
    )
    assert labels(judged) == {"mug": (0, 0, 0), "lamp": (1, 0, 0), "rug": (1, 1, 1)}
    assert judged.rows["position"].tolist() == [0, 1, 2]
    assert judged.requests.loc[0, ["user_id", "region", "surface"]].tolist() == ["ann", "DE", "home"]
    assert judged.shown


def test_an_amount_is_what_purchases_after_the_request_brought_in() -> None:
    paid = [
        event(2, "purchase", "rug", value=10.0, quantity=2),
        event(9, "purchase", "rug", value=5.0),  # one piece
        event(3, "add_to_cart", "lamp", value=99.0, quantity=1),
        event(4, "purchase", "mug"),  # for a price that nobody noted
    ]
    clicks = [event(1, "click", item, request_id="r1") for item in ("rug", "lamp", "mug")]
    early, late = (event(minute, "purchase", "rug", value=700.0, quantity=1) for minute in (-5, 24 * 60 + 1))
    asked = shown(0, "rug", "lamp", "mug")
    for judged in (lists(*asked, early, *clicks, *paid, late), ranking_requests.judge(table(*clicks, *paid))):
        assert amounts(judged) == {"rug": 25, "lamp": 0, "mug": 0}


@pytest.mark.parametrize(("value", "quantity"), [(np.nan, 2), (-4.0, 1), (4.0, -1), (0.0, 3), (np.inf, 1)])
def test_what_is_no_price_is_an_unknown_one(value: float, quantity: int) -> None:
    judged = ranking_requests.judge(table(event(0, "purchase", "mug", value=value, quantity=quantity)))
    assert labels(judged) == {"mug": (1, 1, 1)}
    assert amounts(judged) == {"mug": 0}


def test_what_came_before_or_a_day_later_does_not_count() -> None:
    judged = lists(
        *shown(0, "mug", "lamp"),
        event(-1, "click", "mug", request_id="r1"),
        event(1, "click", "lamp", request_id="r1"),
        event(-5, "purchase", "lamp"),
        event(24 * 60 + 1, "purchase", "lamp"),
    )
    assert labels(judged) == {"mug": (0, 0, 0), "lamp": (1, 0, 0)}


def test_an_impression_without_a_click_takes_no_credit_for_a_purchase() -> None:
    judged = lists(*shown(0, "mug"), event(3, "view", "mug"), event(5, "purchase", "mug"))
    assert labels(judged) == {"mug": (0, 0, 0)}


def test_somebody_else_buying_it_does_not_count() -> None:
    judged = lists(
        *shown(0, "mug"), event(1, "click", "mug", request_id="r1"), event(5, "purchase", "mug", user_id="bob")
    )
    assert labels(judged) == {"mug": (1, 0, 0)}


def test_without_impressions_a_request_is_the_moment_before_a_visit() -> None:
    judged = ranking_requests.judge(
        table(
            event(0, "view", "mug"),
            event(2, "purchase", "lamp"),
            event(3, "like", "rug"),
            event(90, "view", "mug", session_id="s2", user_id=None),
            event(26 * 60, "view", "late"),
        )
    )
    assert not judged.shown
    assert judged.requests["user_id"].tolist() == ["ann", ""]
    assert judged.requests["time"][0] == START.timestamp() - ranking_requests.VISIT_LEAD
    first = judged.take(pd.Index([0]).to_numpy())
    assert labels(first) == {"mug": (1, 0, 0), "lamp": (1, 1, 1), "rug": (1, 1, 0)}


def test_a_long_visit_is_asked_about_page_by_page() -> None:
    size = ranking_requests.PAGE
    judged = ranking_requests.judge(
        table(*(event(k, "view", f"item{k}") for k in range(2 * size + 1)), event(size + 0.5, "purchase", "item0"))
    )
    start = START.timestamp() - ranking_requests.VISIT_LEAD
    assert judged.requests["time"].tolist() == [start, start + 60 * size, start + 120 * size]
    assert judged.rows.groupby("request").size().tolist() == [2 * size + 1, size + 1, 1]
    first, later = (judged.rows[judged.rows["request"] == page] for page in (0, 1))
    assert first.set_index("item_id").loc["item0", "purchase"] == 1
    assert sorted(later["item_id"]) == sorted(f"item{k}" for k in range(size, 2 * size + 1))


def test_what_happened_at_once_is_one_request() -> None:
    lines = [event(0, "purchase", f"item{k}") for k in range(3 * ranking_requests.PAGE)]
    judged = ranking_requests.judge(table(*lines, event(1, "view", "late")))
    assert judged.rows.groupby("request").size().tolist() == [len(lines) + 1, 1]


def test_taking_requests_numbers_them_again() -> None:
    log = [event(60 * k, "view", f"item{k}", session_id=f"s{k}") for k in range(4)]
    judged = ranking_requests.judge(table(*log)).take(pd.Index([1, 3]).to_numpy())
    assert judged.rows["request"].tolist() == [0, 1]
    assert judged.rows["item_id"].tolist() == ["item1", "item3"]


CLICKS = [event(1, "click", item, request_id="r1") for item in ("mug", "rug")]


def test_a_returned_purchase_is_no_label() -> None:
    bought = [event(n, "purchase", item, value=5.0) for n, item in ((2, "mug"), (3, "rug"))]
    back = event(20 * 24 * 60, "return", "mug")
    for judged in (
        lists(*shown(0, "mug", "rug"), *CLICKS, *bought, back),
        ranking_requests.judge(table(*bought, back)),
    ):
        assert labels(judged).get("mug", (0, 0, 0)) == (0, 0, 0)
        assert labels(judged)["rug"] == (1, 1, 1)
        assert amounts(judged).get("mug", 0) == 0
    again = event(21 * 24 * 60, "purchase", "mug", session_id="s9", value=5.0)
    assert labels(ranking_requests.judge(table(back, again)))["mug"] == (1, 1, 1)


def test_a_dismissed_item_is_a_plain_negative() -> None:
    judged = lists(
        *shown(0, "mug", "rug", "lamp"),
        *CLICKS,
        event(2, "dislike", "mug"),
        event(2, "skip", "lamp"),
        event(3, "dislike", "rug"),
        event(4, "undo", "rug"),
        event(5, "dislike", "rug", user_id="bob"),
    )
    assert labels(judged) == {"mug": (0, 0, 0), "rug": (1, 0, 0), "lamp": (0, 0, 0)}


def test_what_left_the_cart_was_not_wanted() -> None:
    carts = [event(2, "add_to_cart", item) for item in ("mug", "rug")]
    judged = lists(*shown(0, "mug", "rug"), *CLICKS, *carts, event(3, "remove_from_cart", "rug"))
    assert labels(judged) == {"mug": (1, 1, 0), "rug": (1, 0, 0)}


def test_a_no_to_a_category_is_one_to_its_items_that_were_acted_on() -> None:
    content = pd.DataFrame({"item_id": ["mug", "rug"], "category": ["Home > Mugs", "Floor"], "brand": [None, "Acme"]})
    nothing = {"category": None, "brand": None}
    viewed = [event(n, "view", item, **nothing) for n, item in enumerate(("mug", "rug"))]
    left = event(5, "unsubscribe", None, category="Home", brand=None)
    back = event(6, "undo", None, category="Home", brand=None)
    other = event(6, "undo", None, category=None, brand="Acme")
    search = event(7, "search", None, **nothing)
    for more, expected in (([left], {"rug"}), ([left, other], {"rug"}), ([left, back], {"mug", "rug"})):
        judged = ranking_requests.judge(table(*viewed, *more, search), content)
        assert set(judged.rows["item_id"]) == expected


def test_the_types_of_the_shop_are_labels(own_events: None) -> None:
    judged = ranking_requests.judge(
        table(event(0, "play_trailer", "mug"), event(1, "view", "rug"), event(2, "report", "rug"))
    )
    assert labels(judged) == {"mug": (1, 0, 0)}


def test_requests_are_read_from_days_of_any_age(settings: Settings) -> None:
    """The older day was written before events had a category; the newer has an event about no item."""
    lake = datasets.lake(settings)
    day = START.date()
    rows = [
        {"event_id": f"e{n}", "user_id": "ann", "session_id": "s1", "item_id": "mug", "event": "view"}
        | {"event_time": (START + pd.Timedelta(days=n)).to_pydatetime()}
        for n in range(2)
    ]
    left = rows[1] | {"event_id": "e2", "item_id": None, "event": "unsubscribe", "category": "Home"}
    left["event_time"] += pd.Timedelta(minutes=5)
    old = pa.Table.from_pylist(rows[:1], EVENTS.arrow()).drop_columns(["query", "category", "brand"])
    lake.write(datasets.EVENTS, day, old)
    lake.write(datasets.EVENTS, day + timedelta(days=1), pa.Table.from_pylist([rows[1], left], EVENTS.arrow()))
    mug = {"item_id": "mug", "title": "A mug", "category": "Home > Mugs", "created_at": START.to_pydatetime()}
    for n, path in enumerate(("Toys", "Home > Mugs")):
        goods = [mug | {"category": path, "available": True}]
        lake.write(datasets.ITEMS, day + timedelta(days=n), pa.Table.from_pylist(goods, ITEMS.arrow()))
    start = datetime(2026, 1, 10, tzinfo=UTC)
    assert len(ranking_requests.read(lake, start, start + timedelta(days=1)).requests) == 1
    assert len(ranking_requests.read(lake, start, start + timedelta(days=2)).requests) == 0
