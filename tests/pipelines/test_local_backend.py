"""A deployment and a rollback with the real predictors under the real supervisor."""

import time
from pathlib import Path

import fake_release
import psutil
import pytest

from models import artifact, release
from pipelines import datasets, deploy, registry, smoke
from pipelines.local_backend import LocalBackend
from recsys import local, supervisor
from recsys.errors import Permanent
from recsys.settings import Services, Settings
from recsys.supervisor import Supervisor

ELSEWHERE = "http://127.0.0.1:1"


@pytest.fixture
def shop(online_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A real Redis that knows user u0; MLflow, Airflow and API are elsewhere, and not asked for."""
    redis_url = online_settings.services.redis_url
    services = Services(redis_url=redis_url, mlflow_url=ELSEWHERE, airflow_url=ELSEWHERE, api_url=ELSEWHERE)
    made = online_settings.model_copy(update={"services": services})
    monkeypatch.setenv("RECSYS_SERVICES__REDIS_URL", redis_url)  # for the predictors
    monkeypatch.setattr(registry, "promote", lambda *_: {})
    for seed, run in enumerate(("r1", "r2"), 1):
        prepare(made, run, seed)
    fake_release.known_user(made, "u0", ["i1", "i5"])
    return made


def prepare(shop: Settings, run: str, seed: int) -> None:
    """A run that is ready to be deployed."""
    release = fake_release.publish(shop, run, "blue", seed)
    (Path(shop.storage.root) / "releases" / "blue.json").unlink()
    refs = {k: {"kind": k, "version": r.version, "path": r.path} for k, r in release.artifacts.items()}
    name = datasets.RunId(run)
    fake_release.keep(shop, name, "train_retrieval", {"artifact": refs["retrieval"]})
    fake_release.keep(shop, name, "build_index", {"artifact": refs["index"], "catalogue": refs["catalogue"]})
    fake_release.keep(shop, name, "train_ranker", {"artifact": refs["ranker"]})
    for gate in deploy.GATES:
        fake_release.keep(shop, name, gate, {"passed": True, "reasons": [], "metrics": {}})


def rot(folder: Path) -> None:
    next(path for path in folder.rglob("*") if path.is_file() and path.name != artifact.MANIFEST).write_bytes(b"rot")


def params(run: str) -> deploy.Params:
    return deploy.Params(day=fake_release.DAY, run=run, bake=1, shadow_requests=20, max_p99_ms=5000)


@pytest.mark.services
@pytest.mark.timeout(900)
def test_two_releases_a_crash_and_a_rollback(shop: Settings) -> None:
    backend = LocalBackend(shop)
    try:
        local.up(shop)
        first = deploy.main(params("r1"), shop)
        second = deploy.main(params("r2"), shop)
        assert (first["release"]["colour"], second["release"]["colour"]) == ("blue", "green")
        assert second["smoke"]["known user"] == 50
        assert second["shadow"]["live"]["answered"] == 20

        status = {service.name: service for service in local.status(shop)}
        assert all(
            status[name].healthy for name in ("retrieval-blue", "ranking-blue", "retrieval-green", "ranking-green")
        )

        started = time.monotonic()
        back = deploy.rollback(shop, "test", backend)
        assert time.monotonic() - started < 5
        assert back.release_id == "r1"
        assert smoke.answers(backend, back)

        killed = status["ranking-blue"].pid
        assert killed is not None
        psutil.Process(killed).kill()
        deadline = time.monotonic() + 120
        while not (
            backend.ready("blue") and Supervisor(shop).process(supervisor.predictor("ranking", "blue")).pid != killed
        ):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert smoke.answers(backend, back), "the live colour comes back by itself, with the same release"
    finally:
        local.down(shop)


@pytest.mark.services
@pytest.mark.timeout(900)
def test_a_live_release_that_no_longer_starts_does_not_keep_a_new_one_from_going_live(shop: Settings) -> None:
    """As after new code that needs other features: the ranker of yesterday is refused, and all else must run."""
    try:
        local.up(shop)
        first = deploy.main(params("r1"), shop)
        local.down(shop)
        rot(Path(shop.storage.root) / first["release"]["artifacts"]["ranker"]["path"])
        services = {service.name: service for service in local.up(shop)}
        assert services["retrieval-blue"].healthy
        assert not services["ranking-blue"].healthy
        second = deploy.main(params("r2"), shop)
        assert second["release"]["colour"] == "green"
        assert second["shadow"]["live"]["failed"] == 20
        assert smoke.answers(LocalBackend(shop), release.Releases(Path(shop.storage.root)).live())
    finally:
        local.down(shop)


@pytest.mark.services
@pytest.mark.timeout(600)
def test_a_predictor_refuses_a_release_that_rotted_after_the_bundle(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deployment checks first, the predictor checks again: here the file rots in between."""
    real = deploy._load

    def rot_and_load(backend: LocalBackend, book: deploy.Ledger, release: deploy.Release, timeout: float) -> None:
        rot(book.root / release.artifacts["ranker"].path)
        real(backend, book, release, timeout)

    monkeypatch.setattr(deploy, "_load", rot_and_load)
    try:
        local.up(shop)
        with pytest.raises(Permanent, match="ranking-blue .* will not become ready"):  # noqa: RUF043
            deploy.main(params("r1"), shop)
        processes = Supervisor(shop).processes()
        assert {processes[f"{role}-blue"].pid for role in ("retrieval", "ranking")} == {0}
    finally:
        local.down(shop)
