"""A client of Airflow's REST API: trigger a DAG, watch its tasks, read how it ended."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from recsys import settings as configuration
from recsys.errors import Permanent, Retryable, UsageError
from recsys.settings import Settings

FINISHED = ("success", "failed")
FOLD = ("::group::", "::endgroup::")
POLL_SECONDS = 2.0  # two calls each time, on a machine that is busy with the run itself


@dataclass(frozen=True)
class TaskState:
    """One task of a run: its state in Airflow's words and its seconds so far (None before it starts)."""

    task_id: str
    state: str
    seconds: float | None


@dataclass(frozen=True)
class Run:
    """A DAG run at one moment."""

    dag_id: str
    run_id: str
    state: str
    note: str
    tasks: list[TaskState] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


class Client:
    """Talks to one Airflow API server as its local admin.

    Raises (all calls):
        Retryable: Airflow does not answer.
        UsageError: there is no such DAG, or its parameters are refused; the message is Airflow's own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._orders: dict[str, list[str]] = {}
        self._http = httpx.Client(base_url=settings.airflow_url, timeout=30)

    def parameters(self, dag_id: str) -> set[str]:
        """Names of the parameters of a DAG. Airflow takes others in silence, and so a misspelt one."""
        return set(self._call("GET", f"/api/v2/dags/{dag_id}/details")["params"] or {})

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Start a run and return its id; a paused DAG is unpaused first."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})
        body = {"conf": dict(conf), "logical_date": None}
        return str(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> Run:
        """The run and its tasks, in topological order of the DAG, which is asked for once."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
        found = self._call("GET", path)
        tasks = self._call("GET", f"{path}/taskInstances", params={"limit": 200})["task_instances"]
        if dag_id not in self._orders:
            self._orders[dag_id] = self._order(dag_id)
        order = self._orders[dag_id]
        states = [TaskState(t["task_id"], t["state"] or "none", t["duration"] or _running_for(t)) for t in tasks]
        states.sort(key=lambda t: order.index(t.task_id) if t.task_id in order else len(order))
        return Run(dag_id, run_id, found["state"], found["note"] or "", states)

    def watch(self, dag_id: str, run_id: str, every: float = POLL_SECONDS) -> Iterator[Run]:
        """Yield the run until it has finished."""
        while True:
            run = self.run(dag_id, run_id)
            yield run
            if run.finished:
                return
            time.sleep(every)

    def log_tail(self, run: Run, task_id: str, lines: int = 15) -> list[str]:
        """The last lines of a task's newest try, without the marks by which Airflow's page folds them; empty where
        Airflow has no log."""
        path = f"/api/v2/dags/{run.dag_id}/dagRuns/{quote(run.run_id, safe='')}/taskInstances/{task_id}"
        number = self._call("GET", path)["try_number"]
        content = self._call("GET", f"{path}/logs/{number}").get("content", [])
        told = [str(entry.get("event", entry)) for entry in content if isinstance(entry, dict)]
        return [line for line in told if not line.startswith(FOLD)][-lines:]

    def _order(self, dag_id: str) -> list[str]:
        tasks = self._call("GET", f"/api/v2/dags/{dag_id}/tasks")["tasks"]
        downstream = {t["task_id"]: t["downstream_task_ids"] for t in tasks}
        waiting = {name: sum(name in later for later in downstream.values()) for name in downstream}
        order: list[str] = []
        while ready := [name for name, count in waiting.items() if count == 0]:
            for name in ready:
                order.append(name)
                del waiting[name]
                for later in downstream[name]:
                    waiting[later] -= 1
        return order

    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        try:
            if "authorization" not in self._http.headers:
                self._http.headers["authorization"] = f"Bearer {self._token()}"
            answer = self._http.request(method, path, **kwargs)
        except httpx.TransportError as error:
            raise Retryable(
                f"Airflow does not answer at {self._settings.airflow_url} ({error}); `recsys up` starts it"
            ) from error
        if answer.is_client_error:
            raise UsageError(f"Airflow refused {method} {path}: {_detail(answer)}")
        if answer.is_server_error:
            raise Retryable(f"Airflow failed on {method} {path} with {answer.status_code}: {_detail(answer)}")
        body: dict[str, Any] = answer.json()
        return body

    def _token(self) -> str:
        password = configuration.airflow_password(self._settings)
        answer = self._http.post("/auth/token", json={"username": "admin", "password": password})
        if answer.is_error:
            raise Permanent(f"Airflow refuses the admin's password: {_detail(answer)}; set RECSYS_AIRFLOW_PASSWORD")
        return str(answer.json()["access_token"])


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("detail", answer.text))
    except ValueError:
        return answer.text[:500]


def _running_for(task: Mapping[str, Any]) -> float | None:
    if not task["start_date"]:
        return None
    return (datetime.now(UTC) - datetime.fromisoformat(task["start_date"])).total_seconds()
