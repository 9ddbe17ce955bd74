"""Whole runs of the daily DAG through Airflow, with stages played by a script that keeps a diary."""

import json
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

from dags import operators

# Called as `PROGRAM -m pipelines STAGE … --result FILE`.
PROGRAM = """#!/bin/sh
stage=$3
while [ "$1" != --result ]; do shift; done
echo $stage >> {folder}/diary
if [ $stage = "{fails}" ]; then exit 65; fi
passed=true; if [ $stage = "{refuses}" ]; then passed=false; fi
echo "{{\\"passed\\": $passed, \\"reasons\\": [\\"recall 0.4 against 0.3\\"]}}" > "$2"
"""
TRAINED = ["ingest", "quality", "features", "trending", "materialize", "train_retrieval", "evaluate_retrieval"]
BUILT = ["build_index", "validate_index", "train_ranker", "evaluate_ranker"]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the DAG once; returns the state of the run, the stages that ran, and task id → state."""
    monkeypatch.setattr(operators.notes, "add", lambda run, line: None)

    def run(refuses: str = "", fails: str = "", **form):
        program = tmp_path / "python"
        program.write_text(PROGRAM.format(folder=tmp_path, refuses=refuses, fails=fails))
        program.chmod(0o755)
        dag = DagBag().dags["daily"]
        for task in dag.tasks:
            if isinstance(task, operators.StageOperator):
                task.python, task.retries = str(program), 0
        result = dag.test(run_conf={"day": "2026-03-05"} | form)
        states = {ti.task_id: str(ti.state) for ti in result.get_task_instances()}
        return str(result.state), (tmp_path / "diary").read_text().split(), states

    return run


def test_a_good_day_runs_every_stage_once_and_deploys_last(play) -> None:
    state, diary, states = play()
    assert state == "success"
    assert sorted(diary) == sorted([*TRAINED, *BUILT, "register", "deploy", "materialize"])
    assert diary[-3:] == ["register", "deploy", "materialize"]
    assert states["approval"] == "skipped"
    assert states["evaluate_retrieval_refused"] == "skipped"


@pytest.mark.parametrize("gate", ["evaluate_retrieval", "validate_index", "evaluate_ranker"])
def test_a_gate_that_refuses_ends_the_run_without_a_failure_and_without_a_deployment(play, gate: str) -> None:
    state, diary, states = play(refuses=gate)
    assert state == "success"
    assert gate in diary
    assert not {"register", "deploy"} & set(diary)
    assert states[f"{gate}_refused"] == "success"
    assert states["deploy"] == "skipped"


@pytest.mark.parametrize("stage", ["trending", "features"])
def test_nothing_is_trained_that_could_not_be_released(play, stage: str) -> None:
    state, diary, states = play(fails=stage)
    assert state == "failed"
    assert set(diary) <= {"ingest", "quality", "trending", "features"}
    assert states["train_retrieval"] == "upstream_failed"


def test_a_stage_that_fails_fails_the_run_and_nothing_after_it_runs(play) -> None:
    state, diary, states = play(fails="quality")
    assert state == "failed"
    assert diary == ["ingest", "quality"]
    assert states["deploy"] == "upstream_failed"
    assert json.dumps(states).count("upstream_failed") > 5
