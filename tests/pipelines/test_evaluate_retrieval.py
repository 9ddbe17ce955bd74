"""Gate G1 against the release that serves: when it is compared, and what then counts as worse."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import mlflow_tables
import pytest
import taste_towers
import tiny_shop

from feature_repo import names
from models import artifact
from models.release import Reference, Release, ReleaseId
from pipelines import datasets, evaluate_retrieval, recall, split, tracking
from pipelines.datasets import RunId
from pipelines.ledger import Ledger
from recsys.settings import Settings

HALF = "mug-[0-3].*"  # 44 of 80
FEW = "mug-72"  # what two of the 80 users buy next, beside another mug
LONG_AGO = "2024-01-01T00:00:00+00:00"


@pytest.fixture
def shop(tracked_settings: Settings) -> Settings:
    """The shop of two tastes, before anything is trained."""
    tiny_shop.write(datasets.lake(tracked_settings))
    return tracked_settings


def towers(settings: Settings, run: str, hidden: str = "", as_of: str = LONG_AGO) -> artifact.Artifact:
    with artifact.draft(datasets.models_folder(settings), kind="retrieval", run=run, as_of=as_of) as draft:
        taste_towers.write(draft.path, hidden)
        draft.meta.update(dim=2, history_length=20, stats=list(names.ITEM_STATS))
    return draft.finished


def path_of(settings: Settings, made: artifact.Artifact) -> str:
    return str(made.path.relative_to(Path(settings.storage.root).resolve()))


def go_live(settings: Settings, made: artifact.Artifact) -> None:
    """Let these towers serve; the gate looks at no other artifact of the release."""
    ledger = Ledger(Path(settings.storage.root).resolve())
    reference = Reference(made.manifest.version, path_of(settings, made), made.digest)
    live = Release(
        ReleaseId("live"), "", made.manifest.as_of, "blue", {"retrieval": reference}, "ranking_v1", None, "deploy"
    )
    (ledger.root / "releases").mkdir()
    ledger.offer(live)
    ledger.switch(live)


def judge(
    settings: Settings, candidate: artifact.Artifact, day: date = tiny_shop.LAST, ease_items: int = 0
) -> dict[str, Any]:
    """The verdict; without EASE, which knows the two tastes as well as perfect towers do."""
    run = RunId("candidate")
    folder = datasets.run_folder(settings, run)
    folder.mkdir(parents=True)
    (folder / "features.json").write_text('{"allow_repeats": true}')
    (folder / "train_retrieval.json").write_text(json.dumps({"artifact": {"path": path_of(settings, candidate)}}))
    return evaluate_retrieval.main(evaluate_retrieval.Params(day=day, run=run, ease_items=ease_items), settings)


def recalls(result: dict[str, Any]) -> dict[str, float]:
    """Recall@100 of every ranker under the view that counts."""
    metrics = result["metrics"]
    return {name: figures["recall@100"] for name, figures in metrics["views"][metrics["view"]].items()}


def about_live(result: dict[str, Any]) -> list[str]:
    return [reason for reason in result["reasons"] if "allowed" in reason]


def test_a_candidate_that_is_worse_than_the_live_release_is_refused_with_both_figures(shop: Settings) -> None:
    go_live(shop, towers(shop, "before"))
    result = judge(shop, towers(shop, "candidate", hidden=HALF))
    found = recalls(result)
    assert found["live release"] == 1.0
    assert found["popularity"] < found["two towers"] < 0.9, "it is better than no towers, and much worse than before"
    assert not result["passed"]
    [reason] = [reason for reason in result["reasons"] if reason.startswith("FAILED")]
    assert f"recall@100 {found['two towers']:.4f}, live release 1.0000, at least" in reason
    assert "tolerance 2%" in reason


def test_an_equal_candidate_passes(shop: Settings) -> None:
    go_live(shop, towers(shop, "before", hidden=HALF))
    result = judge(shop, towers(shop, "candidate", hidden=HALF))
    found = recalls(result)
    assert found["two towers"] == found["live release"]
    assert result["passed"], result["reasons"]
    assert len(about_live(result)) == 1


def test_a_little_worse_is_within_tolerance_and_noise(shop: Settings) -> None:
    go_live(shop, towers(shop, "before"))
    result = judge(shop, towers(shop, "candidate", hidden=FEW))
    found = recalls(result)
    assert 0.98 < found["two towers"] < found["live release"]
    assert result["passed"], result["reasons"]


def test_a_live_release_that_has_learnt_from_the_holdout_is_not_compared(shop: Settings) -> None:
    parts = split.holdout(datasets.lake(shop), tiny_shop.LAST)
    go_live(shop, towers(shop, "before", as_of=parts.end.isoformat()))
    result = judge(shop, towers(shop, "candidate", hidden=HALF))
    assert "live release" not in recalls(result)
    assert about_live(result) == []
    assert result["passed"], result["reasons"]


def test_a_live_release_that_ends_at_the_cutoff_is_compared(shop: Settings) -> None:
    parts = split.holdout(datasets.lake(shop), tiny_shop.LAST)
    go_live(shop, towers(shop, "before", as_of=parts.cutoff.isoformat()))
    assert not judge(shop, towers(shop, "candidate", hidden=HALF))["passed"]


def test_the_candidate_is_not_compared_with_itself(shop: Settings) -> None:
    candidate = towers(shop, "candidate", hidden=HALF)
    go_live(shop, candidate)
    result = judge(shop, candidate)
    assert "live release" not in recalls(result)
    assert result["passed"], result["reasons"]


def test_before_the_first_release_there_is_nothing_to_compare_with(shop: Settings) -> None:
    assert about_live(judge(shop, towers(shop, "candidate"))) == []


def test_towers_that_a_closed_formula_beats_have_not_earned_their_place(shop: Settings) -> None:
    result = judge(shop, towers(shop, "candidate", hidden=HALF), ease_items=1000)
    found = {name: figures["recall@100"] for name, figures in result["metrics"]["views"]["new"].items()}
    assert found["two towers"] > found["popularity"]
    assert not result["passed"]
    [reason] = [reason for reason in result["reasons"] if reason.startswith("FAILED")]
    assert f"{found['two towers']:.4f}, less than EASE {found['EASE']:.4f}" in reason


def test_towers_as_good_as_the_closed_formula_pass(shop: Settings) -> None:
    assert judge(shop, towers(shop, "candidate"), ease_items=1000)["passed"]


def test_mlflow_has_what_two_runs_are_compared_by(shop: Settings) -> None:
    result = judge(shop, towers(shop, "candidate"), ease_items=1000)
    found, slices = (mlflow_tables.read(shop, f"retrieval_{name}") for name in ("baselines", "slices"))
    told = found[found["view"] == result["metrics"]["view"]].set_index("ranker")["recall@100"].to_dict()
    assert told == pytest.approx(recalls(result))
    assert {"two towers", "popularity", "EASE"} <= set(told) & set(slices)
    client, _ = tracking.connect(shop)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    [run] = client.search_runs([experiment.experiment_id], "tags.`recsys.stage` = 'evaluate_retrieval'")
    curve = client.get_metric_history(run.info.run_id, "recall by length/all/two towers")
    assert [point.step for point in curve] == list(recall.CURVE)
    assert run.data.metrics["passed"] == 1.0
    assert "health/items/effective_rank" in run.data.metrics
