"""The command line answers people in words and programs in JSON, on standard output alone."""

import json
import sys
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import fake_models
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from models import release
from pipelines import acceptance, datasets
from recsys import airflow, cli, local, progress, tour
from recsys import settings as configuration
from recsys.errors import Exit, UsageError
from recsys.local import ServiceStatus
from recsys.settings import Settings
from serving.api import auth, tokens

REDIS = ServiceStatus("redis", "RUNNING", 41, "redis://127.0.0.1:8103/0", healthy=True, seconds=9, expected=True)
API = ServiceStatus("api", "FATAL", None, "http://127.0.0.1:8100", healthy=False, seconds=0, expected=True)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command works on a storage root of this test's own."""
    monkeypatch.setenv("RECSYS_STORAGE__ROOT", str(tmp_path / "var"))
    return tmp_path / "var"


def recsys(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def answer(*arguments: str, code: int = 0) -> Any:
    """The JSON document that is all of standard output."""
    return json.loads(recsys(*arguments, "--json", code=code).stdout)


def test_up_answers_with_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "up", lambda settings, progress: [REDIS])
    [service] = answer("up")
    assert (service["name"], service["pid"], service["healthy"]) == ("redis", 41, True)
    told = recsys("up").stdout
    assert "redis://127.0.0.1:8103/0" in told
    assert "once `recsys run daily` has brought a release live: http://127.0.0.1:8100/demo" in told


@pytest.mark.parametrize("wrong", [["frobnicate"], ["status", "--frobnicate"], ["similar"]], ids=str)
def test_a_wrong_call_ends_with_the_code_that_help_names(wrong: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recsys", *wrong])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == Exit.USAGE


@pytest.mark.parametrize("columns", [80, 200])
def test_no_id_of_a_release_is_cut(root: Path, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing has been live yet" in recsys("release", "history").stdout
    monkeypatch.setattr(cli, "console", Console(width=columns))
    path = "models/retrieval/20260305-0a1b2c3d-" + "7" * 60
    towers = release.Reference("20260305-0a1b2c3d-77777777", path, "f" * 64)
    ids = [release.ReleaseId("20260305-0a1b2c3d"), release.ReleaseId("20260304-9e8f7a6b")]
    live = release.Release(
        release_id=ids[0],
        released_at="2026-03-06T02:40:11.123456+00:00",
        as_of="2026-03-06T00:00:00+00:00",
        colour="blue",
        artifacts={"retrieval": towers},
        feature_service="ranking_v1",
        previous=ids[1],
        reason="the ranker of yesterday was better: [see the note]",
    )
    releases = release.Releases(root)
    releases.live_file.parent.mkdir(parents=True)
    releases.live_file.write_text(live.to_json())
    shown = recsys("release", "history").stdout + recsys("release", "show").stdout
    assert "…" not in shown
    assert f"{ids[0]}  {ids[1]}" in shown
    words = "".join(shown.split())
    assert all(whole in words for whole in (path, towers.digest, *ids, "[seethenote]"))


def test_status_says_by_its_exit_code_that_something_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "status", lambda settings: [REDIS, API])
    assert [service["state"] for service in answer("status", code=1)] == ["RUNNING", "FATAL"]
    assert "supervisor" not in recsys("status", code=1).stderr
    monkeypatch.setattr(local, "orphans", lambda settings: 3)
    assert "killed: 3 of its processes serve on" in recsys("status", code=1).stderr
    idle = replace(API, expected=False)
    monkeypatch.setattr(local, "status", lambda settings: [REDIS, idle])
    assert "idle" in recsys("status").stdout


def test_token_is_one_that_the_api_believes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = root.parent / "secret"
    secret.write_text("f" * 64)
    assert "openssl rand" in str(recsys("token", "u1", code=1).exception)
    monkeypatch.setenv("RECSYS_API__JWT_SECRET_FILE", str(secret))
    believed = tokens.Tokens(configuration.load().api)
    assert believed.read(answer("token", "u1")["token"]) == tokens.Grant("u1", frozenset([auth.READ]))
    asked = recsys("token", "u1", "--minutes", "5", "--scope", auth.WRITE)
    assert believed.read(asked.stdout.strip()).scopes == {auth.WRITE}
    assert auth.WRITE in str(recsys("token", "u1", "--scope", "everything", code=1).exception)


def test_experiments_are_listed_with_their_state_and_say_where_a_unit_falls(root: Path) -> None:
    assert answer("experiments") == []
    assert "no experiments" in recsys("experiments").stdout
    (root / "config").mkdir(parents=True)
    (root / "config" / "experiments.yaml").write_text(
        """
home:
  models:
    surfaces: [home]
    traffic: [0, 50]
    variants: {with: {weight: 3}, without: {surface: home_rules}}
  later:
    surfaces: [home]
    traffic: [50, 100]
    start: 2999-01-01T00:00:00Z
    variants: {a: {}, b: {}}
"""
    )
    [models, later] = answer("experiments")
    assert (models["layer"], models["experiment"], models["state"]) == ("home", "models", "running")
    assert models["variants"]["without"]["surface"] == "home_rules"
    assert later["state"] == "waiting"
    assert "with 75%, without 25%" in recsys("experiments").stdout
    assert answer("experiments", "assign", "ann") == [
        {"layer": "home", "bucket": 3652, "experiment": "models", "variant": "with"}
    ]
    assert "3652" in recsys("experiments", "assign", "ann").stdout
    [nowhere] = answer("experiments", "assign", "Jürgen 🛒")  # in the buckets of what has not begun
    assert (nowhere["bucket"], nowhere["experiment"], nowhere["variant"]) == (5823, None, None)


def test_down_answers_with_what_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "down", lambda settings: ["redis", "api"])
    assert answer("down") == {"stopped": ["redis", "api"]}
    assert recsys("down").stdout == "stopped redis, api\n"
    monkeypatch.setattr(local, "down", lambda settings: [])
    assert answer("down") == {"stopped": []}
    assert recsys("down").stdout == "nothing was running\n"


