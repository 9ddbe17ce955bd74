"""A run as it is told in a log and on a terminal."""

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from recsys import progress
from recsys.airflow import Run, TaskState


def run(state: str, *tasks: tuple[str, str, float | None], note: str = "") -> Run:
    return Run("daily", "r1", state, note, [TaskState(*task) for task in tasks])


RUNS = [
    run("running", ("ingest", "running", 1.0), ("quality", "none", None)),
    run("running", ("ingest", "success", 4.4), ("quality", "up_for_retry", 2.0)),
    run("running", ("ingest", "success", 4.4), ("quality", "running", 3.0)),
    run("failed", ("ingest", "success", 4.4), ("quality", "failed", 9.6), ("deploy", "upstream_failed", None)),
]


def told(runs: Sequence[Run], *, terminal: bool) -> tuple[str, Run]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
    last = progress.follow(iter(runs), console)
    progress.conclude(last, console)
    return console.file.getvalue(), last  # type: ignore[attr-defined]


def test_a_log_gets_one_line_for_each_end_of_a_task() -> None:
    text, last = told(RUNS, terminal=False)
    assert [line.split() for line in text.splitlines()] == [
        ["ingest", "success", "4", "s"],
        ["quality", "up_for_retry", "2", "s"],
        ["quality", "failed", "10", "s"],
        ["deploy", "upstream_failed"],
        ["daily", "failed"],
    ]
    assert last is RUNS[-1]


def test_a_line_is_written_when_the_task_ends_and_not_when_the_run_does() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    lengths = []

    def watched() -> object:
        for state in RUNS:
            lengths.append(len(console.file.getvalue()))  # type: ignore[attr-defined]
            yield state

    progress.follow(watched(), console)  # type: ignore[arg-type]
    assert lengths[:2] == [0, 0]
    assert lengths[2] > 0


def test_a_terminal_gets_a_table_and_it_stays_at_the_end() -> None:
    text, _ = told(RUNS, terminal=True)
    final = text[text.rindex("daily failed") :]
    assert [line.split()[1:] for line in final.splitlines()[2:]] == [
        ["ingest", "success", "4"],
        ["quality", "failed", "10"],
        ["deploy", "upstream_failed"],
    ]


def test_who_waits_behind_another_run_is_told_so_once() -> None:
    text, _ = told([*[run("queued")] * 5, run("success")], terminal=False)
    assert text.splitlines() == ["daily is queued: another run of it goes first", "daily success"]
    text, _ = told([run("queued"), run("running"), run("success")], terminal=False)
    assert text.splitlines() == ["daily success"], "every run is queued for a moment"


def test_the_note_of_the_gates_is_shown() -> None:
    text, _ = told([run("success", ("ingest", "success", 1.0), note="recall 0.4 [beats] 0.3")], terminal=False)
    assert "recall 0.4 [beats] 0.3" in text


def test_a_run_without_a_state_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        told([], terminal=False)
