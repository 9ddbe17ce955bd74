"""Models are registered once, found by their artifact, and named by aliases that follow the releases."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import runs

from models.release import Reference, Release, ReleaseId
from pipelines import card, register, registry, tracking
from pipelines.datasets import RunId
from recsys.errors import BadData, Permanent
from recsys.settings import Settings


@pytest.fixture
def shop(tracked_settings: Settings) -> Settings:
    return tracked_settings


def registered(shop: Settings, run: str, salt: str = "") -> tuple[dict[str, Any], Release]:
    """Register a new run; returns the result and the release that would be deployed."""
    made = runs.make(shop, run, salt=salt)
    root = Path(shop.storage.root).resolve()
    references = {
        kind: Reference(found.manifest.version, str(found.path.relative_to(root)), found.digest)
        for kind, found in made.items()
    }
    result = register.main(register.Params(day=runs.DAY, run=run), shop)
    return result, Release(ReleaseId(run), "", "", "blue", references, "ranking_v1", None, "deploy")


def test_versions_cards_figures_and_plots(shop: Settings) -> None:
    plots = Path(shop.storage.root) / "runs/r1/evaluate_retrieval"
    plots.mkdir(parents=True)
    (plots / "recall.png").write_bytes(b"png")

    result, release = registered(shop, "r1")

    client, _ = tracking.connect(shop)
    version = client.get_model_version_by_alias("recsys-index", "candidate")
    assert str(version.version) == result["models"]["recsys-index"]["version"] == "1"
    assert version.tags[registry.VERSION_TAG] == release.artifacts["index"].version
    assert version.tags[registry.DIGEST_TAG] == release.artifacts["index"].digest
    assert version.tags["recsys.parent.retrieval"] == release.artifacts["retrieval"].version
    assert version.tags["recsys.data_fingerprint"] == "data-2024-03-01"
    assert version.tags["metric.recall_100"] == "0.99"
    parent = client.get_run(result["mlflow_run"])
    assert parent.data.metrics["retrieval/purchases/two towers/recall_20"] == 0.31
    assert parent.data.metrics["retrieval/purchases/popularity/recall_20"] == 0.12
    assert parent.data.metrics["health/items/effective_rank"] == 12.0
    assert parent.data.tags["view"] == "purchases"
    assert "| popularity | 0.12 |" in parent.data.tags[tracking.NOTE_TAG]
    assert parent.data.metrics["ranker/xgboost/ndcg_10"] == 0.38
    assert {entry.path for entry in client.list_artifacts(parent.info.run_id)} == {
        "comparison.json", "comparison.md", "models", "plots"
    }  # fmt: skip
    text = (Path(result["card"]) / "retrieval" / "card.md").read_text()
    assert version.description != text
    assert "| popularity | 0.12 |" in text
    assert "new users (12 users)" in text
    assert "- **evaluate_retrieval**: passed" in text


def test_registering_again_is_the_same_version(shop: Settings) -> None:
    first, _ = registered(shop, "r1")
    again = register.main(register.Params(day=runs.DAY, run="r1"), shop)
    assert again["models"] == first["models"]
    other, _ = registered(shop, "r1", salt=" again")
    assert {entry["version"] for entry in other["models"].values()} == {"2"}


def test_aliases_follow_the_releases(shop: Settings) -> None:
    _, first = registered(shop, "r1")
    registry.promote(shop, first, None)
    name, version = "recsys-ranker", {"r1": first.artifacts["ranker"].version}
    assert registry.aliases(shop)[name] == {"champion": version["r1"]}

    _, second = registered(shop, "r2")
    version["r2"] = second.artifacts["ranker"].version
    assert registry.aliases(shop)[name] == {"champion": version["r1"], "candidate": version["r2"]}

    registry.promote(shop, second, first)
    assert registry.aliases(shop)[name] == {"champion": version["r2"], "previous": version["r1"]}
    registry.promote(shop, first, None)
    assert registry.aliases(shop)[name] == {"champion": version["r1"]}


def test_a_release_that_was_never_registered_is_passed_over(shop: Settings, caplog: pytest.LogCaptureFixture) -> None:
    _, release = registered(shop, "r1")
    stranger = Release(**asdict(release) | {"artifacts": dict.fromkeys(release.artifacts, Reference("v", "p", "d"))})
    assert registry.promote(shop, stranger, None) == {}
    assert "not registered" in caplog.text


@pytest.mark.parametrize("gate", register.GATES)
def test_a_failed_gate_is_not_registered(shop: Settings, gate: str) -> None:
    runs.make(shop, "r1")
    runs.write_result(shop, "r1", gate, {"passed": False, "reasons": ["recall fell"], "metrics": {}})
    with pytest.raises(BadData, match="recall fell"):
        register.main(register.Params(day=runs.DAY, run=RunId("r1")), shop)


def test_a_corrupt_artifact_is_not_registered(shop: Settings) -> None:
    made = runs.make(shop, "r1")
    (made["ranker"].path / "weights.txt").write_text("rot")
    with pytest.raises(Permanent, match="does not match its manifest"):
        register.main(register.Params(day=runs.DAY, run=RunId("r1")), shop)


def test_a_table_leaves_out_what_was_not_measured() -> None:
    shown = card.table({"ours": {"a": 0.5, "b": 2}, "theirs": {"b": 1}})
    assert shown.splitlines() == ["| | a | b |", "|---|---|---|", "| ours | 0.5 | 2 |", "| theirs |  | 1 |"]
