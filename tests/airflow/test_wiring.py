"""What each DAG would run, and in which order."""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.timetables import trigger
from airflow.timetables.base import TimeRestriction

from dags import operators, tasks

GOLDEN = Path(__file__).parent / "golden"
DAG_RUN = SimpleNamespace(
    dag_id="daily", run_id="manual__2026-03-06T03:00:00+00:00", run_after=datetime(2026, 3, 6, 3, tzinfo=UTC)
)


@pytest.fixture(scope="module")
def bag() -> DagBag:
    found = DagBag()
    assert found.import_errors == {}
    return found


def rendered(dag, params: dict) -> dict[str, str]:
    """Task id → command, as Airflow would render it."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)  # noqa: S701 - command lines, not HTML
    values = tasks.MACROS | {"params": params, "dag_run": DAG_RUN}
    commands = {}
    for task in dag.topological_sort():
        if isinstance(task, operators.StageOperator):
            arguments = [environment.from_string(part).render(values) for part in task.arguments]
            commands[task.task_id] = " ".join([task.stage, *operators.without_empty(arguments)])
    return commands


def defaults(dag) -> dict:
    """The form as it opens."""
    return {name: param.value for name, param in dag.params.items()} if dag.params else {}


@pytest.mark.parametrize("dag_id", ["daily", "email", "intraday", "trending"])
def test_the_rendered_commands_are_those_of_the_golden_file(bag: DagBag, dag_id: str) -> None:
    dag = bag.dags[dag_id]
    golden = json.loads((GOLDEN / f"{dag_id}.json").read_text())
    assert rendered(dag, defaults(dag)) == golden


def test_a_filled_form_reaches_the_stages(bag: DagBag) -> None:
    form = {"day": "2010-12-09", "source": "online_retail:/data/x.parquet", "epochs": 3, "dim": 64, "reuse": False}
    commands = rendered(bag.dags["daily"], defaults(bag.dags["daily"]) | form)
    assert "--day 2010-12-09 " in commands["deploy"]
    assert commands["ingest"].endswith("--source online_retail:/data/x.parquet")
    assert "--dim 64 --epochs 3" in commands["train_retrieval"]
    for stage in ("quality", "trending", "features", "train_retrieval", "train_ranker"):
        assert commands[stage].endswith("--reuse False")


def test_who_accepts_a_day_reaches_the_gate_with_the_reason(bag: DagBag) -> None:
    dag = bag.dags["daily"]
    assert "accept" not in rendered(dag, defaults(dag))["quality"]
    run = SimpleNamespace(**vars(DAG_RUN), triggering_user_name="ann")
    assert tasks.accepted_by({"accept": "public holiday"}, run) == "ann"
    command = rendered(dag, defaults(dag) | {"accept": "public holiday"})["quality"]
    assert "--accept public holiday --accepted-by Airflow" in command


def test_all_stages_of_a_run_share_a_name_that_survives_a_retry() -> None:
    assert tasks.run_of("2026-03-05", DAG_RUN) == tasks.run_of("2026-03-05", DAG_RUN) == "20260305-e201620b"


def test_every_gate_can_end_the_run_before_anything_is_deployed(bag: DagBag) -> None:
    dag = bag.dags["daily"]
    gates = [task for task in dag.tasks if isinstance(task, operators.GateOperator)]
    assert {gate.task_id for gate in gates} == {"evaluate_retrieval", "validate_index", "evaluate_ranker"}
    for gate in gates:
        assert gate.downstream_task_ids == {*gate.passed, gate.refused}
        assert "deploy" in {task.task_id for task in gate.get_flat_relatives(upstream=False)}


def test_the_form_refuses_a_source_of_an_unknown_kind(bag: DagBag) -> None:
    param = bag.dags["daily"].params.get_param("source")
    with pytest.raises(Exception, match="does not match"):
        param.resolve("mysql:db")
    assert param.resolve() is None  # the clock fills in no form: `ingest` knows the source of the last run


def test_trending_waits_for_events_published_during_the_day(bag: DagBag) -> None:
    (outlet,) = bag.dags["intraday"].task_dict["quality"].outlets
    assert outlet.uri == tasks.INTRADAY_EVENTS.uri
    assert bag.dags["trending"].schedule == [tasks.INTRADAY_EVENTS]


def test_nobody_is_written_to_until_somebody_turns_it_on(bag: DagBag) -> None:
    dag = bag.dags["email"]
    assert dag.is_paused_upon_creation
    for name, value in (("active_days", 0), ("count", 101), ("in_flight", "many")):
        with pytest.raises(Exception, match=r"is not of type|is less than|is greater than"):
            dag.params.get_param(name).resolve(value)


@pytest.mark.parametrize(("dag_id", "begins"), [("daily", (7, 2, 30)), ("intraday", (6, 3, 0)), ("email", (9, 6, 0))])
def test_a_platform_that_has_just_started_waits_for_the_next_moment(
    bag: DagBag, monkeypatch: pytest.MonkeyPatch, dag_id: str, begins: tuple[int, int, int]
) -> None:
    schedule = bag.dags[dag_id].schedule
    monkeypatch.setattr(trigger, "utcnow", lambda: datetime(2026, 3, 6, 2, 31, tzinfo=UTC))
    served = trigger.CronTriggerTimetable(
        schedule.expression, timezone=schedule.timezone, run_immediately=schedule.run_immediately
    )
    first = served.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(earliest=None, latest=None, catchup=False)
    )
    assert first is not None
    day, hour, minute = begins
    assert first.run_after == datetime(2026, 3, day, hour, minute, tzinfo=UTC)
