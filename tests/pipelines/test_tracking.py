"""Runs are found again, never doubled, and a missing server is said so in time."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow_tables
import pytest

from pipelines import tracking
from pipelines.datasets import RunId
from recsys.errors import Permanent, Retryable
from recsys.settings import Settings, child_environment

RUN = RunId("r1")


@pytest.fixture
def tracked(tracked_settings: Settings) -> Settings:
    return tracked_settings


def runs(settings: Settings) -> dict[str, Any]:
    client, _ = tracking.connect(settings)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    found = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in found}) == len(found), "a run stands twice"
    return {run.info.run_name: run for run in found}


def test_stages_meet_under_one_parent(tracked: Settings, tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "curve.txt").write_text("up")
    with tracking.stage_run(tracked, RUN, "features", {"day": "2020-01-01"}) as run:
        run.metrics({"rows": 7})
    with tracking.stage_run(tracked, RUN, "train_retrieval", {"epochs": 2}) as run:
        run.metrics_at(0, {"loss": 2.0})
        run.metrics_at(1, {"loss": 1.5, "recall": {"@20": 0.5, "@100": float("nan")}})
        run.artifacts(report, "plots")
        run.artifacts(tmp_path / "absent")
        client, training = run.client, run.id

    found = runs(tracked)

    assert sorted(found) == ["features", "r1", "train_retrieval"]
    parent = found["r1"]
    assert found["features"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert found["train_retrieval"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert found["train_retrieval"].data.params == {"epochs": "2", "seed": str(tracked.seed)}
    assert found["train_retrieval"].data.metrics == {"loss": 1.5, "recall/_20": 0.5}
    assert [point.value for point in client.get_metric_history(training, "loss")] == [2.0, 1.5]
    assert client.list_artifacts(training, "plots")[0].path == "plots/curve.txt"
    assert parent.info.status == "FINISHED"


def test_what_a_training_was_told_stands_on_the_pipeline_run_and_follows_the_last_try(tracked: Settings) -> None:
    for epochs in (2, None):
        told = {"epochs": epochs, "dim": 64, "run": "r1", "reuse": True}
        with tracking.stage_run(tracked, RUN, "train_retrieval", told) as run:
            run.params({"recipe.epochs": epochs or 8})
    with tracking.stage_run(tracked, RUN, "evaluate_retrieval", {"tolerance": 0.02}):
        pass
    tags = runs(tracked)["r1"].data.tags
    assert {name: value for name, value in tags.items() if name.startswith(("train_", "evaluate_"))} == {
        "train_retrieval.epochs": "None",
        "train_retrieval.dim": "64",
        "train_retrieval.seed": str(tracked.seed),
        "train_retrieval.recipe.epochs": "8",
    }


def test_the_tables_of_two_runs_stand_side_by_side(tracked: Settings) -> None:
    for name, recall in (("r1", 0.25), ("r2", 0.5)):
        with tracking.stage_run(tracked, RunId(name), "evaluate_retrieval", {}) as run:
            run.table("baselines", [{"ranker": "two towers", "recall@20": recall}, {"ranker": "EASE"}])
    found = mlflow_tables.read(tracked, "baselines")
    towers = found[found["ranker"] == "two towers"].set_index("tags.recsys.run_id")
    assert towers["recall@20"].to_dict() == {"r1": 0.25, "r2": 0.5}
    assert found[found["ranker"] == "EASE"]["recall@20"].isna().all()


def test_a_verdict_is_a_figure_a_tag_and_the_runs_description(tracked: Settings) -> None:
    with tracking.stage_run(tracked, RUN, "validate_index", {}) as run:
        run.verdict(False, ["FAILED: recall 0.5", "x" * 9_000], {"recall@100": 0.5})
    found = runs(tracked)["validate_index"].data
    assert found.metrics == {"passed": 0.0, "recall_100": 0.5}
    assert found.tags["passed"] == "False"
    assert found.tags[tracking.NOTE_TAG].startswith("- FAILED: recall 0.5\n- xxx")


def test_a_pipeline_run_that_is_refused_has_its_figures_to_be_compared_by(tracked: Settings) -> None:
    towers = {"view": "new", "views": {"new": {"two towers": {"recall@100": 0.4}}}, "users": 9}
    with tracking.stage_run(tracked, RUN, "evaluate_retrieval", {}) as run:
        run.verdict(True, [], towers)
    with tracking.stage_run(tracked, RUN, "evaluate_ranker", {}) as run:
        run.verdict(False, ["FAILED: NDCG@10"], {"ranker": {"ndcg_10": 0.3}, "forward_ms": {"p10": 4.0}})
    assert runs(tracked)["r1"].data.metrics == {
        "retrieval/new/two towers/recall_100": 0.4,
        "evaluate_retrieval/passed": 1.0,
        "ranker/ranker/ndcg_10": 0.3,
        "evaluate_ranker/passed": 0.0,
    }


def test_a_stage_that_runs_again_replaces_its_run(tracked: Settings) -> None:
    for loss in (3.0, 2.0):
        with tracking.stage_run(tracked, RUN, "train_ranker", {"rate": loss}) as run:
            run.metrics_at(0, {"loss": loss})

    again = runs(tracked)["train_ranker"]

    assert again.data.metrics == {"loss": 2.0}
    assert again.data.params["rate"] == "2.0"


def test_a_failing_stage_is_seen_failed(tracked: Settings) -> None:
    with pytest.raises(ZeroDivisionError), tracking.stage_run(tracked, RUN, "features", {}):
        _ = 1 / 0
    found = runs(tracked)
    assert found["features"].info.status == "FAILED"
    assert found["r1"].info.status == "FAILED"


def test_the_fingerprint_of_the_data_and_the_commit_are_kept(tracked: Settings) -> None:
    folder = Path(tracked.storage.root) / "runs" / RUN
    folder.mkdir(parents=True)
    (folder / "ingest.json").write_text('{"fingerprint": "abc123"}')
    tags = tracking.provenance(tracked, RUN)
    assert tags["recsys.data_fingerprint"] == "abc123"
    assert tags[tracking.RUN_TAG] == RUN


def test_stages_that_start_together_make_one_parent(tracked: Settings) -> None:
    code = (
        "from recsys import settings; from pipelines import tracking; s = settings.load()\n"
        "import sys\n"
        "with tracking.stage_run(s, 'r1', sys.argv[1], {}): pass"
    )
    with tracking.stage_run(tracked, RUN, "ingest", {}):
        pass  # the database's own tables are made by one process
    environment = child_environment(tracked, RECSYS_SERVICES__MLFLOW_URL=tracked.services.mlflow_url)
    both = [subprocess.Popen([sys.executable, "-c", code, name], env=environment) for name in ("trending", "features")]
    assert [process.wait(120) for process in both] == [0, 0]
    assert sorted(runs(tracked)) == ["features", "ingest", "r1", "trending"]


def test_a_missing_server_is_named_in_time(settings: Settings) -> None:
    started = time.monotonic()
    with pytest.raises(Retryable, match=settings.mlflow_url), tracking.stage_run(settings, RUN, "features", {}):
        pass
    assert time.monotonic() - started < 30


def test_what_mlflow_refuses_is_permanent(tracked: Settings) -> None:
    with (
        pytest.raises(Permanent, match="refused"),
        tracking.stage_run(tracked, RUN, "features", {"a": 1}) as run,
    ):
        run.params({"a": 2})


def test_flat_keeps_finite_numbers_under_legal_names() -> None:
    assert tracking.flat({"a": {"b@20": 1, "c": "text"}, "d": True, "e": float("inf")}) == {"a/b_20": 1.0, "d": 1.0}
