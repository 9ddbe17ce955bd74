"""The days of a run: whatever nights fail and in whatever order they come, the lake ends as one full load leaves it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import digests
from pipelines.batch import Input, Plan, plan, plan_so_far
from pipelines.published import Day
from pipelines.sources.clock import Span

FIRST = date(2026, 3, 2)
LENGTH = 12


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def digest(content: frozenset[str]) -> str:
    return f"{len(content)}:{''.join(sorted(content))}" if content else digests.EMPTY


@dataclass
class World:
    """A source whose rows come, change and are taken back as time goes by; nights read what is there by then.

    Attributes:
        rows: per day of the event: the row, the day from which on the source has it, and that from which on it has
            not.
    """

    rows: Mapping[int, list[tuple[str, int, int]]]

    def at(self, now: int) -> Input:
        seen = {
            day(of): frozenset(row for row, since, until in rows if since <= now < until)
            for of, rows in self.rows.items()
            if of <= now
        }
        filled = {one: digest(content) for one, content in seen.items() if content}
        # The raw rows of a source are there even where a later one takes them back, so its span does not shrink.
        known = [day(of) for of, rows in self.rows.items() if any(since <= now for _, since, _ in rows) and of <= now]
        return Input(filled, Span(min(known), max(known)) if known else None)


@dataclass
class Model:
    """A lake that keeps nothing but notes."""

    notes: dict[date, Day] = field(default_factory=dict)

    def run(self, found: Input, planned: Plan, moved: int, whole: bool = True) -> None:
        """Publish the first `moved` days of a plan; the run dies then."""
        for one in planned.days[:moved]:
            content = found.seen.get(one, digests.EMPTY)
            self.notes[one] = Day(whole and found.reaches(one), int(content.partition(":")[0]), content)
        if moved >= len(planned.days):
            for one in planned.gone:
                del self.notes[one]

    def content(self) -> dict[date, str]:
        return {one: note.digest for one, note in sorted(self.notes.items()) if note.whole}


numbers = st.integers(0, LENGTH - 1)
changes = st.tuples(st.sampled_from("abcdef"), st.integers(0, 6), st.integers(1, 2 * LENGTH))
worlds = st.dictionaries(
    numbers,
    st.lists(changes, min_size=1, max_size=4),
    min_size=2,
    max_size=LENGTH,
).map(
    lambda rows: World(
        {of: [(row, of + late, of + late + stays) for row, late, stays in some] for of, some in rows.items()}
    )
)
# when the night is, how far back its day lies, how many days it moves before it dies, and whether it is a half hour
runs = st.lists(st.tuples(numbers, st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=12)


@settings(max_examples=500, derandomize=True, deadline=None)
@given(world=worlds, nights=runs)
def test_whatever_nights_fail_the_lake_ends_as_one_full_load(
    world: World, nights: list[tuple[int, int, int, bool]]
) -> None:
    lake, full = Model(), Model()
    for now, back, moved, half_hour in sorted(nights, key=lambda night: night[0]):
        target = day(max(now - back, 0))
        newest = max((one for one, note in lake.notes.items() if note.whole), default=target)
        found = world.at(max((target - FIRST).days, (newest - FIRST).days, now))
        if half_hour:
            lake.run(found, plan_so_far(target, found.seen, lake.notes), moved, whole=False)
        else:
            lake.run(found, plan(target, found, lake.notes), moved)
    last = world.at(3 * LENGTH)
    for model in (lake, full):
        model.run(last, plan(day(LENGTH), last, model.notes), 10**6)
    assert lake.content() == full.content()
    assert plan(day(LENGTH), last, lake.notes) == Plan(()), "and then there is nothing left to do"


def notes(*contents: str, first: int = 0, whole: bool = True) -> dict[date, Day]:
    return {day(first + n): Day(whole, int(made.partition(":")[0]), made) for n, made in enumerate(contents)}


def test_a_day_behind_the_last_of_the_source_is_not_known_to_be_closed() -> None:
    found = Input({day(0): "1:a", day(3): "1:b"}, Span(day(0), day(3)))
    assert plan(day(5), found, {}).days == (day(0), day(1), day(2), day(3))
    assert plan(day(5), found, notes("1:a", "0:0", "0:0", "1:b")) == Plan(())


def test_a_hole_of_years_is_not_filled_with_closed_days() -> None:
    found = Input({date(1999, 1, 1): "1:x", day(0): "1:a", day(3): "1:b"}, Span(date(1999, 1, 1), day(3)))
    assert plan(day(3), found, {}).days == (date(1999, 1, 1), *(day(n) for n in range(4)))


def test_only_what_differs_is_read_again_and_the_day_itself() -> None:
    found = Input({day(n): "2:a" for n in range(5)}, Span(day(0), day(4)))
    published = notes("2:a", "1:a", "2:a") | notes("2:a", first=3, whole=False) | notes("2:a", first=4)
    assert plan(day(4), found, published).days == (day(1), day(3), day(4))
    assert plan(day(2), found, published).days == (day(1), day(2))
    assert plan(day(4), found, published, since=day(2)).days == (day(2), day(3), day(4))


def test_days_that_share_an_event_are_read_together() -> None:
    found = Input({day(n): "2:a" for n in range(4)}, Span(day(0), day(3)))
    published = notes("2:a", "2:x", "2:a", "2:a")
    published[day(2)] = Day(True, 2, "2:a", linked=(day(1),))
    published[day(0)] = Day(True, 2, "2:a", linked=(day(2),))
    assert plan(day(3), found, published).days == (day(0), day(1), day(2), day(3))


def test_a_source_that_begins_later_than_the_lake_says_nothing_of_the_days_before() -> None:
    found = Input({day(n): "1:cut" if n == 3 else "2:a" for n in range(3, 6)}, Span(day(3), day(5)))
    published = notes(*["2:a"] * 5)
    assert plan(day(5), found, published).days == (day(5),)
    assert plan(day(5), found, notes("2:a", "2:a", "2:a", "2:x", "2:x")).days == (day(4), day(5))


def test_a_day_whose_rows_turned_out_to_be_implausible_leaves_the_lake() -> None:
    found = Input({day(n): "2:a" for n in range(9, 12)}, Span(day(9), day(11)), strays=[day(0)])
    assert plan(day(11), found, notes("1:z") | notes("2:a", "2:a", first=9)) == Plan((day(11),), (day(0),))


def test_the_day_so_far_never_takes_the_place_of_a_whole_one() -> None:
    assert plan_so_far(day(0), {day(0): "1:a"}, {}).days == (day(0),)
    assert plan_so_far(day(0), {day(0): "1:a"}, notes("1:a", whole=False)).days == ()
    assert plan_so_far(day(0), {day(0): "2:a"}, notes("1:a", whole=False)).days == (day(0),)
    assert plan_so_far(day(0), {day(0): "2:a"}, notes("1:a")).days == ()
    assert plan_so_far(day(0), {}, {}).days == ()
