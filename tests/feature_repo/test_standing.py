"""What still counts after a no, by stories short enough to read, and by a count that is slow and plain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo import events, standing
from recsys.errors import Permanent
from recsys.settings import CustomEvent

Story = list[tuple[int, str]]


def turns(story: Story, targets: list[str] | None = None) -> dict[int, list[int]]:
    """Turns by place; those of an event that always counts are left out."""
    found = standing.turns([k for _, k in story], [t for t, _ in story], events.yes(), events.no(), targets)
    return {place: moments for place, moments in enumerate(found) if moments}


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ([(1, "view"), (2, "purchase"), (9, "return")], {0: [9], 1: [9]}),
        # Returned and then refunded is taken back once: the first purchase stays.
        ([(1, "purchase"), (5, "purchase"), (8, "return"), (9, "refund")], {1: [8]}),
        ([(1, "purchase"), (5, "purchase"), (8, "return"), (9, "return")], {0: [9], 1: [8]}),
        # Bought again after the return: the new purchase stands, and the no is over.
        ([(1, "purchase"), (5, "return"), (8, "purchase")], {0: [5], 1: [8]}),
        ([(1, "add_to_cart"), (2, "remove_from_cart")], {0: [2]}),
        ([(1, "add_to_cart"), (2, "remove_from_cart"), (3, "add_to_cart")], {0: [2], 1: [3]}),
        # A removal is of what was added since the purchase, and of nothing but the cart.
        ([(1, "add_to_cart"), (2, "purchase"), (3, "view"), (4, "add_to_cart"), (5, "remove_from_cart")], {3: [5]}),
        ([(1, "view"), (2, "purchase"), (3, "dislike")], {0: [3], 1: [3]}),
        ([(1, "click"), (2, "purchase"), (3, "skip")], {0: [3]}),
        ([(1, "skip"), (2, "click")], {0: [2]}),
        ([(1, "dislike"), (2, "click")], {}),
        ([(1, "like"), (2, "dislike"), (5, "undo")], {0: [2, 5], 1: [5]}),
        ([(1, "like"), (2, "dislike"), (5, "undo"), (7, "dislike")], {0: [2, 5, 7], 1: [5]}),
        ([(1, "undo"), (2, "search"), (3, "impression"), (4, "unheard of")], {}),
        ([(1, "return"), (2, "purchase"), (3, "refund"), (4, "refund")], {0: [2], 1: [3]}),
    ],
)
def test_what_a_no_takes_back(story: Story, expected: dict[int, list[int]]) -> None:
    assert turns(story) == expected


def test_an_undo_is_of_its_own_target() -> None:
    story = [(1, "like"), (2, "dislike"), (3, "unsubscribe"), (4, "undo"), (5, "undo")]
    assert turns(story, ["", "", "Home", "Home", ""]) == {0: [2, 5], 1: [5], 2: [4]}
    assert turns(story[:4], ["", "", "Home", ""]) == {0: [2], 1: [4]}  # the category is still left


def test_what_counts_is_known_for_any_moment() -> None:
    """A feature of a moment knows nothing of what follows: not of the moment itself either."""
    moments = standing.padded([[], [5], [5, 9]])
    assert moments.shape == (3, 2)
    assert [standing.counts(moments, now).tolist() for now in (5, 6, 9, 10)] == [
        [True, True, True],
        [True, False, False],
        [True, False, False],
        [True, False, True],
    ]
    assert standing.padded([]).shape == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([*events.EVENT_TYPES])), max_size=14), st.integers(0, 8))
def test_the_past_does_not_change(story: Story, now: int) -> None:
    """What counts at a moment is what a log that ends there says: nothing later leaks into it."""
    yes, no = events.yes(), events.no()
    story = sorted(story, key=lambda said: (said[0], standing.order(said[1], yes, no)))
    whole = standing.padded(standing.turns([k for _, k in story], [t for t, _ in story], yes, no))
    past = [said for said in story if said[0] < now]
    known = standing.turns([k for _, k in past], [t for t, _ in past], yes, no)
    assert standing.counts(whole, now)[: len(past)].tolist() == [len(moments) % 2 == 0 for moments in known]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 5), st.sampled_from([*events.EVENT_TYPES])
        ),
        max_size=20,
    )
)
def test_a_log_in_any_order_is_folded_by_visitor_and_item(log: list[tuple[str, str, int, str]]) -> None:
    yes, no = events.yes(), events.no()
    columns = list(map(list, zip(*log, strict=True))) or [[], [], [], []]
    visitors, items, times, kinds = columns
    found = standing.Log(visitors, items, kinds, times, [""] * len(log)).turns(yes, no)
    for pair in {(v, i) for v, i, _, _ in log}:
        rows = [row for row, (v, i, _, _) in enumerate(log) if (v, i) == pair]
        rows.sort(key=lambda row: (times[row], standing.order(kinds[row], yes, no), row))
        expected = standing.turns([kinds[row] for row in rows], [times[row] for row in rows], yes, no)
        assert [found.get(row, []) for row in rows] == expected


def test_a_category_holds_those_under_it() -> None:
    assert standing.concerns("Home > Mugs", None, "Home", None)
    assert standing.concerns("Home", None, "Home", None)
    assert not standing.concerns("Homeware", None, "Home", None)
    assert standing.concerns("Toys", "Acme", None, "Acme")
    assert not standing.concerns(None, None, None, None)
    assert not standing.concerns("", "", "", "")


def test_a_shops_own_types_take_part(own_events: None) -> None:
    assert events.POSITIVE.names[-1] == "play_trailer"
    assert events.NEGATIVE.names[-1] == "report"
    assert turns([(1, "play_trailer"), (2, "purchase"), (3, "report")]) == {0: [3]}  # 2 against 0.5 and 4
    assert events.custom() == {"play_trailer": 0.5, "report": -2.0}


def test_built_in_types_keep_their_meaning() -> None:
    with pytest.raises(Permanent, match="'purchase' is built in"):
        events.configure({"purchase": CustomEvent(weight=1, polarity="negative")})
    assert events.SIGNAL_WEIGHT["purchase"] == 4
    assert "purchase" not in events.NEGATIVE
