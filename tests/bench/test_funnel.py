"""What the ranker of the quality benchmark is asked and taught."""

from pathlib import Path

import numpy as np
import pandas as pd

from bench import funnel, protocol


def test_by_time_all_that_was_had_in_the_window_is_wanted(by_time: Path) -> None:
    (question,) = funnel.taught(protocol.earlier(protocol.load(by_time, "test")))
    assert (question.user, question.wanted) == ("ann", {"b": 0})
    assert question.history["item_id"].tolist() == ["a"]


def test_where_one_is_left_out_each_event_is_asked_for_after_those_before_it(one_out: Path) -> None:
    history = [("ann", item, place) for place, item in enumerate("abcdab")]
    for name, rows in (("train", history), ("valid", [("ann", "c", 6)])):
        pd.DataFrame(rows, columns=["user_id", "item_id", "ts"]).to_parquet(one_out / f"{name}.parquet")
    split = protocol.load(one_out, "test")
    first, second = funnel.taught(protocol.earlier(split))
    assert (first.history["item_id"].tolist(), first.wanted) == (list("abcd"), {"a": 0})
    assert (second.history["item_id"].tolist(), second.wanted) == (list("abcda"), {"b": 0})
    assert second.now - first.now == protocol.DAY
    ann = next(question for question in funnel.asked(split) if question.user == "ann")
    assert ann.history["item_id"].tolist() == list("abcdabc"), "what was left out to be predicted is known at the test"
    assert not ann.wanted


def test_what_is_wanted_brings_in_price_times_quantity() -> None:
    bought = pd.DataFrame({"item_id": ["a", "b"], "price": [2.5, 4.0], "qty": [4, 1]})
    assert funnel.amounts(bought).tolist() == [10, 4]
    assert funnel.amounts(bought.drop(columns="qty")).tolist() == [2.5, 4]
    assert funnel.amounts(bought.drop(columns="price")).tolist() == [0, 0]


def test_what_is_no_candidate_has_no_score() -> None:
    row = np.array([0, 0, 1])
    lists = funnel.Lists(row, np.array([2, 0, 1]), np.array([1, 2, 3], np.float32), np.array([0.5, 0.25, 0.75]))
    assert lists.scores(slice(0, 2), 3, "ranked").tolist() == [[0.25, -np.inf, 0.5], [-np.inf, 0.75, -np.inf]]
    assert lists.scores(slice(1, 2), 3, "retrieval").tolist() == [[-np.inf, 3.0, -np.inf]]
