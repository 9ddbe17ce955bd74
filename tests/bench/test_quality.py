"""The peers of the quality benchmark on splits that a reader can rank by hand."""

from pathlib import Path

import numpy as np
import pytest

from bench import protocol, quality
from recsys.settings import Settings


def test_whoever_is_asked_comes_first_and_baskets_of_nobody_are_visitors_too(by_time: Path) -> None:
    split = protocol.load(by_time, "test")
    seen = quality.interactions(split)
    assert split.asked == ["ann"]
    assert seen.item[seen.visitor == 0].tolist() == [0, 1], "what ann had, a and b"
    assert len(np.unique(seen.visitor)) == 3, "ann, bob and a basket"
    assert (np.diff(seen.visitor) >= 0).all()
    assert seen.age.min() == 0.0


def test_where_one_is_left_out_the_peers_know_the_event_before(one_out: Path) -> None:
    split = protocol.load(one_out, "test")
    seen = quality.interactions(split)
    assert sorted(seen.item[seen.visitor == split.asked.index("ann")].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(("model", "first"), [("popularity", 1), ("repeats", 1), ("ease", None)])
def test_every_peer_scores_all_items_for_everybody(by_time: Path, model: str, first: int | None) -> None:
    split = protocol.load(by_time, "test")
    scores = quality.MODELS[model](split, Settings())[model](slice(0, 1))
    assert scores.shape == (1, len(split.items))
    assert np.isfinite(scores).all()
    if first is not None:
        assert scores[0].argmax() == first, "b was bought twice, last of all by ann"


def test_ease_recommends_what_was_had_together(one_out: Path) -> None:
    split = protocol.load(one_out, "valid")
    scores = quality.ease(split, Settings())["ease"](slice(0, 2))
    bob = split.asked.index("bob")
    assert scores[bob].argmax() == 0, "bob had b, and who else had b had a"
