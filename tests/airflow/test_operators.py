"""The operator's contract with the child process: result, exit codes, environment, death."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from dags import notes, operators

# Stands where the platform's Python would: called as `PROGRAM -m pipelines STAGE --result FILE`.
PROGRAM = """#!/bin/sh
while [ "$1" != --result ]; do shift; done
{body}
"""


@pytest.fixture
def stage(tmp_path: Path):
    def make(body: str, kind: type[operators.StageOperator] = operators.StageOperator, **kwargs):
        program = tmp_path / "python"
        program.write_text(PROGRAM.format(body=body))
        program.chmod(0o755)
        return kind(task_id="t", stage="quality", arguments=["--day", "2026-01-01"], python=str(program), **kwargs)

    return make


def test_the_result_file_is_what_the_task_returns_whatever_was_printed(stage) -> None:
    task = stage("""echo '{"rows": 1}'; echo noise >&2; echo '{"rows": 7}' > "$2" """)
    assert task.execute({}) == {"rows": 7}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (99, AirflowSkipException),
        (64, AirflowFailException),
        (65, AirflowFailException),
        (78, AirflowFailException),
        (75, AirflowException),
        (1, AirflowException),
    ],
)
def test_the_exit_code_decides_between_skip_fail_and_retry(stage, code: int, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        stage(f"exit {code}").execute({})
    assert isinstance(raised.value, AirflowFailException) == (code in (64, 65, 78))


def test_a_stage_that_has_nothing_to_do_says_why_on_the_note(stage, monkeypatch) -> None:
    noted: list[str] = []
    monkeypatch.setattr(operators.notes, "add", lambda run, line: noted.append(line))
    with pytest.raises(AirflowSkipException):
        stage("echo INFO quality: nothing to do: it was closed; exit 99").execute({"dag_run": SimpleNamespace()})
    with pytest.raises(AirflowSkipException):
        stage("echo bye; exit 99").execute({"dag_run": SimpleNamespace()})
    assert noted == ["quality skipped: it was closed"]


def test_the_child_sees_our_settings_and_no_secret_of_airflow(stage, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "hush")
    stage(f"""env > {tmp_path}/env; echo '{{}}' > "$2" """).execute({})
    seen = (tmp_path / "env").read_text()
    assert "AIRFLOW" not in seen
    assert "hush" not in seen
    assert "RECSYS_STORAGE__ROOT=" in seen


def test_on_kill_ends_the_child_and_its_children_even_if_they_ignore_sigterm(stage, tmp_path: Path) -> None:
    task = stage(f"""trap '' TERM; sleep 300 & echo $! > {tmp_path}/pid; wait""")
    ended: list[type[BaseException]] = []
    thread = threading.Thread(target=lambda: ended.append(_error_of(task)))
    thread.start()
    pid = _wait_for(tmp_path / "pid")
    task.on_kill()
    thread.join(10)
    assert ended == [AirflowException]
    assert not _alive(pid)


def test_the_child_dies_with_the_task_process(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 300\n")
    program.chmod(0o755)
    code = (
        "from dags.operators import StageOperator\n"
        f"StageOperator(task_id='t', stage='x', arguments=[], python={str(program)!r}).execute({{}})"
    )
    parent = subprocess.Popen([os.sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    pid = _wait_for(tmp_path / "pid", 60)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


@pytest.mark.parametrize(("passed", "branch"), [(True, ["register"]), (False, "quality_refused")])
def test_a_gate_notes_its_verdict_and_branches(stage, monkeypatch, passed: bool, branch) -> None:
    noted, branched = [], []
    monkeypatch.setattr(operators.notes, "add", lambda run, line: noted.append(line))
    monkeypatch.setattr(operators.GateOperator, "do_branch", lambda self, context, to: branched.append(to))
    figure, fell_short = "recall@100 0.41 against 0.30", "FAILED: coverage 0.01, at least 0.02"
    result = {"passed": passed, "reasons": [figure] if passed else [figure, fell_short]}
    gate = stage(
        f"""echo '{json.dumps(result)}' > "$2" """,
        operators.GateOperator,
        passed=["register"],
        refused="quality_refused",
    )
    assert gate.execute({"dag_run": SimpleNamespace()}) == result
    assert branched == [branch]
    assert noted == [f"quality passed: {figure}" if passed else f"quality REFUSED: {fell_short}; {figure}"]


def test_a_note_that_is_too_long_begins_with_what_was_refused() -> None:
    passed, refused = "evaluate_ranker passed: " + "figure; " * 200, "validate_index REFUSED: recall 0.5"
    note = notes.fitted([passed, refused])
    assert note.startswith(f"{refused}\nevaluate_ranker passed: figure")
    assert (len(note), note[-2:]) == (notes.MAX_NOTE, " …")
    assert notes.fitted(["a passed", "b passed"]) == "a passed\nb passed"


def test_a_blank_field_of_the_form_is_left_to_the_default_of_the_stage() -> None:
    assert operators.without_empty(["--epochs", "None", "--dim", "64", "--x", ""]) == ["--dim", "64"]


def _error_of(task: operators.StageOperator) -> type[BaseException]:
    with pytest.raises(AirflowException) as raised:
        task.execute({})
    return raised.type


def _wait_for(path: Path, seconds: float = 20) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text().strip()):
            return int(text)
        time.sleep(0.05)
    raise TimeoutError(f"{path} was not written")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
