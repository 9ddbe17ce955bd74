"""The task factory: a DAG says which stage it wants, this module says how it runs."""

import hashlib
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Asset, CronTriggerTimetable

from dags import operators

PYTHON = str(Path(sys.prefix).parent / ".venv" / "bin" / "python")

EVENTS = Asset("recsys://lake/events")
INTRADAY_EVENTS = Asset("recsys://lake/events/intraday")
TRENDING = Asset("recsys://lake/trending")
FEATURES = Asset("recsys://lake/features")
RELEASE = Asset("recsys://releases/live")
EMAIL = Asset("recsys://lake/email")


def at(cron: str) -> CronTriggerTimetable:
    """A schedule in UTC that begins with the next moment.

    Airflow would begin with the last one where that is recent: a platform that has just started would run for a day of
    which it has no data, and whoever asks for a run would wait.
    """
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0))


# A person who reads a failed task at night sees what was tried: twice more, for what may pass by itself.
RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
}


def day_of(params: dict[str, Any], dag_run: Any) -> str:
    """The data day of a run: what its form says, else the day before the run."""
    return str(params.get("day") or (dag_run.run_after - timedelta(days=1)).date())


def today_of(dag_run: Any) -> str:
    """The day on which a run takes place, UTC."""
    moment: datetime = dag_run.run_after
    return str(moment.date())


def run_of(day: str, dag_run: Any) -> str:
    """The name that all stages of a run share; the same after a retry or a clear, so that a re-run replaces itself."""
    digest = hashlib.sha256(f"{dag_run.dag_id}/{dag_run.run_id}".encode()).hexdigest()[:8]
    return f"{day.replace('-', '')}-{digest}"


def accepted_by(params: dict[str, Any], dag_run: Any) -> str:
    """Who accepts the day of a run, where its form says that somebody does."""
    return str(getattr(dag_run, "triggering_user_name", None) or "Airflow") if params.get("accept") else ""


MACROS = {"accepted_by": accepted_by, "day_of": day_of, "today_of": today_of, "run_of": run_of}
DAY = "{{ day_of(params, dag_run) }}"
RUN = "{{ run_of(day_of(params, dag_run), dag_run) }}"
TODAY = "{{ today_of(dag_run) }}"
TODAYS_RUN = "{{ run_of(today_of(dag_run), dag_run) }}"


def stage(
    name: str,
    *,
    minutes: int = 60,
    day: str = DAY,
    run: str = RUN,
    task_id: str = "",
    outlets: Sequence[Asset] = (),
    **options: str,
) -> operators.StageOperator:
    """A task that runs one stage.

    Args:
        name: the stage.
        minutes: after which it is stopped.
        day: template of its data day.
        run: template of its run name.
        task_id: the stage's name if empty.
        outlets: assets that it renews.
        options: further options of the stage, as templates; one that renders to nothing is not passed.
    """
    return operators.StageOperator(
        task_id=task_id or name,
        stage=name,
        arguments=arguments(day, run, options),
        python=PYTHON,
        execution_timeout=timedelta(minutes=minutes),
        outlets=list(outlets),
        **RETRIES,
    )


def gate(name: str, *, passed: Sequence[str], minutes: int = 60, **options: str) -> operators.GateOperator:
    """A task that runs a gate stage; the run goes on to the tasks `passed`, or ends at `<name>_refused`."""
    task = operators.GateOperator(
        task_id=name,
        stage=name,
        arguments=arguments(DAY, RUN, options),
        python=PYTHON,
        execution_timeout=timedelta(minutes=minutes),
        passed=passed,
        refused=f"{name}_refused",
        **RETRIES,
    )
    task >> EmptyOperator(task_id=task.refused)
    return task


def arguments(day: str, run: str, options: dict[str, str]) -> list[str]:
    """The options of a stage in a stable order, each followed by its value."""
    pairs = {"day": day, "run": run} | {name.replace("_", "-"): value for name, value in sorted(options.items())}
    return [part for name, value in pairs.items() for part in (f"--{name}", value)]
