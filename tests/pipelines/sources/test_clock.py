"""Which days of a source are plausible: honest data lose nothing, whatever they are, and one clock decides nothing."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.clock import Days, Span
from recsys.errors import BadData

TODAY = date(2026, 12, 1)


def days(rows: Mapping[date, int]) -> Days:
    return Days(Counter(rows))


def run(first: date, length: int, rows: int = 20) -> dict[date, int]:
    """Days without a gap."""
    return {first + timedelta(days=n): rows for n in range(length)}


BULK = run(date(2009, 3, 1), 100)
WHOLE = Span(date(2009, 3, 1), date(2009, 6, 8))
# Rows beside the bulk, and the days that are plausible then.
STRAYS: Mapping[str, tuple[dict[date, int], Span]] = {
    "none": ({}, WHOLE),
    "far ahead of us": ({date(2099, 1, 1): 3}, WHOLE),
    "ahead of the data, not of us": ({date(2011, 2, 3): 2}, WHOLE),
    "several, near one another": ({date(2011, 2, 3): 1, date(2011, 2, 5): 1, date(2020, 1, 1): 4}, WHOLE),
    "epoch 0": ({date(1970, 1, 1): 90}, WHOLE),
    "two figures for a year": ({date(9, 3, 1): 1}, WHOLE),
    "in the past": ({date(1999, 1, 1): 2, date(2001, 1, 1): 1}, WHOLE),
    "on both sides": ({date(1999, 1, 1): 1, date(2035, 1, 1): 1}, WHOLE),
    "within a month": ({date(2009, 7, 1): 1}, Span(WHOLE.first, date(2009, 7, 1))),
    "a shop that opens again": ({date(2009, 9, 1): 5}, Span(WHOLE.first, date(2009, 9, 1))),
    "a quiet new beginning of more than a week": (run(date(2009, 9, 1), 8, 4), Span(WHOLE.first, date(2009, 9, 8))),
    "what is no accident": (run(date(2012, 9, 1), 7, 20), Span(WHOLE.first, date(2012, 9, 7))),
}


@pytest.mark.parametrize("name", STRAYS)
def test_what_is_plausible(name: str) -> None:
    strays, expected = STRAYS[name]
    assert days(BULK | strays).span(TODAY) == expected


def test_data_that_are_simulated_have_a_clock_of_their_own() -> None:
    simulated = run(date(2031, 1, 1), 60)
    assert days(simulated).span(TODAY) == Span(date(2031, 1, 1), date(2031, 3, 1))
    assert days(simulated | {date(2099, 1, 1): 1}).span(TODAY) == Span(date(2031, 1, 1), date(2031, 3, 1))
    assert days(run(TODAY, 2)).span(TODAY) == Span(TODAY, TODAY + timedelta(days=1)), "somewhere it is tomorrow"


def test_a_broken_export_that_dates_a_tenth_ahead_does_not_say_where_the_data_end() -> None:
    """They are too many for the gate; see `max_future`."""
    found = days(BULK | {date(2099, 1, 1): 200})
    span = found.span(TODAY)
    assert span == WHOLE
    assert found.strays(span) == {"future": 200}


def test_a_person_vouches_for_a_day() -> None:
    lonely = date(2009, 9, 1)
    span = days(BULK | {lonely: 1, date(2011, 1, 1): 1}).span(TODAY, [lonely])
    assert span is not None
    assert (span.last, span.reason(lonely), span.reason(date(2011, 1, 1))) == (lonely, "", "future")


def test_the_last_moment_is_that_of_the_last_plausible_day() -> None:
    times = [datetime.combine(day, time(hour), tzinfo=UTC) for day, rows in BULK.items() for hour in range(rows)]
    wrong = [datetime(2099, 1, 1, tzinfo=UTC), None, datetime(1970, 1, 1, tzinfo=UTC)]
    arrays = [pa.array(some, pa.timestamp("us", "UTC")) for some in (times, wrong, [])]
    assert Days.read(arrays).last("nothing") == datetime(2009, 6, 8, 19, tzinfo=UTC)
    with pytest.raises(BadData, match="nothing"):
        Days.read([]).last("nothing")


@given(
    first=st.dates(date(1995, 1, 1), date(2026, 1, 1)),
    gaps=st.lists(st.integers(1, 30), max_size=60),
    rows=st.lists(st.integers(1, 10_000), min_size=61, max_size=61),
)
def test_days_without_a_hole_of_a_month_are_all_plausible(first: date, gaps: list[int], rows: list[int]) -> None:
    known = [first]
    for gap in gaps:
        known.append(min(known[-1] + timedelta(days=gap), TODAY))
    assert days(dict(zip(known, rows, strict=False))).span(TODAY) == Span(known[0], known[-1])
