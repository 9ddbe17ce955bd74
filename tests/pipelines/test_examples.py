"""Cuts through histories: what came before, what came next, and never the other way round."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines import examples

LAYOUT = examples.Layout(history=6, targets=4, preferences=8)
DAY = 86_400.0


def sequences(lists: list[list[float]]) -> examples.Sequences:
    """One visitor per list of times; item k + 2 is the k-th event of all."""
    offsets = np.concatenate([[0], np.cumsum([len(times) for times in lists])])
    n, visitors = int(offsets[-1]), len(lists)
    return examples.Sequences(
        offsets=offsets,
        items=np.arange(n) + 2,
        events=np.full(n, 3),
        times=np.array([time for times in lists for time in times]),
        turns=np.empty((n, 0)),
        signal=np.full(n, 4.0),
        region=np.zeros(visitors, np.int64),
        age_group=np.zeros(visitors, np.int64),
        preferences=np.zeros((visitors, 8), np.int64),
        validates=np.arange(visitors) % 2 == 1,
    )


def plan(**changes: object) -> examples.Plan:
    facts = {
        "layout": LAYOUT,
        "moments": np.array([0.0, 5 * DAY]),
        "validate_from": 6 * DAY,
        "chunk": 4,
        "horizon": 1.0,
        "fade": np.inf,
    }
    return examples.Plan(**(facts | changes))  # type: ignore[arg-type]


def test_a_visit_starts_an_example_with_everything_before_it() -> None:
    two_visits = sequences([[DAY, DAY + 60, 8 * DAY]])
    fields = examples.records(two_visits, plan(), np.random.default_rng(0))
    last = fields["items"][-1]
    assert last.tolist() == [3, 2, 0, 0, 0, 0], "newest first"
    assert fields["targets"][-1].tolist() == [4, 0, 0, 0]
    assert fields["moment"][-1] == 1, "statistics known before the cut"
    np.testing.assert_allclose(fields["ages"][-1][:2], [7 - 60 / DAY, 7])


def test_targets_count_less_the_longer_they_take() -> None:
    fields = examples.records(sequences([[DAY, 2 * DAY]]), plan(), np.random.default_rng(0))
    assert fields["weights"][0].tolist() == [4.0, 2.0, 0.0, 0.0]


def test_targets_count_less_the_more_came_between() -> None:
    fields = examples.records(sequences([[DAY, DAY, DAY]]), plan(fade=1.0), np.random.default_rng(0))
    assert fields["weights"][0].tolist() == [4.0, 2.0, 1.0, 0.0]


def test_a_batch_is_cut_to_its_longest_history_and_to_its_last_target() -> None:
    fields = {name: np.zeros((1, width)) for name, (width, _) in LAYOUT.fields.items()}
    fields["items"][0, :2] = 7, 8
    fields["targets"][0, 2] = 9  # behind two that do not count
    batch = examples.unpack(LAYOUT, [examples.pack(LAYOUT, fields).tobytes()])
    assert batch["request"]["items"].numpy().tolist() == [[7, 8]]
    assert batch["targets"].numpy().tolist() == [[0, 0, 9]]


def test_workers_part_a_batch_between_them(tmp_path: Path) -> None:
    lists = [[DAY, 2 * DAY, 3 * DAY], [DAY, 3 * DAY]]
    examples.write(tmp_path, iter([sequences(lists)]), plan(moments=np.array([0.0]), validate_from=np.inf), seed=1)
    stream = examples.dataset([tmp_path / "train"], LAYOUT, 8, None)
    assert stream.options().autotune.enabled is False, "nothing tunes it, see pipelines.streams"
    (whole,) = stream
    parts = [next(iter(examples.dataset([tmp_path / "train"], LAYOUT, 8, None, n, 3))) for n in range(3)]
    assert len(whole["importance"]) == 5
    assert [len(part["importance"]) for part in parts] == [2, 2, 2], "the last row of the last worker is blank"
    assert sorted(n for part in parts for n in part["importance"].numpy()) == sorted(
        [0.0, *whole["importance"].numpy()]
    )
    assert parts[2]["targets"].numpy()[1].tolist() == [0] * parts[2]["targets"].shape[1]


@given(st.lists(st.lists(st.floats(1, 30 * DAY), min_size=1, max_size=12).map(sorted), min_size=1, max_size=4))
def test_no_history_reaches_its_targets(lists: list[list[float]]) -> None:
    fields = examples.records(sequences(lists), plan(), np.random.default_rng(1))
    for past, future in zip(fields["items"], fields["targets"], strict=True):
        assert past.max(initial=0) < future[0]
    assert (fields["ages"] >= 0).all()
    assert (fields["weights"][:, 0] > 0).all()


def test_records_come_back_as_written(tmp_path: Path) -> None:
    found = sequences([[DAY, 2 * DAY, 7 * DAY], [DAY, 9 * DAY]])
    counts = examples.write(tmp_path, iter([found]), plan(), seed=3)
    assert counts == {"train": 4, "valid": 1}, "the second visitor's ninth day is kept to stop by"
    (batch,) = examples.dataset([tmp_path / "valid"], LAYOUT, 8, None)
    assert batch["targets"].numpy().tolist() == [[6]]
    assert batch["request"]["items"].numpy().tolist() == [[5]]
    np.testing.assert_allclose(batch["request"]["ages"].numpy()[0, 0], 8.0)
    moments = [set(batch["moment"].numpy().tolist()) for batch in examples.dataset([tmp_path / "train"], LAYOUT, 2, 1)]
    assert all(len(one) == 1 for one in moments), "a batch has the statistics of one moment"
    assert examples.batches([tmp_path / "train"], LAYOUT, 2) == len(moments)


def test_an_item_of_the_history_is_no_target() -> None:
    again = sequences([[DAY, DAY + 10, DAY + 20, 4 * DAY]])
    again.items[:] = [2, 2, 3, 2]
    offered = examples.records(again, plan(), np.random.default_rng(0))
    assert set(offered["targets"][1]) <= {0, 3}, "2 was clicked seconds ago"
    assert not offered["targets"][-1].any(), "2 is wanted again days later, which is for other sources to say"
    assert offered["importance"][-1] == 0, "nothing new came next"


def test_a_returned_item_is_no_target_and_leaves_the_history_at_its_return() -> None:
    """Item 3 of four visits is returned in the third: only the histories of the second and third visit hold it."""
    known = sequences([[1 * DAY, 2 * DAY, 3 * DAY, 4 * DAY]])
    gone = np.array([[np.inf], [3.5 * DAY], [np.inf], [np.inf]])
    fields = examples.records(replace(known, turns=gone), plan(), np.random.default_rng(1))
    first, second, third, fourth = range(4)
    assert fields["targets"][first].tolist() == [2, 0, 4, 5]
    assert fields["targets"][second].tolist() == [0, 4, 5, 0]
    assert fields["items"][third][:2].tolist() == [3, 2]
    assert fields["items"][fourth][:4].tolist() == [4, 2, 0, 0]
    undone = np.array([[np.inf] * 2, [3.5 * DAY, 3.8 * DAY], [np.inf] * 2, [np.inf] * 2])
    again = examples.records(replace(known, turns=undone), plan(), np.random.default_rng(1))
    plain = examples.records(known, plan(), np.random.default_rng(1))
    assert all(np.array_equal(again[name], plain[name]) for name in plain)
