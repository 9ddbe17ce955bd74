"""When a stage keeps what an earlier run made, and when it must not."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import datasets, features, quality, reuse, stage, train_ranker, trending
from pipelines.datasets import RunId
from recsys.errors import Exit
from recsys.settings import REPOSITORY, Settings

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
    record = datasets.lake(settings).record("trending", DAY)
    kept = json.loads(record.read_text())
    monkeypatch.setattr("pipelines.reuse._code", lambda: "other")
    run("second")
    assert made == ["first", "second"]
    assert json.loads(record.read_text())["digest"] != kept["digest"]


def test_a_torn_record_makes_it_anew(settings: Settings, made: list[RunId]) -> None:
    run("first")
    datasets.lake(settings).record("trending", DAY).write_text('{"digest": "')
    run("second")
    run("third")
    assert made == ["first", "second"]


@pytest.mark.parametrize("lost", ["models/m", "runs/first/rows"])
def test_a_model_or_its_rows_that_were_deleted_are_made_anew(
    settings: Settings, made: list[RunId], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    tables, root = trending.main, Path(settings.storage.root)
    places = {"artifact": {"path": "models/m"}, "examples": "runs/first/rows"}

    def main(params: trending.Params, told: Settings) -> stage.Result:
        for place in ("models/m", "runs/first/rows"):
            (root / place).mkdir(parents=True, exist_ok=True)
        return tables(params, told) | places

    monkeypatch.setattr(trending, "main", main)
    run("first")
    run("second")
    assert made == ["first"]
    (root / lost).rmdir()
    run("third")
    assert made == ["first", "third"]


def test_the_ranker_is_kept_while_towers_and_data_stay(settings: Settings) -> None:
    lake = datasets.lake(settings)
    for dataset in (*datasets.CLEAN.values(), datasets.feature_view("user_history")):
        lake.write(dataset, DAY, TABLE)

    def digest(run: str, towers: str = "t1", seed: int = 7, **options: Any) -> str:
        folder = datasets.run_folder(settings, RunId(run))
        folder.mkdir(parents=True)
        (folder / "features.json").write_text('{"allow_repeats": true}')
        (folder / "train_retrieval.json").write_text(json.dumps({"artifact": {"version": towers}}))
        params = train_ranker.Params(day=DAY, run=RunId(run), **options)
        return train_ranker.touches(params, settings.model_copy(update={"seed": seed})).digest()

    first = digest("first")
    lake.write(datasets.feature_view("item_embedding"), DAY, TABLE)  # by a deployment since
    assert digest("second") == first
    assert len({first, digest("a", towers="t2"), digest("b", seed=8), digest("c", listwise=1.0)}) == 4
    lake.write(datasets.feature_view("user_history"), DAY, pa.table({"n": [3]}))
    assert digest("third") != first


@pytest.mark.parametrize(
    ("name", "later"),
    [
        ("train_retrieval", {"pipelines.tower_training", "models.two_tower", "models.towers"}),
        ("train_ranker", {"pipelines.ranker_training", "models.ranker", "models.forest"}),
    ],
)
def test_a_training_that_is_kept_loads_no_tensorflow_and_knows_its_code_all_the_same(
    name: str, later: set[str]
) -> None:
    script = f"import sys; from pipelines import {name}; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(told.stdout.split())
    assert f"pipelines.{name}" in loaded
    assert not loaded & {"tensorflow", "tf_keras", "tensorflow_recommenders", *later}
    code = reuse.modules([f"pipelines.{name}"])
    assert {module for module in loaded if module.partition(".")[0] in reuse.PACKAGES} | later <= set(code)
    assert code["models.artifact"] == REPOSITORY / "models" / "artifact.py"
    assert not {"pipelines.deploy", "recsys.cli"} & set(code), "what a stage does not import is not its code"


@pytest.fixture
def computed(settings: Settings) -> datasets.Lake:
    """Two published days, the features of both, and sequences."""
    lake = datasets.lake(settings)
    views = [datasets.feature_view(name) for name in features.VIEWS]
    for dataset in (*datasets.CLEAN.values(), *views, datasets.SEQUENCES):
        for day in (DAY - timedelta(days=1), DAY):
            lake.write(dataset, day, TABLE)
    return lake


def of_features(settings: Settings, run: str = "r", **options: Any) -> str:
    return features.touches(features.Params(day=DAY, run=RunId(run), **options), settings).digest()


@pytest.mark.parametrize("back", [0, 1])
@pytest.mark.parametrize(
    "dataset", [*datasets.CLEAN.values(), *map(datasets.feature_view, features.VIEWS)], ids=lambda d: d.name
)
def test_features_look_at_every_day_that_they_read_or_made(
    settings: Settings, computed: datasets.Lake, dataset: datasets.Dataset, back: int
) -> None:
    before = of_features(settings)
    computed.write(dataset, DAY - timedelta(days=back), pa.table({"n": [3]}))
    assert of_features(settings) != before


def test_features_make_the_sequences_of_one_day(settings: Settings, computed: datasets.Lake) -> None:
    before = of_features(settings)
    computed.write(datasets.SEQUENCES, DAY - timedelta(days=1), pa.table({"n": [3]}))
    assert of_features(settings) == before
    shutil.rmtree(computed.path(datasets.SEQUENCES, DAY))
    assert of_features(settings) != before


def test_features_know_a_day_that_is_published_late_and_none_to_come(
    settings: Settings, computed: datasets.Lake
) -> None:
    before = of_features(settings)
    for dataset in (datasets.EVENTS, datasets.feature_view("item_stats")):
        computed.write(dataset, DAY + timedelta(days=1), TABLE)
    computed.write(datasets.feature_view("item_embedding"), DAY, TABLE)  # by a later stage, from the towers
    assert of_features(settings) == before
    computed.write(datasets.EVENTS, DAY - timedelta(days=7), TABLE)
    assert of_features(settings) != before


@pytest.mark.usefixtures("computed")
def test_features_are_others_for_other_days_to_fill_and_not_for_another_run(settings: Settings) -> None:
    assert of_features(settings, "other") == of_features(settings)
    assert of_features(settings, history_days=9) != of_features(settings)


def test_what_was_replaced_while_a_stage_read_it_is_read_anew(
    settings: Settings, made: list[RunId], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, tables = datasets.lake(settings), trending.main

    def main(params: trending.Params, told: Settings) -> stage.Result:
        result = tables(params, told)
        if params.run == "first":
            lake.write(datasets.EVENTS, DAY, pa.table({"n": [1, 2, 3]}))
        return result

    touches = trending.touches
    monkeypatch.setattr(trending, "main", main)
    monkeypatch.setattr(trending, "touches", lambda *told: replace(touches(*told), writes=()))
    for name in ("first", "second", "third"):
        run(name)
    assert made == ["first", "second"]


def test_the_first_load_of_an_empty_lake_is_kept_as_well(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, runs = datasets.lake(settings), []

    def main(params: quality.Params, _: Settings) -> stage.Result:
        lake.write(datasets.EVENTS, params.day, TABLE)
        runs.append(params.run)
        return {"days": 1}

    monkeypatch.setenv("RECSYS_STORAGE__ROOT", settings.storage.root)
    monkeypatch.setattr(quality, "main", main)
    for name in ("first", "second"):
        folder = datasets.run_folder(settings, RunId(name))
        folder.mkdir(parents=True)
        (folder / "ingest.json").write_text('{"source": "canonical:x", "fingerprint": "f1", "since_asked": null}')
        assert stage.run("quality", ["--day", str(DAY), "--run", name]) is Exit.OK
    assert runs == ["first"]


@pytest.mark.parametrize("other", [{"fingerprint": "f2"}, {"since_asked": "2026-03-01"}, {"source": "bus"}], ids=str)
def test_quality_knows_its_batch_by_what_ingest_took(settings: Settings, other: dict[str, str]) -> None:
    taken = {"source": "canonical:x", "fingerprint": "f1", "since_asked": None}

    def digest(name: str, told: dict[str, str | None]) -> str:
        folder = datasets.run_folder(settings, RunId(name))
        folder.mkdir(parents=True)
        (folder / "ingest.json").write_text(json.dumps(told))
        return quality.touches(quality.Params(day=DAY, run=RunId(name)), settings).digest()

    first = digest("first", taken)
    assert digest("second", dict(taken)) == first
    assert digest("third", taken | other) != first
