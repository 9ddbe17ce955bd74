"""Who gets an e-mail, what a row of it is, and how the API is spared; the whole stage is tested beside the API."""

from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import datasets, email, pages
from pipelines.datasets import RunId
from pipelines.pages import Pace
from recsys.errors import BadData, Permanent
from recsys.settings import Settings

DAY = date(2026, 3, 10)


def publish(settings: Settings, day: date, *rows: tuple[str | None, str]) -> None:
    users, kinds = zip(*rows, strict=True)
    table = pa.table({"user_id": pa.array(users, pa.string()), "event": pa.array(kinds, pa.string())})
    datasets.lake(settings).write(datasets.EVENTS, day, table)


def test_who_did_something_is_active_and_who_was_only_shown_something_is_not() -> None:
    events = {"user_id": ["ann", "ann", "bob", None], "event": ["view", "impression", "impression", "view"]}
    assert email.active(pa.table(events)) == {"ann"}


def test_a_row_is_an_item_with_the_release_and_the_request_that_it_comes_from() -> None:
    item = {"item_id": "i1", "title": "Mug", "price": None, "currency": None, "reason": "Picked for you", "score": 0.5}
    page = {"items": [item | {"source": "new"}, item | {"item_id": "i2", "price": 2.0}]} | {
        "release_id": "r1",
        "request_id": "q1",
    }
    table = email.rows(["ann", "bob"], [page, page | {"items": []}])
    assert table.schema == email.SCHEMA
    assert table.to_pylist()[0] == item | {"user_id": "ann", "position": 0, "release_id": "r1", "request_id": "q1"}
    assert table["position"].to_pylist() == [0, 1]


def test_without_events_in_the_window_the_error_says_what_to_run(settings: Settings) -> None:
    publish(settings, date(2026, 2, 8), ("ann", "view"))
    with pytest.raises(BadData, match="no events published in the 30 days up to 2026-03-10; run ingest and quality"):
        email.main(email.Params(day=DAY, run=RunId("r")), settings)


def test_where_the_api_was_never_started_the_error_says_how_to(settings: Settings) -> None:
    publish(settings, DAY, ("ann", "view"))
    with pytest.raises(Permanent, match="`recsys up` starts it"):
        email.main(email.Params(day=DAY, run=RunId("r")), settings)


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_strain_halves_the_width_and_calm_widens_it_slowly() -> None:
    pace = Pace(4, Clock())
    widths = []
    for _ in range(3):
        pace.strained()
        widths.append(pace.width)
    assert widths == [2, 1, 1]
    for _ in range(pages.CALM + 1):
        pace.calm()
    assert pace.width == 2
    for _ in range(10 * pages.CALM):
        pace.calm()
    assert pace.width == 4


def test_a_refusal_is_obeyed_and_a_shorter_rest_does_not_end_it() -> None:
    clock = Clock()
    pace = Pace(4, clock)
    assert pace.rest() == 0
    pace.refused(5)
    pace.strained()
    assert (pace.width, pace.rest()) == (1, 5)
    clock.now += 6
    assert pace.rest() == 0


@given(st.integers(1, 64), st.lists(st.sampled_from(["calm", "strained"]), max_size=300))
def test_there_is_always_one_request_and_never_more_than_the_most(most: int, answers: list[str]) -> None:
    pace = Pace(most, Clock())
    for answer in answers:
        getattr(pace, answer)()
        assert 1 <= pace.width <= most
