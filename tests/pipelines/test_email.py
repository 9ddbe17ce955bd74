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


def answer(pace: Pace, milliseconds: float = 40, quality: float = 1.0, *, degraded: bool = False) -> int:
    """The width after one more page."""
    pace.answered({"quality": quality, "degraded": degraded}, milliseconds)
    return pace.width


def test_a_late_page_halves_the_width_and_quick_ones_widen_it_slowly() -> None:
    pace = Pace(4, Clock())
    assert [answer(pace, 101) for _ in range(3)] == [2, 1, 1]
    assert [answer(pace) for _ in range(pages.CALM + 1)][-1] == 2
    assert [answer(pace) for _ in range(10 * pages.CALM)][-1] == 4
    assert answer(pace, degraded=True) == 2


def test_a_quality_that_falls_is_strain_and_one_that_recovers_is_left_to_it() -> None:
    pace = Pace(4, Clock())
    assert [answer(pace, quality=quality) for quality in (0.9, 0.85)] == [4, 4]
    assert [answer(pace, quality=quality) for quality in (0.7, 0.6, 0.61, 0.7)] == [2, 1, 1, 1]
    assert [answer(pace, quality=0.7) for _ in range(3 * pages.CALM)][-1] == 1
    assert [answer(pace, quality=0.9) for _ in range(pages.CALM + 1)][-1] == 2


def test_a_refusal_is_obeyed_and_a_shorter_rest_does_not_end_it() -> None:
    clock = Clock()
    pace = Pace(4, clock)
    assert pace.rest() == 0
    pace.refused(5)
    answer(pace, 101)
    assert (pace.width, pace.rest()) == (1, 5)
    clock.now += 6
    assert pace.rest() == 0


@given(st.integers(1, 64), st.lists(st.tuples(st.floats(0, 300), st.floats(0.2, 1), st.booleans()), max_size=300))
def test_there_is_always_one_request_and_never_more_than_the_most(
    most: int, answers: list[tuple[float, float, bool]]
) -> None:
    pace = Pace(most, Clock())
    for milliseconds, quality, degraded in answers:
        assert 1 <= answer(pace, milliseconds, quality, degraded=degraded) <= most
