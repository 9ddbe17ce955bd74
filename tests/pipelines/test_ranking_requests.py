"""Requests and their labels, from logs short enough to read."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import ranking_requests

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