def test_use_answers_with_the_workspace_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECSYS_STORAGE__ROOT")
    monkeypatch.setattr(configuration, "WORKSPACES", tmp_path)
    stopped: list[str] = []
    monkeypatch.setattr(local, "down", lambda settings: stopped.append(settings.storage.root))
    workspace = {"workspace": str(tmp_path / "retail")}
    assert answer("use", "retail") == workspace
    assert answer("use", "retail") == workspace
    assert stopped == [str(tmp_path / "simulator")], "the second call had nothing to change"
    assert recsys("use", "retail").stdout == f"workspace {tmp_path / 'retail'}\n"


def test_simulate_answers_with_what_it_made(root: Path) -> None:
    made = answer("data", "simulate", "--users", "60", "--items", "60", "--events", "1500", "--days", "2")
    assert made["out"] == str(root / "sources" / "simulator")
    assert made["plan"]["days"] == 2
    assert (root / "sources" / "simulator" / "meta.json").exists()


def test_an_accepted_day_is_kept_with_who_when_and_why(root: Path) -> None:
    [first, second] = answer("data", "accept", "2009-12-23", "2009-12-24", "--reason", "closed at noon")
    assert (first["day"], second["day"], first["why"]) == ("2009-12-23", "2009-12-24", "closed at noon")
    assert first["who"]
    kept = acceptance.read(datasets.Lake(root))
    assert [asdict(one) for one in kept.values()] == [first, second]
    for wrong in (["23.12.2009", "--reason", "x"], ["2009-12-23", "--reason", " "]):
        with pytest.raises(UsageError):
            CliRunner().invoke(cli.app, ["data", "accept", *wrong], catch_exceptions=False)
    assert len(acceptance.read(datasets.Lake(root))) == 2


