"""The live release never suffers: whatever fails or dies, what served before a deployment still serves."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
from stub_predictors import StubBackend

from models import artifact
from models.release import Release, Releases
from pipelines import deploy, ledger, registry, smoke
from recsys import bus, inference
from recsys.errors import BadData, Permanent, RecsysError, Retryable, UsageError
from recsys.settings import COLOURS, Services, Settings, child_environment

STEPS = ["bundle", "load", "smoke", "shadow", "switch", "bake", "registry", "prune"]


@pytest.fixture
def shop(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with an MLflow in a file and quick limits."""
    quick = settings.deploy.model_copy(update={"start_timeout": 20.0, "shadow_requests": 8, "bake": 0.0})
    services = Services(mlflow_url=f"sqlite:///{tmp_path}/mlflow.db")
    return settings.model_copy(update={"services": services, "deploy": quick})


@pytest.fixture
def backend(shop: Settings) -> Iterator[StubBackend]:
    made = StubBackend(shop)
    yield made
    for colour in COLOURS:
        made.stop(colour)


@pytest.fixture(autouse=True)
def no_registry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """MLflow's own part is tested in test_register; here only that it is told the right thing."""
    told: list[tuple[str, str | None]] = []

    def promote(settings: Settings, live: Release, before: Release | None) -> dict[str, str]:
        told.append((live.release_id, before.release_id if before else None))
        return {}

    monkeypatch.setattr(registry, "promote", promote)
    return told


def release_of(shop: Settings, backend: StubBackend, run: str, **params: Any) -> Release:
    if not (Path(shop.storage.root) / "runs" / run).exists():
        runs.make(shop, run)
    deploy.deploy(deploy.Params(day=runs.DAY, run=run, **params), shop, backend)
    found = live(shop)
    assert found is not None
    return found


def live(shop: Settings) -> Release | None:
    return Releases(Path(shop.storage.root)).live()


def serves(backend: StubBackend, release: Release) -> bool:
    return smoke.answers(backend, release)


def behave(shop: Settings, **of_release: str) -> None:
    (Path(shop.storage.root) / "stub.json").write_text(json.dumps(of_release))


def test_releases_alternate_between_colours(
    shop: Settings, backend: StubBackend, no_registry: list[tuple[str, str | None]]
) -> None:
    first = release_of(shop, backend, "r1")
    second = release_of(shop, backend, "r2")

    assert (first.colour, first.previous) == ("blue", None)
    assert (second.colour, second.previous) == ("green", "r1")
    assert second.as_of == "2024-03-02T00:00:00+00:00"
    assert [record.release_id for record in Releases(Path(shop.storage.root)).history()] == ["r1", "r2"]
    assert serves(backend, second)
    assert serves(backend, first), "the colour before stays loaded"
    assert no_registry == [("r1", None), ("r2", "r1")]


def test_the_result_tells_what_was_tried(shop: Settings, backend: StubBackend) -> None:
    runs.make(shop, "r1")
    runs.make(shop, "r2")
    deploy.deploy(deploy.Params(day=runs.DAY, run="r1"), shop, backend)

    result = deploy.deploy(deploy.Params(day=runs.DAY, run="r2"), shop, backend)

    assert result["deployed"] is True
    assert result["smoke"] == {"unknown user": 50, "similar items": 50, "known user": 50}
    report = result["shadow"]
    assert report["overlap"] == 1.0
    assert report["candidate"]["answered"] == report["live"]["answered"] == 8
    assert report["source"] == "visitors of the lake"
    assert json.loads((Path(shop.storage.root) / "runs/r2/deploy/shadow.json").read_text())["overlap"] == 1.0


def test_deploying_what_serves_changes_nothing(
    shop: Settings, backend: StubBackend, no_registry: list[tuple[str, str | None]]
) -> None:
    first = release_of(shop, backend, "r1")
    result = deploy.deploy(deploy.Params(day=runs.DAY, run="r1"), shop, backend)
    assert result["deployed"] is False
    assert live(shop) == first
    assert not backend.running("green")
    assert no_registry == [("r1", None), ("r1", None)], "a retry after MLflow was away sets the aliases"


def test_recent_requests_are_replayed(shop: Settings, backend: StubBackend) -> None:
    log = bus.Log(Path(shop.storage.root), "decisions")
    asks = [{"surface": "home", "user_id": "u1"}, {"surface": "similar", "item_id": "i05"}]
    log.append([json.dumps({"ask": ask}).encode() for ask in asks]).result()
    log.close()
    runs.make(shop, "r1")
    result = deploy.deploy(deploy.Params(day=runs.DAY, run="r1"), shop, backend)
    assert result["shadow"]["source"] == "recent requests"
    assert result["shadow"]["candidate"]["answered"] == 2


@pytest.mark.parametrize("gate", deploy.GATES)
def test_a_failed_gate_stops_everything(shop: Settings, backend: StubBackend, gate: str) -> None:
    runs.make(shop, "r1")
    runs.write_result(shop, "r1", gate, {"passed": False, "reasons": ["too bad"], "metrics": {}})
    with pytest.raises(BadData, match="too bad"):
        release_of(shop, backend, "r1")
    assert live(shop) is None


