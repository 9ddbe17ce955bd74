"""Notes on DAG runs, where a person looks first; written through Airflow's REST API."""

import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx

from recsys import settings as configuration
from recsys.errors import RecsysError
from recsys.settings import Settings

MAX_NOTE = 1000  # characters, Airflow's own limit
REFUSED, FAILED = "REFUSED", "FAILED"  # a gate that refuses, and the reasons for which it does
log = logging.getLogger(__name__)


def add(dag_run: Any, line: str) -> None:
    """Add a line to the run's note, in place of an earlier one of the same stage.

    A note is a courtesy: where it cannot be written, a warning is logged.
    """
    settings = configuration.load()
    path = f"/api/v2/dags/{dag_run.dag_id}/dagRuns/{quote(dag_run.run_id, safe='')}"
    try:
        with httpx.Client(base_url=settings.airflow_url, timeout=10, headers=_bearer(settings)) as client:
            before = client.get(path).raise_for_status().json().get("note") or ""
            lines = [kept for kept in before.splitlines() if kept.split()[:1] != line.split()[:1]]
            note = fitted([*lines, line])
            client.patch(path, params={"update_mask": "note"}, json={"note": note}).raise_for_status()
    except (httpx.HTTPError, RecsysError, KeyError) as error:
        log.warning("the note on run %s was not written: %s", dag_run.run_id, error)


def fitted(lines: Sequence[str]) -> str:
    """As much of the lines as a note can hold: what was refused stands first, because it is what a person looks for."""
    note = "\n".join(sorted(lines, key=lambda line: REFUSED not in line))
    return note if len(note) <= MAX_NOTE else note[: MAX_NOTE - 2] + " …"


def _bearer(settings: Settings) -> dict[str, str]:
    login = {"username": "admin", "password": configuration.airflow_password(settings)}
    answer = httpx.post(f"{settings.airflow_url}/auth/token", json=login, timeout=10)
    return {"Authorization": f"Bearer {answer.raise_for_status().json()['access_token']}"}