@pytest.fixture
def shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lake with users, and an API that recommends one mug to everybody."""
    fake_models.write_shop(configuration.load(), date(2024, 3, 9))
    item = {"title": "A mug [blue]", "category": "Home > Mugs", "reason": "Picked for you", "score": 0.5}
    page = {"rung": "ranked", "release_id": "r1", "items": [item]}

    def get(settings: Settings, path: str, params: dict[str, Any]) -> dict[str, Any]:
        return page | {"asked": params}

    monkeypatch.setattr(tour.client, "get", get)


@pytest.mark.usefixtures("shop")
def test_the_tour_answers_with_visitors_pages_and_addresses(root: Path) -> None:
    seen = answer("tour")
    labels = [visit["visitor"]["label"] for visit in seen["visits"]]
    assert labels == ["a known user", "a new user", "an anonymous session"]
    known = seen["visits"][0]
    assert known["visitor"]["history"][-1].startswith("purchase Item")
    assert known["answer"]["asked"] == known["visitor"]["query"] | {"surface": "home", "count": tour.SHOWN}
    assert known["answer"]["items"][0]["title"] == "A mug [blue]"
    assert seen["addresses"]["storefront"].endswith("/demo")
    assert seen["addresses"]["api_docs"].endswith("/docs")
    assert seen["addresses"]["airflow_passwords"] == str(root / "run" / "airflow_passwords.json")


@pytest.mark.usefixtures("shop")
def test_the_tour_shows_a_person_the_same() -> None:
    text = recsys("tour").stdout
    assert text.count("A mug [blue]") == 3
    assert "Home page of an anonymous session" in text
    assert text.count("\nrung: ranked, release r1\n") == 3, "on one line, however narrow the items are"
    assert "/demo" in text
    assert "/docs" in text
    password = configuration.airflow_passwords_file(configuration.load())
    assert f"password in {password})" in text, "to be copied, so it is not broken"


REPLAYED = {
    "request_id": "a b/c",
    "release_id": "r1",
    "surface": "home",
    "rung": "ranked",
    "same": True,
    "places": 100,
    "exploration": "drawn again",
    "differences": [],
    "because": [],
}
OTHERWISE = REPLAYED | {
    "same": False,
    "differences": [
        {"position": 0, "recorded": {"item_id": "i1", "score": 0.75}, "replayed": {"item_id": "i[2]", "score": 0.5}},
        {"position": 99, "recorded": {"item_id": "i9", "score": None}, "replayed": None},
    ],
    "because": ["the rules of the surface have changed since: scores.fresh was 1.2 and is 1.0"],
}


def test_replay_says_by_its_exit_code_whether_the_page_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"/api/v1/replay/a%20b%2Fc": REPLAYED, "/api/v1/replay/other": OTHERWISE}

    def get(settings: Settings, path: str, params: dict[str, Any]) -> dict[str, Any]:
        return answers[path]

    monkeypatch.setattr(cli.client, "get", get)
    assert answer("replay", "a b/c") == REPLAYED
    assert recsys("replay", "a b/c").stdout == (
        "all 100 places are the same (home, rung ranked, release r1; exploration drawn again)\n"
    )
    assert answer("replay", "other", code=1) == OTHERWISE
    lines = recsys("replay", "other", code=1).stdout.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["place", "shown", "score", "replayed", "score"],
        ["1", "i1", "0.75", "i[2]", "0.5"],
        ["100", "i9"],
    ]
    assert lines[3] == "because the rules of the surface have changed since: scores.fresh was 1.2 and is 1.0"
    assert lines[4].startswith("2 of 100 places differ (home")


class FakeAirflow:
    """A client of an Airflow whose one run has come to an end."""

    run = airflow.Run("daily", "r1", "success", "", [airflow.TaskState("ingest", "success", 3.0)])

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def parameters(self, dag: str) -> set[str]:
        return {"day", "epochs", "source"}

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        return "r1"

    def watch(self, dag: str, run_id: str) -> list[airflow.Run]:
        return [self.run]

    def log_tail(self, run: airflow.Run, task_id: str) -> list[str]:
        return [f"{task_id} says [why]"]


def test_a_run_behind_a_pipe_is_told_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow, "Client", FakeAirflow)
    lines = recsys("run", "daily").stdout.splitlines()
    assert lines[0].split() == ["ingest", "success", "3", "s"]
    assert lines[1] == "daily success"
    assert lines[2].endswith("/dags/daily/runs/r1")
    result = recsys("run", "daily", "--json")
    assert json.loads(result.stdout)["state"] == "success"
    assert "ingest" in result.stderr, "a log sees it go on, beside the answer"


def test_a_misspelt_parameter_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow, "Client", FakeAirflow)
    monkeypatch.setattr(FakeAirflow, "trigger", lambda *_: pytest.fail("a run was started"))
    wrong = recsys("run", "daily", "--param", "epoch=3", code=1).exception
    assert str(wrong) == "daily has no parameter 'epoch'; it has day, epochs, source"


@pytest.mark.parametrize(
    "task", [("ingest", "failed"), ("evaluate_ranker_refused", "success")], ids=["a failure", "a refusal"]
)
def test_a_run_that_did_not_get_through_ends_with_1(task: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, state = task
    ended = airflow.Run("daily", "r1", "failed" if state == "failed" else "success", "", [])
    ended.tasks.append(airflow.TaskState(name, state, 1.0))
    monkeypatch.setattr(FakeAirflow, "run", ended)
    monkeypatch.setattr(airflow, "Client", FakeAirflow)
    text = recsys("run", "daily", "--day", "2026-03-05", code=1).stdout
    assert ("ingest says [why]" in text) == (state == "failed")
    assert progress.line(ended.tasks[0]) in text
