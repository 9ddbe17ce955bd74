"""What the towers and the gate read of a visitor who said no."""

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines import corpus, datasets, holdout, sequences
from pipelines.datasets import Lake
from pipelines.past import Past
from recsys.settings import Settings

DAY = date(2026, 3, 10)
INF = np.inf
CUTOFF = 50.0


def row(visitor: str, items: list[str], times: list[int], turns: list[list[int]] | None) -> dict[str, Any]:
    known = {"visitor_id": visitor, "is_user": True, "region": "DE", "age_group": None, "items": items, "times": times}
    return known | {"events": ["purchase"] * len(items), "turns": turns}


# Before the cutoff at 50, ann returns the cup, and bob his mug after it; cid took no part of it back for good.
ROWS = [
    row("ann", ["mug", "cup", "car"], [10, 20, 60], [[], [30], [70]]),
    row("bob", ["mug", "cup"], [10, 60], [[55], []]),
    row("cid", ["mug", "cup"], [10, 20], [[15, 16], []]),
    row("dan", ["mug"], [10], None),
    row("eve", [], [], None),
]


@pytest.fixture
def lake(settings: Settings) -> Lake:
    found = datasets.lake(settings)
    found.write(datasets.SEQUENCES, DAY, pa.Table.from_pylist(ROWS, SCHEMA))
    return found


SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("visitor_id", "region", "age_group")),
        ("is_user", pa.bool_()),
        *(("items", pa.list_(pa.string())), ("events", pa.list_(pa.string())), ("times", pa.list_(pa.int64()))),
        sequences.TURNS,
    ]
)


def test_turns_lie_by_event(lake: Lake) -> None:
    [batch] = sequences.batches(lake, DAY, ["visitor_id"], 100)
    expected = [[INF, INF], [30, INF], [70, INF], [55, INF], [INF, INF], [15, 16], [INF, INF], [INF, INF]]
    assert sequences.turns(batch).tolist() == expected
    assert sequences.turns(batch.slice(1, 2)).tolist() == [[55, INF], [INF, INF], [15, 16], [INF, INF]]
    assert sequences.turns(batch.slice(3)).shape == (1, 0)


def test_sequences_of_an_earlier_version_have_no_turns(lake: Lake) -> None:
    lake.write(datasets.SEQUENCES, DAY, pa.Table.from_pylist(ROWS, SCHEMA).drop_columns(["turns"]))
    [batch] = sequences.batches(lake, DAY, ["visitor_id"], 100)
    assert sequences.turns(batch).shape == (8, 0)
    assert sequences.counting(batch.to_pylist()[0], 100) == [0, 1, 2]


def test_the_towers_count_what_stands_at_the_cutoff_and_know_no_later_return(lake: Lake) -> None:
    [batch] = sequences.batches(lake, DAY, ["visitor_id"], 100)
    rows = corpus.flat(batch, CUTOFF)
    assert np.isfinite(rows.turns).sum() == 3  # bob's return of 55 is not known
    standing = rows.standing()
    assert sorted(zip(standing.owner.tolist(), standing.items.tolist(), strict=True)) == [
        (0, "mug"), (1, "mug"), (2, "cup"), (2, "mug"), (3, "mug")
    ]  # fmt: skip


def test_the_gate_asks_for_nothing_that_was_returned(lake: Lake) -> None:
    row_of = {"mug": 0, "cup": 1, "car": 2}
    found = {user["id"]: user for user in holdout._asked(lake, DAY, row_of, CUTOFF, 100.0)}
    assert set(found) == {"bob"}  # all that ann bought in the holdout she returned
    assert found["bob"]["targets"].tolist() == [1]
    early = {user["id"]: user for user in holdout._asked(lake, DAY, row_of, CUTOFF, 65.0)}
    assert early["ann"]["items"] == ["mug"]  # her cup is gone from the history ...
    assert early["ann"]["had"] == ["mug", "cup"]  # ... but was hers
    seen = holdout.interactions(lake, DAY, row_of, CUTOFF)
    assert sorted(seen.item.tolist()) == [0, 0, 0, 0, 1]


def test_the_past_knows_what_counted_at_a_moment(lake: Lake) -> None:
    past = Past.read(lake, DAY, ["ann", "dan"])
    assert past.before("ann", 65).items.tolist() == ["mug", "cup", "car"]
    assert past.before("ann", 65).counting(65).items.tolist() == ["mug", "car"]
    assert past.before("ann", 25).counting(25).items.tolist() == ["mug", "cup"]
    assert past.before("dan", 25).counting(25).items.tolist() == ["mug"]
