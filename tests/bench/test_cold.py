"""What is hidden stays hidden, and the figures of the new are those a reader gets by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench import cold, protocol, quality

ITEMS = [f"i{number:03d}" for number in range(200)]
END = 1_700_000_000


def made(histories: dict[str, list[str]], future: dict[str, list[str]], items: list[str] = ITEMS) -> protocol.Split:
    """A split by time; each history ends at END, a day between two events."""
    known = pd.DataFrame(
        [
            (user, item, END - (len(had) - 1 - place) * protocol.DAY)
            for user, had in histories.items()
            for place, item in enumerate(had)
        ],
        columns=["user_id", "item_id", "time"],
    )
    return protocol.Split(
        name="made",
        part="valid",
        known=known,
        fit=known.sort_values("time", kind="stable", ignore_index=True),
        future=pd.DataFrame([(u, i) for u, wanted in future.items() for i in wanted], columns=["user_id", "item_id"]),
        items=pd.DataFrame({"item_id": items, "title": [f"Mug {item}" for item in items]}),
        users=pd.DataFrame({"user_id": []}),
        window=float(END + 1),
    )


@pytest.fixture
def shop() -> protocol.Split:
    """Item k was had by the visitors k, k + 1, … 99; the second hundred of items by nobody."""
    histories = {f"u{user:02d}": ITEMS[: user + 1] for user in range(100)}
    return made(histories, {user: [ITEMS[99]] for user in histories})


def test_nothing_of_a_hidden_item_can_be_learnt_but_its_content(shop: protocol.Split) -> None:
    hidden = cold.hide(shop, seed=0)
    gone = set(shop.place[hidden.items])
    assert gone
    for frame, all_of in ((hidden.after.known, shop.known), (hidden.after.fit, shop.fit)):
        assert not gone & set(frame["item_id"])
        assert len(frame) == (~all_of["item_id"].isin(gone)).sum(), "and nothing of the others is lost"
    assert hidden.after.place.equals(shop.place), "the catalogue is whole"
    items = protocol.items(hidden.after).set_index("item_id")
    assert (items.loc[sorted(gone), "created_at"] == pd.Timestamp(END, unit="s", tz="UTC")).all()
    others = sorted(set(shop.known["item_id"]) - gone)
    assert items.loc[others, "created_at"].equals(protocol.items(shop).set_index("item_id").loc[others, "created_at"])
    assert items["title"].tolist() == protocol.items(shop)["title"].tolist()


def test_each_decile_of_popularity_loses_the_same_share(shop: protocol.Split) -> None:
    hidden = cold.hide(shop, seed=0, share=0.2)
    assert hidden.decile.tolist() == [number // 10 for number in range(100)] + [-1] * 100
    assert np.bincount(hidden.decile[hidden.items]).tolist() == [2] * 10
    assert not hidden.items[100:].any(), "what nobody had is cold anyway"


def test_a_seed_hides_the_same_items_again_and_another_seed_others(shop: protocol.Split) -> None:
    first, again, other = (cold.hide(shop, seed).items for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_who_had_hidden_items_alone_is_not_asked(shop: protocol.Split) -> None:
    first = next(seed for seed in range(100) if cold.hide(shop, seed).items[0])
    hidden = cold.hide(shop, first)
    assert shop.asked[0] == "u00"
    assert hidden.before.asked == hidden.after.asked == shop.asked[1:]


def test_cold_recall_beside_that_of_warm_items_as_popular() -> None:
    """Of 20 items, two a decile, a and c are hidden: a in the first decile, c in the second, b and d their peers."""
    items = list("abcdefghijklmnopqrst")
    histories = {"ann": ["e"], "bob": ["e", "a"], "cid": ["e"]}
    split = made(histories, {"ann": ["a", "b", "d"], "bob": ["a", "b", "c"], "cid": ["a", "b", "e"]}, items)
    decile = np.arange(20) // 2
    chosen = np.isin(items, ["a", "c"])
    lists = np.array([[0, 1, -1], [1, 0, -1], [3, -1, -1]])  # a b, b a, d
    found = cold.recalls(cold.Hidden(split, split, chosen, decile), lists)
    # Targets new to them: a and b hit, d missed for ann; b hit, c missed for bob; a and b missed for cid.
    assert found.index.tolist() == [0, 1]
    assert found["cold"].tolist() == [1 / 2, 0.0]
    assert found["warm"].tolist() == [2 / 3, 0.0]
    assert found["cold_pairs"].tolist() == [2, 1]
    assert found["warm_pairs"].tolist() == [3, 1]
    assert cold.overall(found) == (pytest.approx(2 / 2 / 3), pytest.approx(2 * (2 / 3) / 3))


def test_only_the_first_hundred_count() -> None:
    split = made({"ann": [ITEMS[0]]}, {"ann": ITEMS[1:5]})
    chosen = np.isin(ITEMS, [ITEMS[1], ITEMS[3]])
    lists = np.array([[*range(100, 198), 1, 2, 3, 4]])
    found = cold.recalls(cold.Hidden(split, split, chosen, np.zeros(200, int)), lists)
    assert found.loc[0, ["cold", "warm"]].tolist() == [0.5, 0.5]


def test_a_cut_leaves_the_newest_events_and_the_moment(shop: protocol.Split) -> None:
    short = cold.cut(shop, 3)
    histories = dict(zip(short.asked, (history["item_id"].tolist() for history in short.histories()), strict=True))
    assert short.asked == shop.asked
    assert histories["u00"] == [ITEMS[0]], "who has fewer keeps them"
    assert histories["u50"] == ITEMS[48:51]
    assert (short.now() == shop.now()).all()


def test_the_peer_is_told_the_newest_events_alone(shop: protocol.Split) -> None:
    for split in (shop, replace(shop, window=None)):
        short = cold.cut(split, 1)
        told = cold.queries(short)
        assert told.shape == (100, 200)
        assert np.argmax(told, axis=1).tolist() == list(range(100))
        assert (np.count_nonzero(told, axis=1) == 1).all()
        assert len(quality.interactions(split).item) == len(shop.known), "and learns from all"


class Skipping:
    """Towers that ask for the item after the one after the newest; items are embedded by their place."""

    def users(self, inputs: dict[str, Any]) -> Any:
        newest = [ITEMS.index(item) for item in inputs["history_items"][:, 0]]
        return np.eye(len(ITEMS), dtype=np.float32)[np.array(newest) + 2]


@pytest.fixture
def skipping(shop: protocol.Split, monkeypatch: pytest.MonkeyPatch) -> protocol.Split:
    """The shop, whose visitors do what the towers expect."""
    monkeypatch.setattr(cold, "trained", lambda split, root: (None, Skipping()))
    monkeypatch.setattr(cold, "embed_items", lambda split, lake, towers: np.eye(len(ITEMS), dtype=np.float32))
    wanted = pd.DataFrame({"user_id": shop.asked[:-2], "item_id": ITEMS[2:100]})
    return replace(shop, future=wanted)


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """The last line of each figure."""
    return {line["name"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}


def test_what_is_reported_of_cold_items(
    skipping: protocol.Split, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold, "DEPTH", 1)
    cold.cold_items(skipping, Path("nowhere"), seed=0)
    found = told(capsys)
    chosen = np.flatnonzero(cold.hide(skipping, seed=0).items)
    asked_for = chosen[chosen >= 2]
    # Whose newest item is hidden is taken to be one event younger, and is offered something else.
    recall = found["cold.items_recall@100"]
    assert recall["value"] == pytest.approx(np.mean(~np.isin(asked_for - 2, chosen)), abs=1e-3)
    assert recall["settings"]["hidden_items"] == 10
    assert recall["settings"]["hidden_pairs"] == len(asked_for)
    assert found["cold.items_per_warm"]["limit"] == 0.6
    assert found["cold.items_per_warm"]["value"] == pytest.approx(recall["value"] / recall["peer"], abs=2e-3)
    # Of the 98 targets, those are missed whose user's newest item is hidden: the item two before.
    missed = sum(item + 2 < 100 for item in chosen)
    assert found["cold.all_items_recall@100"]["value"] == pytest.approx(1 - missed / 98, abs=1e-3)
    assert found["cold.items_recall@100_of_decile"]["settings"]["decile"] == 10


def test_what_is_reported_of_cold_users(skipping: protocol.Split, capsys: pytest.CaptureFixture[str]) -> None:
    cold.cold_users(skipping, Path("nowhere"), seed=0)
    found = told(capsys)
    assert sorted(found) == ["cold.users_ndcg@20", "cold.users_recall@20"]
    assert found["cold.users_ndcg@20"]["value"] == 1.0
    assert found["cold.users_ndcg@20"]["settings"]["events"] == 5
    assert found["cold.users_ndcg@20"]["peer"] < 1.0, "EASE knows nothing of skipping"
