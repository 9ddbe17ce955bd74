"""The local process supervisor (supervisord) as seen from Python: start, stop, and states of its programs.

Used by `recsys.local`, which owns the whole platform, and by the local deployment backend, which restarts the
predictors of a colour. XML-RPC over a Unix socket that only its owner can open.
"""

import http.client
import socket
import time
import xmlrpc.client
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError
from xmlrpc.client import Fault

from recsys.errors import Permanent, Retryable
from recsys.settings import Colour, Role, Settings

_MAX_SOCKET = 90  # a Unix socket's path has 107 characters; supervisord appends its pid while it binds
# Faults of supervisor's RPC interface (supervisor.xmlrpc.Faults) that mean "it is so already".
_BAD_NAME, _SPAWN_ERROR, _ALREADY_STARTED, _NOT_RUNNING = 10, 50, 60, 70
UP = ("RUNNING", "STARTING", "BACKOFF")


@dataclass(frozen=True)
class Process:
    """One program as the supervisor knows it.

    Attributes:
        name: such as "redis" or "ranking-blue".
        state: supervisor's word: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL.
        pid: 0 where nothing runs.
        started: epoch seconds of the last start; a change means that it has died in between.
        seconds: since the last start, 0 where nothing runs.
        problem: why it does not run, in supervisor's words.
    """

    name: str
    state: str
    pid: int = 0
    started: int = 0
    seconds: int = 0
    problem: str = ""


def run_folder(settings: Settings) -> Path:
    """What the running platform needs and nobody else may read: socket, configuration, passwords."""
    return Path(settings.storage.root).resolve() / "run"


def log_file(settings: Settings, program: str) -> Path:
    return Path(settings.storage.root).resolve() / "log" / f"{program}.log"


def socket_file(settings: Settings) -> Path:
    """Raises Permanent if the storage root is too deep for a Unix socket."""
    path = run_folder(settings) / "supervisor.sock"
    if len(str(path)) > _MAX_SOCKET:
        raise Permanent(
            f"{path} has {len(str(path))} characters, a Unix socket may have {_MAX_SOCKET}; "
            "choose a shorter RECSYS_STORAGE__ROOT"
        )
    return path


def predictor(role: Role, colour: Colour) -> str:
    """The program that runs one predictor."""
    return f"{role}-{colour}"


def tail(settings: Settings, program: str, lines: int = 5) -> str:
    """The last words of a program, for error messages."""
    try:
        text = log_file(settings, program).read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


class Supervisor:
    """Calls raise Retryable if the supervisor does not answer, Permanent if it knows no such program."""

    def __init__(self, settings: Settings, timeout: float = 60) -> None:
        self._socket = socket_file(settings)
        self._timeout = timeout

    def alive(self) -> bool:
        try:
            return self.identity() != ""
        except Retryable:
            return False

    def identity(self) -> str:
        """The `identifier` of its configuration."""
        return str(self._call("getIdentification"))

    def processes(self) -> dict[str, Process]:
        """All programs by name."""
        return {raw["name"]: _process(raw) for raw in self._call("getAllProcessInfo")}

    def process(self, name: str) -> Process:
        return _process(self._call("getProcessInfo", name))

    def start(self, name: str) -> None:
        """Start a program; returns at once, and without error if it runs already."""
        self._call("startProcess", name, False, ignore=(_ALREADY_STARTED, _SPAWN_ERROR))

    def stop(self, name: str, *, wait: bool = True) -> None:
        """Stop a program, and wait until it is gone; no error if it was not running."""
        self._call("stopProcess", name, wait, ignore=(_NOT_RUNNING,))

    def wait_stopped(self, name: str, seconds: float = 30) -> None:
        """Wait until a program that was told to stop is gone; the supervisor kills it after 20 seconds."""
        deadline = time.monotonic() + seconds
        while self.process(name).pid:
            if time.monotonic() > deadline:
                raise Retryable(f"{name} is still there {seconds:.0f} s after it was told to stop")
            time.sleep(0.05)

    def shutdown(self) -> None:
        """Stop all programs, then the supervisor; returns at once."""
        self._call("shutdown")

    def _call(self, method: str, *arguments: str | bool, ignore: tuple[int, ...] = ()) -> Any:
        try:
            return self._ask(xmlrpc.client.dumps(arguments, f"supervisor.{method}"))
        except Fault as fault:
            if fault.faultCode in ignore:
                return None
            if fault.faultCode == _BAD_NAME:
                raise Permanent(f"the supervisor knows no program {arguments[0]!r}; `recsys up` renews it") from fault
            raise Retryable(f"supervisor refused {method}{arguments}: {fault.faultString}") from fault

    def _ask(self, body: str) -> Any:
        try:
            with closing(_Connection(self._socket, self._timeout)) as connection:
                connection.request("POST", "/RPC2", body.encode(), {"Content-Type": "text/xml"})
                (answer,), _ = xmlrpc.client.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ExpatError) as error:
            problem = f"the local supervisor does not answer at {self._socket} ({error}); start it with `recsys up`"
            raise Retryable(problem) from error
        return answer


def _process(raw: dict[str, Any]) -> Process:
    running = raw["pid"] != 0
    seconds = max(0, raw["now"] - raw["start"]) if running else 0
    return Process(raw["name"], raw["statename"], raw["pid"], raw["start"], seconds, raw["spawnerr"])


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
