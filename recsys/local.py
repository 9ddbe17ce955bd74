"""The platform on one machine: every server under one supervisor, started, stopped and looked after.

`up` may be called at any time: on a fresh machine, after a crash or a restart of the machine, when everything runs
already (it then changes nothing), and after the settings have changed (it then starts everything anew).
"""

import fcntl
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from models import release
from recsys import health, programs, supervisor, sweep
from recsys import settings as configuration
from recsys.errors import Permanent, Retryable
from recsys.programs import Program
from recsys.settings import REPOSITORY, Colour, Settings
from recsys.supervisor import Process, Supervisor

START_SECONDS = 180.0  # Airflow takes 20 to 45 on an idle machine
STOP_SECONDS = 60.0
_POLL = 0.5
_PACKAGES = {"redis-server": "redis-server", "java": "openjdk-17-jre-headless"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceStatus:
    """One program of the platform at one moment.

    Attributes:
        name: such as "redis", "airflow-scheduler" or "ranking-blue".
        state: supervisor's word (RUNNING, STARTING, STOPPED, EXITED, BACKOFF, FATAL).
        pid: None where nothing runs.
        url: where people and programs reach it; empty where it listens nowhere.
        healthy: it answered a real question.
        seconds: since it was started.
        expected: the platform is not whole without it; a predictor that holds no release is not needed.
    """

    name: str
    state: str
    pid: int | None
    url: str
    healthy: bool
    seconds: int
    expected: bool


Progress = Callable[[str], None]


def up(settings: Settings, progress: Progress | None = None, timeout: float = START_SECONDS) -> list[ServiceStatus]:
    """Start what does not run, and wait until everything that is needed is healthy.

    Args:
        progress: told in words, about twice a second, what is being waited for.
        timeout: seconds for all of it.

    Raises:
        Permanent: a program is not installed, a port is taken by a stranger, or a program other than a predictor will
            not start.
        Retryable: something is not healthy in time.
    """
    _require_installed(settings)
    wanted = programs.of(settings)
    deadline = time.monotonic() + timeout
    say = progress or (lambda _: None)
    with _alone(settings):
        say("starting the supervisor")
        _prepare_folders(settings, wanted)
        _write_airflow_password(settings)
        server = _supervisor(settings, wanted)
        airflow = [program for program in wanted if program.name.startswith("airflow-")]
        needed = [program for program in wanted if _needed(settings, program)]
        for program in needed:
            if program not in airflow:
                server.start(program.name)
        if airflow:
            say("preparing Airflow's database")
            _migrate_airflow(settings)  # while the others start
        for program in airflow:
            server.start(program.name)
        return _wait_healthy(settings, deadline, say)


def down(settings: Settings) -> list[str]:
    """Stop everything, and leave no process behind; returns the programs that ran."""
    with _alone(settings):
        server = Supervisor(settings)
        running = _running(server) if server.alive() else []
        _stop(settings)
        return running


def status(settings: Settings) -> list[ServiceStatus]:
    """Every program of the platform, in the order of `programs.of`; all STOPPED where no supervisor runs."""
    wanted = programs.of(settings)
    try:
        known = Supervisor(settings).processes()
    except Retryable:
        known = {}
    running = [program for program in wanted if known.get(program.name, Process("", "STOPPED")).pid]
    healthy = health.of(settings, running)
    return [
        _status(settings, p, known.get(p.name, Process(p.name, "STOPPED")), healthy.get(p.name, False)) for p in wanted
    ]


def orphans(settings: Settings) -> int:
    """How many processes run on without their supervisor, because that was killed; nobody restarts them."""
    return 0 if Supervisor(settings).alive() else sum(map(sweep.runs, _session(settings)))


def _status(settings: Settings, program: Program, process: Process, healthy: bool) -> ServiceStatus:
    needed = _needed(settings, program)
    return ServiceStatus(
        program.name, process.state, process.pid or None, program.url, healthy, process.seconds, needed
    )


def _needed(settings: Settings, program: Program) -> bool:
    """Predictors are needed where they hold the live release; the colour that `rollback` would go to is kept, too."""
    if program.colour is None:
        return True
    return program.colour in _colours(settings)


def _colours(settings: Settings) -> set[Colour]:
    releases = release.Releases(programs.root(settings))
    live = releases.live()
    if live is None:
        return set()
    other: Colour = "green" if live.colour == "blue" else "blue"
    standby = releases.candidate(other)
    keeps = standby is not None and standby.release_id == live.previous
    return {live.colour, other} if keeps else {live.colour}


def _require_installed(settings: Settings) -> None:
    for command, package in _PACKAGES.items():
        if command == "redis-server" and settings.services.redis_url:
            continue
        if shutil.which(command) is None:
            raise Permanent(f"{command} is not installed; `sudo apt-get install {package}`")
    if not settings.services.airflow_url and not programs.airflow_command().exists():
        raise Permanent(f"{programs.airflow_command()} does not exist; `make setup` makes Airflow's environment")


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One `up` or `down` at a time."""
    folder = supervisor.run_folder(settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "local.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare_folders(settings: Settings, wanted: Sequence[Program]) -> None:
    for folder in [
        supervisor.log_file(settings, "x").parent,
        *(p.directory for p in wanted if p.directory != REPOSITORY),
    ]:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _write_airflow_password(settings: Settings) -> None:
    path = configuration.airflow_passwords_file(settings)
    given = settings.airflow_password.get_secret_value()
    if path.exists() and not given:
        return
    _write_secret(path, json.dumps({"admin": given or secrets.token_urlsafe(18)}))


def _write_secret(path: Path, text: str) -> None:
    """Replace a file that only its owner may read, at no moment readable by others."""
    work = path.with_name(f".{path.name}.tmp")
    work.unlink(missing_ok=True)
    with os.fdopen(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    work.replace(path)


def _supervisor(settings: Settings, wanted: Sequence[Program]) -> Supervisor:
    """The supervisor that runs, if it has the settings of now; else a new one, with nothing running yet."""
    server = Supervisor(settings)
    config = programs.render(settings, wanted)
    identity = next(line.split(" = ")[1] for line in config.splitlines() if line.startswith("identifier"))
    if server.alive():
        if server.identity() == identity:
            return server
        log.info("the settings have changed; starting the platform anew")
    _stop(settings)
    _refuse_strangers(settings, wanted)
    path = supervisor.run_folder(settings) / "supervisord.conf"
    path.write_text(config)
    daemon = _spawn([sys.executable, "-m", "supervisor.supervisord", "-c", str(path)], settings)
    noted = {"session": daemon, "boot": sweep.BOOT_ID.read_text()}
    (path.parent / "session.json").write_text(json.dumps(noted))
    deadline = time.monotonic() + 20
    while not server.alive():
        if time.monotonic() > deadline:
            raise Retryable(f"supervisord did not start: {supervisor.tail(settings, 'supervisord')}")
        time.sleep(0.1)
    return server


def _spawn(command: list[str], settings: Settings) -> int:
    """Start a daemon and return its pid. It has a session of its own: a Ctrl-C in the terminal is not meant for it."""
    null = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
    environment = configuration.child_environment(settings)
    return os.posix_spawn(command[0], command, environment, file_actions=null, setsid=True)


def _stop(settings: Settings) -> None:
    """Stop the supervisor and all that it ever started, whatever state they are in."""
    folder = supervisor.run_folder(settings)
    server = Supervisor(settings)
    members = _session(settings)
    if server.alive():
        _stop_programs(server)
        server.shutdown()
        psutil.wait_procs(members, timeout=STOP_SECONDS)
    sweep.end(_session(settings))
    for leftover in (
        folder / "supervisor.sock",
        folder / "session.json",
        *folder.glob("*.pid"),
        *folder.glob("*.group"),
    ):
        leftover.unlink(missing_ok=True)


def _stop_programs(server: Supervisor) -> None:
    """Stop all at once, which supervisor's own shutdown does one after the other, and the store after its users."""
    running = [name for name in _running(server) if name != "redis"]
    for name in running:
        server.stop(name, wait=False)
    deadline = time.monotonic() + STOP_SECONDS
    while any(server.processes()[name].pid for name in running) and time.monotonic() < deadline:
        time.sleep(0.1)


def _running(server: Supervisor) -> list[str]:
    return [name for name, process in server.processes().items() if process.pid]


def _session(settings: Settings) -> list[psutil.Process]:
    """The supervisor that was started last, and all its descendants, even where it has died itself."""
    try:
        noted = json.loads((supervisor.run_folder(settings) / "session.json").read_text())
    except (FileNotFoundError, ValueError):
        return []
    if noted["boot"] != sweep.BOOT_ID.read_text():  # the machine was restarted; the number is somebody else's now
        return []
    try:
        command = " ".join(psutil.Process(noted["session"]).cmdline())  # empty while a killed one is still ending
        if command and str(supervisor.run_folder(settings)) not in command:
            return []  # all have ended, and the kernel gave the number to another program
    except psutil.NoSuchProcess:
        pass  # the supervisor was killed; what it has started may still run
    return sweep.session(noted["session"])


def _refuse_strangers(settings: Settings, wanted: Sequence[Program]) -> None:
    for program in wanted:
        for port in program.ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((settings.network.host, port))
                except OSError as error:
                    raise Permanent(
                        f"port {port} of {settings.network.host}, for {program.name}, is taken by {_holder(port)} "
                        f"({error.strerror}); stop it, or set RECSYS_NETWORK__BASE_PORT to the first of 30 free ports"
                    ) from error


def _holder(port: int) -> str:
    """Who listens on a port, as far as we may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass
    return "another program"


def _migrate_airflow(settings: Settings) -> None:
    """Make or upgrade Airflow's database; skipped where it was done by this version."""
    home = programs.airflow_home(settings)
    packages = programs.airflow_command().parent.parent.glob("lib/python*/site-packages/apache_airflow-*.dist-info")
    version = " ".join(sorted(path.name for path in packages))
    done = home / "migrated"
    if done.exists() and done.read_text() == version and (home / "airflow.db").exists():
        return
    environment = configuration.child_environment(settings, **programs.airflow_environment(settings))
    output = supervisor.log_file(settings, "airflow-migrate")
    with output.open("w") as stream:
        command = [str(programs.airflow_command()), "db", "migrate"]
        ended = subprocess.run(command, cwd=home, env=environment, stdout=stream, stderr=stream, check=False)
    if ended.returncode != 0:
        raise Permanent(
            f"Airflow's database could not be made: {supervisor.tail(settings, 'airflow-migrate')}; {output}"
        )
    done.write_text(version)


def _wait_healthy(settings: Settings, deadline: float, progress: Progress) -> list[ServiceStatus]:
    """A predictor that gives up does not keep the rest down: the API has its rungs below, and a new release, which is
    what may be needed after new code, is made by the rest."""
    predictors = {program.name for program in programs.of(settings) if program.colour}
    while True:
        found = status(settings)
        unhealthy = [service for service in found if service.expected and not service.healthy]
        over = [service for service in unhealthy if service.state in ("FATAL", "EXITED")]
        for service in over:
            if service.name not in predictors:
                raise Permanent(_why(settings, service))
        waiting = [service for service in unhealthy if service not in over]
        if not waiting:
            for service in over:
                log.warning("%s; a new release takes its place: `recsys run daily`", _why(settings, service))
            return found
        progress(f"waiting for {', '.join(service.name for service in waiting)}")
        if time.monotonic() > deadline:
            raise Retryable("not healthy in time: " + "; ".join(_why(settings, service) for service in waiting))
        time.sleep(_POLL)


def _why(settings: Settings, service: ServiceStatus) -> str:
    words = supervisor.tail(settings, service.name)
    return f"{service.name} is {service.state} ({supervisor.log_file(settings, service.name)} ends: {words})"
