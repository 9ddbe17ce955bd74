"""What places in a list add to a click, from a few clicks that a reader can count."""

import numpy as np
import pytest

from models import places


def test_the_first_place_is_worth_most() -> None:
    position = np.array([0] * 100 + [1] * 100, np.int32)
    clicked = np.array([1] * 40 + [0] * 60 + [1] * 10 + [0] * 90, np.float32)
    slots = places.Slots.learn(position, clicked)
    assert slots.share[:3].tolist() == [0.5, 0.5, 0.0]
    assert slots.start[0] > 0 > slots.start[1]
    assert slots.start[2] == 0, "nothing was shown there"


def test_places_seldom_looked_at_make_a_label_count_for_more() -> None:
    position = np.array([0] * 1000 + [1] * 1000 + [2] * 1000, np.int32)
    clicked = np.zeros(3000, np.float32)
    clicked[:400], clicked[1000:1200], clicked[2000:2001] = 1, 1, 1
    found = places.Slots.learn(position, clicked).propensity
    assert found[:3] == pytest.approx([1.0, 0.5, 0.1], abs=0.02), "the last is one in 400, and counts as a tenth"


def test_rows_without_a_place_say_nothing_of_places() -> None:
    slots = places.Slots.learn(np.array([-1, -1], np.int32), np.array([1, 0], np.float32))
    assert not slots.share.any()
    assert not slots.start.any()
    assert (slots.propensity == 1).all()
