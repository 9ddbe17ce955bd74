"""When a stage of the data keeps what an earlier run made, and when it must not."""

import json
from datetime import date, timedelta

import pyarrow as pa
import pytest

from pipelines import datasets, stage, trending
from pipelines.datasets import RunId
from recsys.errors import Exit
from recsys.settings import Settings

DAY = date(2026, 3, 10)
TABLE = pa.table({"n": [1, 2]})


@pytest.fixture
def made(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[RunId]:
    """The runs in which trending really worked, with a `main` that only writes its tables."""
    lake, runs = datasets.lake(settings), []
    for dataset in datasets.CLEAN.values():
        lake.write(dataset, DAY, TABLE)

    def main(params: trending.Params, _: Settings) -> stage.Result:
        for dataset in (datasets.TRENDING, datasets.COVISITATION):
            lake.write(dataset, params.day, TABLE)
        runs.append(params.run)
        return {"days": len(runs)}

    monkeypatch.setenv("RECSYS_STORAGE__ROOT", settings.storage.root)
    monkeypatch.setattr(trending, "main", main)
    return runs


def run(name: str, *options: str) -> None:
    assert stage.run("trending", ["--day", str(DAY), "--run", name, *options]) is Exit.OK


def test_a_second_run_keeps_the_first_ones_result(settings: Settings, made: list[RunId]) -> None:
    run("first")
    run("second")
    assert made == ["first"]
    found = stage.result_of(settings, RunId("second"), "trending")
    assert (found["days"], found["made_by"]) == (1, "first")


def test_events_of_a_later_day_change_nothing(settings: Settings, made: list[RunId]) -> None:
    run("first")
    datasets.lake(settings).write(datasets.EVENTS, DAY + timedelta(days=1), TABLE)
    run("second")
    assert made == ["first"]


@pytest.mark.parametrize("dataset", [datasets.EVENTS, datasets.ITEMS, datasets.TRENDING], ids=lambda d: d.name)
def test_what_was_read_or_made_and_then_replaced_is_made_anew(
    settings: Settings, made: list[RunId], dataset: datasets.Dataset
) -> None:
    run("first")
    datasets.lake(settings).write(dataset, DAY, pa.table({"n": [1, 2, 3]}))
    run("second")
    run("third")
    assert made == ["first", "second"]


@pytest.mark.usefixtures("settings")
def test_other_parameters_are_another_result(made: list[RunId]) -> None:
    run("first")
    run("second", "--half-life-days", "3")
    assert made == ["first", "second"]


@pytest.mark.usefixtures("settings")
def test_a_person_can_have_it_made_anew(made: list[RunId]) -> None:
    run("first")
    run("second", "--reuse", "false")
    assert made == ["first", "second"]


def test_other_code_makes_it_anew(settings: Settings, made: list[RunId], monkeypatch: pytest.MonkeyPatch) -> None:
    run("first")
    record = datasets.lake(settings).root / "lake" / "_kept" / "trending" / f"day={DAY}.json"
    kept = json.loads(record.read_text())
    monkeypatch.setattr("pipelines.reuse._code", lambda: "other")
    run("second")
    assert made == ["first", "second"]
    assert json.loads(record.read_text())["digest"] != kept["digest"]