@pytest.mark.parametrize(
    ("behaviour", "error", "words"),
    [
        ("corrupt", Permanent, "ended"),
        ("never_ready", Retryable, "not ready"),
        ("nan", smoke.SmokeFailure, "NaN"),
        ("unsorted", smoke.SmokeFailure, "falling order"),
        ("strangers", smoke.SmokeFailure, "not in the catalogue"),
        ("other_release", smoke.SmokeFailure, "'another'"),
        ("degraded", Retryable, "feature store"),
        ("old", inference.Refused, "another version of the wire: .*'because' is missing"),
        ("fails", Permanent, "requests failed"),
        ("slow", Permanent, "p99"),
    ],
)
def test_a_bad_candidate_is_refused_and_stopped(
    shop: Settings, backend: StubBackend, behaviour: str, error: type[RecsysError], words: str
) -> None:
    first = release_of(shop, backend, "r1")
    behave(shop, r2=behaviour)
    limits = shop.deploy.model_copy(update={"start_timeout": 3.0 if behaviour == "never_ready" else 20.0})
    strict = shop.model_copy(update={"deploy": limits})
    with pytest.raises(error, match=words):
        release_of(strict, backend, "r2", max_p99_ms=50 if behaviour == "slow" else 5000)
    assert live(shop) == first
    assert serves(backend, first)
    assert not backend.running("green")
    assert Releases(Path(shop.storage.root)).candidate("green") is None


@pytest.mark.parametrize("kind", ["retrieval", "index", "ranker", "catalogue"])
def test_a_corrupt_artifact_is_refused_before_anything_starts(shop: Settings, backend: StubBackend, kind: str) -> None:
    made = runs.make(shop, "r1")
    victim = next(path for path in made[kind].path.iterdir() if path.name != artifact.MANIFEST)
    victim.write_bytes(b"rot")
    with pytest.raises(artifact.ArtifactError, match="does not match its manifest"):
        release_of(shop, backend, "r1")
    assert live(shop) is None
    assert not backend.running("blue")


def test_an_index_of_other_towers_is_refused(shop: Settings, backend: StubBackend) -> None:
    runs.make(shop, "r1")
    runs.make(shop, "r2")
    mixed = json.loads((Path(shop.storage.root) / "runs/r1/train_retrieval.json").read_text())
    runs.write_result(shop, "r2", "train_retrieval", mixed)
    with pytest.raises(artifact.ArtifactError, match="was made"):
        release_of(shop, backend, "r2")


def test_a_release_that_does_not_hold_is_taken_back(shop: Settings, backend: StubBackend) -> None:
    first = release_of(shop, backend, "r1")
    behave(shop, r2="dies")
    with pytest.raises(deploy.BakeFailure, match="r1 serves again"):
        release_of(shop, backend, "r2", bake=10, shadow_requests=1)
    now = live(shop)
    assert now is not None
    assert (now.release_id, now.colour) == ("r1", first.colour)
    assert now.reason.startswith("rollback: release r2 failed")
    assert serves(backend, now)
    assert [record.release_id for record in Releases(Path(shop.storage.root)).history()] == ["r1", "r2", "r1"]


@pytest.mark.parametrize("step", STEPS)
def test_a_deployment_that_is_killed_leaves_a_release_that_serves(
    shop: Settings, backend: StubBackend, step: str
) -> None:
    first = release_of(shop, backend, "r1")
    runs.make(shop, "r2")

    assert kill_at(shop, step) == -9

    now = live(shop)
    switched = STEPS.index(step) > STEPS.index("switch")
    assert now is not None
    assert now.release_id == ("r2" if switched else "r1")
    assert serves(backend, now)
    assert switched or now == first
    again = release_of(shop, backend, "r2")
    assert (again.release_id, again.previous) == ("r2", "r1")
    assert [record.release_id for record in Releases(Path(shop.storage.root)).history()] == ["r1", "r2"]


def kill_at(shop: Settings, step: str) -> int:
    """Deploy r2 in a process that kills itself at a step; its exit status."""
    code = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import runs
from stub_predictors import StubBackend
from pipelines import deploy, registry
from recsys import settings
registry.promote = lambda settings, live, before: {}
shop = settings.load()
params = deploy.Params(day=runs.DAY, run="r2", bake=0, shadow_requests=4)
def die_at(step):
    if step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
