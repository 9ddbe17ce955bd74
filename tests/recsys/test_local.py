"""The local platform comes up, comes back, and goes without a trace. Redis stands for all programs: it is quick."""

import configparser
import json
import os
import socket
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from models.release import Reference, Release, ReleaseId
from pipelines.ledger import Ledger
from pipelines.local_backend import LocalBackend
from recsys import local, programs, supervisor, sweep
from recsys import settings as configuration
from recsys.errors import Permanent, Retryable
from recsys.settings import COLOURS, ROLES, Services, Settings
from recsys.supervisor import Supervisor

ELSEWHERE = "http://127.0.0.1:1"


@pytest.fixture
def small(settings: Settings) -> Settings:
    """A platform whose MLflow, Airflow and API are elsewhere: Redis and the predictors remain."""
    services = Services(mlflow_url=ELSEWHERE, airflow_url=ELSEWHERE, api_url=ELSEWHERE)
    return settings.model_copy(update={"services": services})


def processes_of(settings: Settings) -> list[psutil.Process]:
    """Every process that has the storage root in its command line or its environment."""
    root, found = str(Path(settings.storage.root).resolve()), []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(root in text for text in told):
            found.append(process)
    return found


def state(settings: Settings, name: str) -> local.ServiceStatus:
    return next(service for service in local.status(settings) if service.name == name)


def until_back(settings: Settings, before: local.ServiceStatus, seconds: float = 30) -> local.ServiceStatus:
    """The same program, healthy, in another process."""
    deadline = time.monotonic() + seconds
    while not (found := state(settings, before.name)).healthy or found.pid == before.pid:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


@pytest.mark.services
def test_life_of_a_platform(small: Settings) -> None:
    told: list[str] = []
    try:
        services = {service.name: service for service in local.up(small, told.append)}
        redis = services["redis"]
        assert redis.state in supervisor.UP
        assert redis.healthy
        assert redis.expected
        assert services["ranking-blue"].state == "STOPPED"
        assert not services["ranking-blue"].expected, "there is no release yet"
        assert told[0] == "starting the supervisor"

        assert {s.pid for s in local.up(small)} == {s.pid for s in services.values()}, "a second `up` changes nothing"

        assert redis.pid is not None
        psutil.Process(redis.pid).kill()
        back = until_back(small, redis)
        assert local.orphans(small) == 0

        daemon = json.loads((supervisor.run_folder(small) / "session.json").read_text())["session"]
        psutil.Process(daemon).kill()
        assert state(small, "redis").state == "STOPPED", "nobody looks after it"
        assert local.orphans(small) == 1, "and it runs on"
        again = {service.name: service for service in local.up(small)}["redis"]
        assert again.healthy
        assert again.pid != back.pid, "the orphan was ended and its port is ours"
        assert local.down(small) == ["redis"]
        assert local.down(small) == [], "nothing was left to stop"
    finally:
        local.down(small)
    assert processes_of(small) == []
    assert not supervisor.socket_file(small).exists()
    assert all(service.state == "STOPPED" for service in local.status(small))


@pytest.mark.services
def test_a_start_after_the_machine_was_restarted(small: Settings) -> None:
    folder = supervisor.run_folder(small)
    folder.mkdir(parents=True)
    (folder / "supervisord.pid").write_text("1")
    (folder / "session.json").write_text(json.dumps({"session": os.getsid(0), "boot": "another"}))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(supervisor.socket_file(small)))
    try:
        assert {s.name for s in local.up(small) if s.healthy} == {"redis"}
    finally:
        local.down(small)


@pytest.mark.services
def test_changed_settings_start_it_anew(small: Settings) -> None:
    try:
        before = {service.name: service.pid for service in local.up(small)}
        changed = small.model_copy(update={"seed": 7})
        after = {service.name: service.pid for service in local.up(changed)}
        assert before["redis"] != after["redis"]
    finally:
        local.down(small)
    assert processes_of(small) == []


