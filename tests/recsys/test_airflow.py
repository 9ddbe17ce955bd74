"""Following a run through Airflow's API: in the order of the DAG, with as few calls as that takes."""

from collections import Counter

import httpx
import pytest

from recsys import airflow
from recsys.errors import UsageError
from recsys.settings import Settings

TASKS = {"ingest": ["quality"], "deploy": [], "quality": ["deploy"]}  # in the order in which Airflow lists them


class FakeAirflow:
    """Answers as Airflow's API server does; the run ends at the third look."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        last = request.url.path.rsplit("/", 1)[-1]
        self.calls[last] += 1
        if last == "tasks":
            found = [{"task_id": name, "downstream_task_ids": after} for name, after in TASKS.items()]
            return httpx.Response(200, json={"tasks": found})
        if last == "taskInstances":
            times = {"duration": 2.0, "start_date": "2026-03-05T00:00:00Z"}
            return httpx.Response(
                200, json={"task_instances": [{"task_id": name, "state": None, **times} for name in TASKS]}
            )
        if last == "ingest":
            return httpx.Response(200, json={"try_number": 2})
        if last == "2":
            lines = ["::group::Pre Execute", "running", "::endgroup::", "BadData: it ends in 1998"]
            return httpx.Response(200, json={"content": [{"event": line} for line in lines]})
        if last == "details":
            daily = {"day": {"value": None}, "epochs": {"value": None}}
            return httpx.Response(200, json={"params": daily if "/daily/" in request.url.path else None})
        if last == "run-1":
            return httpx.Response(200, json={"state": "success" if self.calls[last] == 3 else "running", "note": None})
        return httpx.Response(404, json={"detail": f"no {last}"})


@pytest.fixture
def served(settings: Settings) -> tuple[FakeAirflow, airflow.Client]:
    fake, client = FakeAirflow(), airflow.Client(settings)
    client._http.close()
    client._http = httpx.Client(
        base_url="http://airflow", transport=httpx.MockTransport(fake), headers={"authorization": "Bearer token"}
    )
    return fake, client


def test_a_run_is_followed_to_its_end_in_the_order_of_its_dag(served: tuple[FakeAirflow, airflow.Client]) -> None:
    fake, client = served
    seen = list(client.watch("daily", "run-1", every=0))
    assert [run.state for run in seen] == ["running", "running", "success"]
    assert [task.task_id for task in seen[-1].tasks] == ["ingest", "quality", "deploy"]
    assert [task.state for task in seen[-1].tasks] == ["none"] * 3
    assert fake.calls == {"run-1": 3, "taskInstances": 3, "tasks": 1}, "the order does not change while it runs"


def test_the_parameters_of_a_dag_are_known_by_name(served: tuple[FakeAirflow, airflow.Client]) -> None:
    assert served[1].parameters("daily") == {"day", "epochs"}
    assert served[1].parameters("trending") == set()


def test_the_last_words_of_a_task_are_its_own(served: tuple[FakeAirflow, airflow.Client]) -> None:
    ended = airflow.Run("daily", "run-1", "failed", "")
    assert served[1].log_tail(ended, "ingest") == ["running", "BadData: it ends in 1998"]
    assert served[1].log_tail(ended, "ingest", lines=1) == ["BadData: it ends in 1998"]


def test_what_airflow_refuses_is_told_in_its_own_words(served: tuple[FakeAirflow, airflow.Client]) -> None:
    with pytest.raises(UsageError, match="no run-2"):
        served[1].run("daily", "run-2")