deploy.deploy(params, shop, StubBackend(shop, processes=True), die_at)
"""
    support = str(Path(runs.__file__).parent)
    command = [sys.executable, "-c", code, support, step]
    return subprocess.run(command, env=child_environment(shop), check=False, timeout=120).returncode


def test_a_crash_between_switch_and_history_is_healed(
    shop: Settings, backend: StubBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_of(shop, backend, "r1")
    runs.make(shop, "r2")
    with monkeypatch.context() as crash:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        crash.setattr(ledger, "_append", die)
        with pytest.raises(KeyboardInterrupt):
            release_of(shop, backend, "r2")
    releases = Releases(Path(shop.storage.root))
    assert len(releases.history_file.read_text().splitlines()) == 1
    assert [record.release_id for record in releases.history()] == ["r1", "r2"], "readers see it at once"

    with ledger.held(Path(shop.storage.root)):
        pass

    lines = releases.history_file.read_text().splitlines()
    assert [json.loads(line)["release_id"] for line in lines] == ["r1", "r2"]
    assert lines[-1] == releases.live_file.read_text()


def test_a_torn_line_of_history_is_written_again(shop: Settings, backend: StubBackend) -> None:
    release_of(shop, backend, "r1")
    releases = Releases(Path(shop.storage.root))
    whole = releases.history_file.read_text()
    releases.history_file.write_text(whole + whole[:40])
    assert [record.release_id for record in releases.history()] == ["r1"]
    release_of(shop, backend, "r2")
    assert releases.history_file.read_text().startswith(whole)
    assert [record.release_id for record in releases.history()] == ["r1", "r2"]


def test_rollback_is_a_switch_where_the_other_colour_is_loaded(shop: Settings, backend: StubBackend) -> None:
    release_of(shop, backend, "r1")
    release_of(shop, backend, "r2")
    started = time.monotonic()
    back = deploy.rollback(shop, "wrong prices", backend)
    assert time.monotonic() - started < 5
    assert (back.release_id, back.colour, back.reason) == ("r1", "blue", "rollback: wrong prices")
    assert live(shop) == back
    assert serves(backend, back)


def test_rollback_loads_what_is_not_loaded_and_goes_further_back(shop: Settings, backend: StubBackend) -> None:
    for run in ("r1", "r2", "r3"):
        release_of(shop, backend, run)
    assert deploy.rollback(shop, "once", backend).release_id == "r2"
    backend.stop("blue")
    back = deploy.rollback(shop, "twice", backend)
    assert back.release_id == "r1"
    assert serves(backend, back)
    with pytest.raises(UsageError, match="no release to go back to"):
        deploy.rollback(shop, "thrice", backend)


def test_rollback_loads_anew_what_was_started_with_older_code(shop: Settings, backend: StubBackend) -> None:
    first = release_of(shop, backend, "r1")
    release_of(shop, backend, "r2")
    behave(shop, r1="old")
    backend.start("blue")
    behave(shop)  # what is started from here on runs the code of now
    assert not serves(backend, first)
    assert deploy.rollback(shop, "wrong prices", backend).release_id == "r1"
    assert serves(backend, first)


def test_a_live_release_of_older_code_is_no_hindrance(shop: Settings, backend: StubBackend) -> None:
    release_of(shop, backend, "r1")
    behave(shop, r1="old")
    backend.start("blue")
    runs.make(shop, "r2")
    result = deploy.deploy(deploy.Params(day=runs.DAY, run="r2"), shop, backend)
    compared = result["shadow"]
    assert (compared["candidate"]["failed"], compared["live"]["answered"], compared["overlap"]) == (0, 0, None)


def test_rollback_to_what_cannot_load_leaves_the_live_release(shop: Settings, backend: StubBackend) -> None:
    release_of(shop, backend, "r1")
    second = release_of(shop, backend, "r2")
    backend.stop("blue")
    behave(shop, r1="corrupt")
    with pytest.raises(Permanent, match="ended"):
        deploy.rollback(shop, "hope", backend)
    assert live(shop) == second
    assert serves(backend, second)


def test_rollback_without_a_release_is_a_usage_error(shop: Settings, backend: StubBackend) -> None:
    with pytest.raises(UsageError, match="no release"):
        deploy.rollback(shop, "none", backend)


def test_only_one_deployment_at_a_time(shop: Settings, backend: StubBackend) -> None:
    runs.make(shop, "r1")
    with ledger.held(Path(shop.storage.root)), pytest.raises(Retryable, match="another deployment"):
        release_of(shop, backend, "r1")
    assert release_of(shop, backend, "r1").release_id == "r1"


def test_a_run_that_made_other_artifacts_is_another_release(shop: Settings, backend: StubBackend) -> None:
    release_of(shop, backend, "r1")
    runs.make(shop, "r1", salt=" again")
    assert release_of(shop, backend, "r1").release_id == "r1.2"


def test_old_artifacts_are_deleted_and_needed_ones_stay(shop: Settings, backend: StubBackend) -> None:
    for run in ("r1", "r2", "r3"):
        release_of(shop, backend, run, keep=2)
    models = Path(shop.storage.root) / "models" / "ranker"
    unreleased = runs.make(shop, "r4")["ranker"].path
    assert sorted(path.name.split("-")[0] for path in models.iterdir()) == ["r2", "r3", "r4"]
    assert unreleased.exists()
    assert deploy.rollback(shop, "still there", backend).release_id == "r2"


def test_a_supervisor_that_is_away_is_retryable(shop: Settings) -> None:
    runs.make(shop, "r1")
    with pytest.raises(Retryable, match="recsys up"):
        deploy.main(deploy.Params(day=runs.DAY, run="r1"), shop)
    assert live(shop) is None