@pytest.mark.services
def test_a_predictor_that_ends_is_told_with_its_last_words(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses its release as a real one does: after its imports, with the exit code of a permanent error."""
    refusing = [sys.executable, "-c", "import time; time.sleep(1.5); print('rotten index'); raise SystemExit(78)"]
    real = programs._predictor
    monkeypatch.setattr(programs, "_predictor", lambda *which: replace(real(*which), command=refusing))
    try:
        local.up(small)
        backend = LocalBackend(small)
        backend.start("green")
        with pytest.raises(Permanent, match="rotten index"):
            wait_ready(backend)
        backend.stop("green")
        backend.stop("green")
        with pytest.raises(Permanent, match="no program 'oven'"):
            Supervisor(small).start("oven")
    finally:
        local.down(small)


def wait_ready(backend: LocalBackend) -> None:
    deadline = time.monotonic() + 60
    while not backend.ready("green") and time.monotonic() < deadline:
        time.sleep(0.2)


def test_a_stranger_on_a_port_is_named(small: Settings) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", small.network.redis))
        stranger.listen()
        with pytest.raises(Permanent, match=f"port {small.network.redis} .*RECSYS_NETWORK__BASE_PORT"):
            local.up(small)
    assert processes_of(small) == []


def test_a_missing_package_is_named(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.shutil, "which", lambda command: None)
    with pytest.raises(Permanent, match="apt-get install redis-server"):
        local.up(small)


def test_without_a_supervisor_everything_is_stopped(settings: Settings) -> None:
    names = [service.name for service in local.status(settings)]
    assert names == [
        "redis", "mlflow", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "airflow-api-server",
        "api", "retrieval-blue", "ranking-blue", "retrieval-green", "ranking-green",
    ]  # fmt: skip
    with pytest.raises(Retryable, match="recsys up"):
        Supervisor(settings).processes()


def test_what_trains_and_schedules_gives_way_to_what_serves(settings: Settings) -> None:
    told = configparser.RawConfigParser()
    told.read_string(programs.render(settings, programs.of(settings)))
    sections = [name for name in told.sections() if name.startswith("program:")]
    commands = {name.removeprefix("program:"): told[name]["command"] for name in sections}
    nice = {name for name, command in commands.items() if command.startswith("nice -n 10 ")}
    serving = {"redis", "api", *(f"{role}-{colour}" for role in ROLES for colour in COLOURS)}
    assert nice == commands.keys() - serving
    assert nice >= {"mlflow", "airflow-scheduler"}, "tasks inherit it from the scheduler"


def test_the_configuration_holds_no_secret(settings: Settings) -> None:
    secret = settings.model_copy(update={"airflow_password": configuration.SecretStr("hunter2")})
    assert "hunter2" not in programs.render(secret, programs.of(secret))


def test_the_password_of_airflow_is_kept_and_private(settings: Settings) -> None:
    with pytest.raises(Permanent, match="never started"):
        configuration.airflow_password(settings)
    supervisor.run_folder(settings).mkdir(parents=True)
    local._write_airflow_password(settings)
    password = configuration.airflow_password(settings)
    local._write_airflow_password(settings)
    assert configuration.airflow_password(settings) == password
    assert len(password) >= 20
    assert stat.S_IMODE(configuration.airflow_passwords_file(settings).stat().st_mode) == 0o600


def test_a_root_that_the_configuration_cannot_carry_is_refused(settings: Settings) -> None:
    odd = settings.model_copy(update={"storage": settings.storage.model_copy(update={"root": "/tmp/a%b"})})
    with pytest.raises(Permanent, match="must not contain"):
        programs.render(odd, programs.of(odd))
    deep = settings.model_copy(update={"storage": settings.storage.model_copy(update={"root": "/tmp/" + "d" * 90})})
    with pytest.raises(Permanent, match="shorter"):
        supervisor.socket_file(deep)


def test_live_and_standby_colours_are_started(settings: Settings) -> None:
    root = programs.root(settings)
    (root / "releases").mkdir(parents=True)
    book, refs = Ledger(root), {"ranker": Reference("v", "p", "d")}
    first = Release(ReleaseId("r1"), "", "", "blue", refs, "ranking_v1", None, "deploy")
    second = Release(ReleaseId("r2"), "", "", "green", refs, "ranking_v1", first.release_id, "deploy")
    assert local._colours(settings) == set()
    book.offer(first)
    book.switch(first)
    assert local._colours(settings) == {"blue"}
    book.offer(second)
    assert local._colours(settings) == {"blue"}, "a candidate is the deployment's business"
    book.switch(second)
    assert local._colours(settings) == {"blue", "green"}, "a rollback finds its colour loaded"


def test_a_program_ends_what_its_predecessor_left(tmp_path: Path) -> None:
    """A parent with a child is killed; its successor finds the child by the group and ends it."""
    script = tmp_path / "first.py"
    script.write_text(
        f"""
import os, subprocess, sys, time
os.setsid()
if os.fork() == 0:
    os.setpgrp()
    from pathlib import Path
    Path({str(tmp_path / "group")!r}).write_text(str(os.getpgrp()))
    child = subprocess.Popen(["sleep", "77"])
    Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
    os._exit(1)
os.wait()
os.execv(sys.executable, [sys.executable, "-m", "recsys.sweep", {str(tmp_path / "group")!r}, "true"])
"""
    )
    environment = {"PYTHONPATH": str(configuration.REPOSITORY)}
    ended = os.waitpid(os.posix_spawn(sys.executable, [sys.executable, str(script)], environment), 0)[1]
    assert ended == 0
    assert not psutil.pid_exists(int((tmp_path / "child").read_text()))
    assert sweep.session(-5) == []
