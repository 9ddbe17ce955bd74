"""What the local platform consists of: one program per process, and the supervisor's configuration for them."""

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recsys import settings as configuration
from recsys import supervisor
from recsys.errors import Permanent
from recsys.settings import COLOURS, REPOSITORY, ROLES, Colour, Role, Settings

NICE = ("nice", "-n", "10")  # a tenth of the processor's time where others want it, all of it where nobody does
_FORBIDDEN = frozenset("\"'%;#\n\\")  # have a meaning in supervisor's configuration


@dataclass(frozen=True)
class Program:
    """One process that the supervisor keeps alive.

    Attributes:
        name: its name in supervisor, in logs and in `recsys status`.
        command: what to run.
        url: where it can be reached, for people; empty where it listens nowhere.
        ports: loopback ports that it binds.
        directory: working directory.
        environment: what it needs beyond the supervisor's own environment; no secrets, it is written to a file.
        family: it has children that outlive it when it is killed (see `recsys.sweep`).
        yields: it gives way to what serves: a training shall not keep a shopper waiting.
        stop_signal: what ends it in order.
        colour: of a predictor; it is started when a release is there for it.
    """

    name: str
    command: Sequence[str]
    directory: Path
    url: str = ""
    ports: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    family: bool = False
    yields: bool = False
    stop_signal: str = "TERM"
    colour: Colour | None = None


def of(settings: Settings) -> list[Program]:
    """The programs of the local platform; a service that the settings say is elsewhere is not among them."""
    elsewhere = settings.services
    found = []
    if not elsewhere.redis_url:
        found.append(_redis(settings))
    if not elsewhere.mlflow_url:
        found.append(_mlflow(settings))
    if not elsewhere.airflow_url:
        found.extend(_airflow(settings))
    if not elsewhere.api_url:
        found.append(_api(settings))
    found.extend(_predictor(settings, role, colour) for colour in COLOURS for role in ROLES)
    return found


def root(settings: Settings) -> Path:
    return Path(settings.storage.root).resolve()


def airflow_home(settings: Settings) -> Path:
    return root(settings) / "airflow"


def airflow_command() -> Path:
    """Airflow's command in its own environment."""
    return REPOSITORY / ".venv-airflow" / "bin" / "airflow"


def _redis(settings: Settings) -> Program:
    # Every write is in the append-only file within a second; that alone restores it, so no snapshots beside it.
    options = {
        "--bind": settings.network.host,
        "--port": str(settings.network.redis),
        "--dir": str(root(settings) / "redis"),
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory-policy": "noeviction",  # a feature that silently vanishes is worse than a failing write
        "--daemonize": "no",
    }
    command = ["redis-server", *(part for option in options.items() for part in option)]
    return Program("redis", command, root(settings) / "redis", settings.redis_url, (settings.network.redis,))


def _mlflow(settings: Settings) -> Program:
    folder = root(settings) / "mlflow"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--host", settings.network.host, "--port", str(settings.network.mlflow)),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    # Without it the server starts eight workers of 250 MB for jobs (evaluation of language models) that nobody submits.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    ports = (settings.network.mlflow,)
    return Program("mlflow", command, folder, settings.mlflow_url, ports, environment, family=True, yields=True)


def _airflow(settings: Settings) -> list[Program]:
    """Airflow's four parts, each supervised.

    `airflow standalone` would start the same four, but restart none of them, and open log servers to all
    interfaces, which are not needed where the logs are local files.
    """
    network = settings.network
    commands = {
        "scheduler": ("--skip-serve-logs",),
        "dag-processor": (),
        "triggerer": ("--skip-serve-logs",),
        "api-server": ("--host", network.host, "--port", str(network.airflow), "--workers", "1"),
    }
    return [
        Program(
            f"airflow-{part}",
            [str(airflow_command()), part, *options],
            airflow_home(settings),
            settings.airflow_url if part == "api-server" else "",
            (network.airflow,) if part == "api-server" else (),
            airflow_environment(settings),
            family=True,
            yields=True,
            stop_signal="INT",
        )
        for part, options in commands.items()
    ]


def airflow_environment(settings: Settings) -> dict[str, str]:
    """What every process of Airflow must see, beyond `settings.child_environment`."""
    home = airflow_home(settings)
    return {
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": str(REPOSITORY),
        "NO_COLOR": "1",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",  # the default forks 32 idle workers
        # The default asks the resolver for the machine's full name, which can take seconds without a network.
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(configuration.airflow_passwords_file(settings)),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__API__BASE_URL": settings.airflow_url,  # tasks call back to it, so it must have the right port
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def _api(settings: Settings) -> Program:
    command = [sys.executable, "-m", "serving.api"]
    return Program("api", command, REPOSITORY, settings.api_url, (settings.network.api,))


def _predictor(settings: Settings, role: Role, colour: Colour) -> Program:
    ports = tuple(settings.network.predictor(role, colour, protocol) for protocol in ("rest", "grpc"))
    return Program(
        supervisor.predictor(role, colour),
        [sys.executable, "-m", f"serving.predictors.{role}", "--colour", colour],
        REPOSITORY,
        f"http://{settings.predictor_address(role, colour, 'rest')}",
        ports,
        colour=colour,
    )


def render(settings: Settings, programs: Sequence[Program]) -> str:
    """The supervisor's configuration.

    Its identifier is a digest of everything that the programs were started with, so that `up` can tell whether the
    supervisor that runs is the one that the settings of now would start.

    Raises:
        Permanent: the storage root has a character that the format cannot carry.
    """
    if bad := _FORBIDDEN & set(settings.storage.root):
        raise Permanent(f"the storage root {settings.storage.root!r} must not contain {sorted(bad)}; choose another")
    body = "\n".join(_section(settings, program) for program in programs)
    seen = json.dumps([body, sorted(configuration.child_environment(settings).items())])
    folder, socket = supervisor.run_folder(settings), supervisor.socket_file(settings)
    return f"""; Written by `recsys up`; changes are overwritten.
[supervisord]
identifier = recsys-{hashlib.sha256(seen.encode()).hexdigest()[:12]}
pidfile = {folder}/supervisord.pid
logfile = {supervisor.log_file(settings, "supervisord")}
logfile_maxbytes = 5MB
logfile_backups = 2
childlogdir = {folder}
directory = {REPOSITORY}
nodaemon = true
silent = true

[unix_http_server]
file = {socket}
chmod = 0600

[supervisorctl]
serverurl = unix://{socket}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

{body}"""


def _section(settings: Settings, program: Program) -> str:
    group_file = supervisor.run_folder(settings) / f"{program.name}.group"
    nice = NICE if program.yields else ()
    sweep = [sys.executable, "-m", "recsys.sweep", str(group_file)] if program.family else []
    environment = {"PYTHONPATH": str(REPOSITORY), **program.environment}
    return f"""[program:{program.name}]
command = {shlex.join([*nice, *sweep, *program.command])}
directory = {program.directory}
environment = {",".join(f'{name}="{value}"' for name, value in environment.items())}
autostart = false
; a program that says "this will fail again" (recsys.errors.Exit) is not asked again, any other end is an accident
autorestart = unexpected
exitcodes = 64,65,78
startsecs = 1
startretries = 5
stopsignal = {program.stop_signal}
stopwaitsecs = 20
stopasgroup = {str(program.family).lower()}
killasgroup = true
redirect_stderr = true
stdout_logfile = {supervisor.log_file(settings, program.name)}
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 3
"""
