"""Frozen splits: what may be known of them, and figures that a reader can check by hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import protocol
from feature_repo import events
from recsys import settings

SHARED = settings.REPOSITORY.parent / "shared" / "eval"


def test_by_time_all_before_the_window_may_be_known_and_learnt_from(by_time: Path) -> None:
    split = protocol.load(by_time, "test")
    assert split.asked == ["ann"], "eve has no history, and bob did not come back"
    assert sorted(split.fit["item_id"]) == ["a", "b", "b", "c"], "the basket of nobody known counts"
    assert split.candidates.tolist() == [True, True, True, False]
    assert split.now()[0] == split.window + protocol.LEAD_SECONDS


def test_figures_by_hand(by_time: Path) -> None:
    split = protocol.load(by_time, "test")
    scores = np.array([[4.0, 3.0, 2.0, 9.0]])
    everything = protocol.rank(split, lambda rows: scores[rows], "all")
    assert everything[0].tolist() == [0, 1, 2, -1], "d was not in the catalogue"
    found = protocol.figures(split, everything, "all")
    assert found["recall@5"] == 1.0, "d is no target that anybody could hit"
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg@5"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(4)) / ideal)
    new = protocol.rank(split, lambda rows: scores[rows], "new")
    assert new[0].tolist() == [2, -1, -1, -1], "a and b were bought before"
    assert protocol.figures(split, new, "new")["ndcg@5"] == 1.0


def test_one_left_out_learns_from_train_alone_and_knows_the_event_before(one_out: Path) -> None:
    split = protocol.load(one_out, "test")
    assert sorted(split.fit["item_id"]) == ["a", "b", "b"]
    histories = dict(zip(split.asked, (h["item_id"].tolist() for h in split.histories()), strict=True))
    assert histories == {"ann": ["a", "b", "c"], "bob": ["b", "a"]}
    assert split.views == ("new",)


def test_histories_without_times_end_on_the_same_day(one_out: Path) -> None:
    split = protocol.load(one_out, "valid")
    ends = split.fit.groupby("user_id")["time"].max()
    assert ends["ann"] == ends["bob"] == protocol.EPOCH_OF_PLACES
    assert np.diff(split.fit[split.fit["user_id"] == "ann"]["time"]).tolist() == [protocol.DAY]
    assert (split.now() == protocol.EPOCH_OF_PLACES + protocol.DAY).all(), "a day after the last one known"


@pytest.mark.parametrize("kind", ["by_time", "one_out"])
def test_the_canonical_tables_have_the_columns_of_the_schema(kind: str, request: pytest.FixtureRequest) -> None:
    split = protocol.load(request.getfixturevalue(kind), "test")
    for table, made in (
        (events.EVENTS, protocol.events(split)),
        (events.ITEMS, protocol.items(split)),
        (events.USERS, protocol.users(split)),
    ):
        table.check_columns(list(made.columns) + [c.name for c in table.columns if not c.required])
    assert protocol.events(split)["event_id"].is_unique


def test_a_missing_file_is_named(by_time: Path) -> None:
    (by_time / "valid.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"valid\.parquet"):
        protocol.load(by_time, "test")


@pytest.mark.skipif(not SHARED.exists(), reason="needs the frozen splits in ../shared/eval")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its meta.json open
@pytest.mark.parametrize("name", ["ml100k", "online_retail"])
def test_figures_agree_with_the_reference_implementation(name: str) -> None:
    spec = importlib.util.spec_from_file_location("recoeval", SHARED / "recoeval.py")
    assert spec is not None
    assert spec.loader is not None
    recoeval = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recoeval)
    split = protocol.load(SHARED / "splits" / name, "valid")
    theirs = recoeval.load(name)
    popular = split.fit["item_id"].value_counts().reindex(split.items["item_id"]).fillna(0).to_numpy()
    for view in theirs.views:
        ours = "new" if view == "loo" else view
        lists = protocol.rank(split, lambda rows: np.tile(popular, (len(split.asked[rows]), 1)), ours)
        found = protocol.figures(split, lists, ours)
        score = popular.astype(np.float32)
        expected = recoeval.evaluate(theirs, "valid", lambda users, score=score: np.tile(score, (len(users), 1)), view)[
            view
        ]
        assert found["users"] == expected["users"]
        for figure in ("Recall@100", "NDCG@10" if name == "ml100k" else "NDCG@20"):
            assert found[figure.lower()] == pytest.approx(expected[figure], abs=1e-6)


def test_by_time_the_question_one_step_earlier_is_about_the_window_before(by_time: Path) -> None:
    split = protocol.load(by_time, "test")
    earlier = protocol.earlier(split)
    assert split.days == 31
    assert earlier.window == split.window - 31 * protocol.DAY
    assert sorted(earlier.fit["item_id"]) == ["a", "b", "c"], "what ann bought later is not known"
    assert earlier.asked == ["ann"]
    assert earlier.future["item_id"].tolist() == ["b"]


def test_where_one_is_left_out_a_third_of_each_history_is_asked_about_earlier(one_out: Path) -> None:
    history = [("ann", item, place) for place, item in enumerate("abcdab")] + [("bob", "b", 0)]
    pd.DataFrame(history, columns=["user_id", "item_id", "ts"]).to_parquet(one_out / "train.parquet")
    earlier = protocol.earlier(protocol.load(one_out, "test"))
    assert earlier.known["item_id"].tolist() == ["a", "b", "c", "d", "b"]
    assert earlier.future["item_id"].tolist() == ["a", "b"]
    assert earlier.asked == ["ann"], "one event is not enough to leave any out"
