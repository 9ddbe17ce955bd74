"""Whether each part of the local platform really works: a call to it, never just a process that exists."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from models.release import Releases
from recsys.programs import Program
from recsys.settings import Settings

_TIMEOUT = 3.0  # seconds; on a loaded machine a healthy Airflow answers in one
_AIRFLOW_PARTS = {
    "airflow-api-server": "metadatabase",
    "airflow-scheduler": "scheduler",
    "airflow-triggerer": "triggerer",
    "airflow-dag-processor": "dag_processor",
}


def of(settings: Settings, programs: Sequence[Program]) -> dict[str, bool]:
    """Ask every program, all at once; name → healthy."""
    if not programs:
        return {}
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per probe would be all that a log shows
    with httpx.Client(timeout=_TIMEOUT) as http, ThreadPoolExecutor(len(programs)) as pool:
        airflow = pool.submit(_airflow, http, settings.airflow_url)
        asked = {program.name: pool.submit(_probe(http, settings, program, airflow.result)) for program in programs}
        return {name: answer.result() for name, answer in asked.items()}


def _probe(
    http: httpx.Client, settings: Settings, program: Program, airflow: Callable[[], dict[str, bool]]
) -> Callable[[], bool]:
    """The question that a program must answer; see `_answers`."""
    if program.name == "redis":
        return lambda: _redis(settings.redis_url)
    if program.name == "mlflow":
        return lambda: _answers(http, f"{settings.mlflow_url}/health")
    if program.name in _AIRFLOW_PARTS:
        return lambda: airflow().get(_AIRFLOW_PARTS[program.name], False)
    if program.name == "api":
        # Before the first release it can be alive, but not ready.
        kind = "live" if Releases(Path(settings.storage.root)).live() is None else "ready"
        return lambda: _answers(http, f"{settings.api_url}/health/{kind}")
    role = program.name.split("-")[0]
    return lambda: _answers(http, f"{program.url}/v2/models/{role}/ready")


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _airflow(http: httpx.Client, url: str) -> dict[str, bool]:
    """Airflow's parts by the heartbeats that it finds in its own database."""
    try:
        answer = http.get(f"{url}/api/v2/monitor/health").json()
    except (httpx.HTTPError, ValueError):
        return {}
    return {part: (entry or {}).get("status") == "healthy" for part, entry in answer.items()}


def _redis(url: str) -> bool:
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
