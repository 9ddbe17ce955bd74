"""The contract of a trained retrieval model, on a shop of two tastes, and the gate that judges it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import tiny_shop

from feature_repo import names, transforms
from models import artifact, two_tower, vocabulary
from pipelines import corpus, datasets, evaluate_retrieval, split, stage, tower_training, tracking, train_retrieval
from pipelines.datasets import RunId
from recsys.errors import Exit
from recsys.settings import REPOSITORY, Services, Settings, Storage, child_environment

RUN = RunId("tiny")
OPTIONS: dict[str, Any] = {"epochs": 5, "dim": 32, "batch_size": 64, "history_length": 20, "moments": 3}
NOW = datasets.end_of(tiny_shop.LAST).timestamp()


@dataclass(frozen=True)
class World:
    settings: Settings
    result: dict[str, Any]
    towers: two_tower.Towers


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A lake, and the model that the stage trained on it."""
    root = tmp_path_factory.mktemp("tiny")
    services = Services(mlflow_url=f"sqlite:///{root}/mlflow.db")
    settings = Settings(storage=Storage(root=str(root)), services=services)
    tiny_shop.write(datasets.lake(settings))
    result = train(settings, RUN)
    return World(settings, result, two_tower.Towers.load(opened(settings, result).path))


def train(settings: Settings, run: RunId, **options: Any) -> dict[str, Any]:
    params = train_retrieval.Params(day=tiny_shop.LAST, run=run, **{**OPTIONS, **options})
    folder = begun(settings, run)
    result = train_retrieval.main(params, settings)
    assert result is not None
    (folder / "train_retrieval.json").write_text(json.dumps(result, default=str))
    return result


def begun(settings: Settings, run: RunId) -> Path:
    """The folder of a run whose features are made."""
    folder = datasets.run_folder(settings, run)
    folder.mkdir(parents=True)
    (folder / "features.json").write_text('{"allow_repeats": true}')
    return folder


def opened(settings: Settings, result: dict[str, Any]) -> artifact.Artifact:
    return artifact.load(Path(settings.storage.root) / result["artifact"]["path"], kind="retrieval")


def users(world: World, histories: list[list[str]], region: str = "DE") -> np.ndarray[Any, Any]:
    n = len(histories)
    times = [[int(NOW) - 3600 * (len(h) - k) for k in range(len(h))] for h in histories]
    inputs = transforms.user_tower_inputs(
        histories,
        [["purchase"] * len(h) for h in histories],
        times,
        region=[region] * n,
        age_group=[None] * n,
        preferences=[None] * n,
        now=np.full(n, NOW),
        length=20,
    )
    return world.towers.users(inputs)


def items(world: World, ids: list[str], kinds: list[str]) -> np.ndarray[Any, Any]:
    inputs = transforms.item_tower_inputs(
        item_id=ids,
        title=[f"Fine {kind} of design 3" for kind in kinds],
        category=[f"Home > {kind.title()}s" for kind in kinds],
        brand=[f"{kind} works" for kind in kinds],
        tags=[[kind, "gift"] for kind in kinds],
        price=[8.0] * len(ids),
        created=np.full(len(ids), NOW - 1e6),
        stats=np.zeros((len(ids), len(names.ITEM_STATS)), np.float32),
        now=NOW,
    )
    return world.towers.items(inputs)


@pytest.mark.parametrize(
    ("events", "items", "epochs"),
    [
        (90_000, 10_000, 2),  # 9 events an item are soon learnt by heart: 0.6 times the root is 1.8
        (100_000, 1_000, 6),
        (400_000, 1_600, 5),  # 9 by the root, and 5 times 400,000 are two million
        (20_000_000, 100_000, 2),
    ],
)
def test_the_more_events_an_item_has_the_more_epochs(events: int, items: int, epochs: int) -> None:
    nothing = vocabulary.learn([str(item) for item in range(items)], {"category": [], "tags": [], "brand": []}, [], [])
    seen = scipy.sparse.csr_matrix(([1.0] * 3, ([0, 1, 2], [2, 2, 2])), shape=(3, items + 2), dtype=np.float32)
    counted = corpus.Census(nothing, np.zeros(items + 2, np.float32), seen, first_time=0.0, events=events)
    params = train_retrieval.Params(day=tiny_shop.LAST, run=RUN)
    cutoff = datetime(1970, 12, 31, tzinfo=UTC)
    assert tower_training.settle(params, counted, cutoff).epochs == epochs
    told = params.model_copy(update={"epochs": 7})
    assert tower_training.settle(told, counted, cutoff).epochs == 7


def test_split_is_the_last_twelfth(world: World) -> None:
    found = split.holdout(datasets.lake(world.settings), tiny_shop.LAST)
    assert found.end == datasets.end_of(tiny_shop.LAST)
    assert found.days == 2


def test_artifact_says_how_to_call_it(world: World) -> None:
    meta = opened(world.settings, world.result).manifest.meta
    assert (meta["dim"], meta["history_length"], meta["stats"]) == (32, 20, list(names.ITEM_STATS))
    assert meta["vocabulary"]["items"] == 2 * tiny_shop.EACH + 2


def test_towers_tell_the_two_tastes_apart(world: World) -> None:
    mugs, lamps = users(world, [["mug-1", "mug-2"], ["lamp-1", "lamp-2"]])
    mug, lamp = items(world, ["mug-4", "lamp-4"], ["mug", "lamp"])
    assert mugs @ mug > mugs @ lamp
    assert lamps @ lamp > lamps @ mug


def test_item_without_id_is_embedded_from_content(world: World) -> None:
    unknown_mug, unknown_lamp = items(world, ["never-seen-1", "never-seen-2"], ["mug", "lamp"])
    mugs, lamps = users(world, [["mug-1", "mug-2", "mug-3"], ["lamp-1", "lamp-2", "lamp-3"]])
    assert mugs @ unknown_mug > mugs @ unknown_lamp
    assert lamps @ unknown_lamp > lamps @ unknown_mug


@pytest.mark.parametrize("history", [[], ["no-such-item"], ["mug-1"], ["mug-1"] * 50])
def test_any_history_gives_a_unit_vector(world: World, history: list[str]) -> None:
    (vector,) = users(world, [history], region="Atlantis")
    assert vector.shape == (32,)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)


def test_unknown_items_of_a_history_say_nothing(world: World) -> None:
    empty, unknown = users(world, [[], ["no-such-item"]])
    np.testing.assert_allclose(unknown, empty, atol=1e-6)


def test_padding_changes_nothing(world: World) -> None:
    alone = users(world, [["mug-1"]])
    beside = users(world, [["mug-1"], ["lamp-1"] * 15])
    np.testing.assert_allclose(beside[:1], alone, atol=1e-5)


def test_items_do_not_depend_on_their_batch(world: World) -> None:
    together = items(world, ["mug-1", "new", "lamp-2"], ["mug", "mug", "lamp"])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-4)
    np.testing.assert_allclose(items(world, ["new"], ["mug"]), together[1:2], atol=1e-5)


def test_training_again_gives_the_same_model(world: World) -> None:
    again = train(world.settings, RunId("again"))
    assert again["metrics"]["last"] == world.result["metrics"]["last"]
    other = World(world.settings, again, two_tower.Towers.load(opened(world.settings, again).path))
    probe = [["mug-1", "mug-2"], []]
    np.testing.assert_array_equal(users(other, probe), users(world, probe))


def test_sampled_softmax_learns_too(world: World) -> None:
    sampled = train(world.settings, RunId("sampled"), negatives=8, epochs=3)
    other = World(world.settings, sampled, two_tower.Towers.load(opened(world.settings, sampled).path))
    (mugs,) = users(other, [["mug-1", "mug-2", "mug-3"]])
    mug, lamp = items(other, ["mug-4", "lamp-4"], ["mug", "lamp"])
    assert mugs @ mug > mugs @ lamp


def test_a_run_with_nothing_new_keeps_the_towers_and_says_whose_they_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_STORAGE__ROOT", world.settings.storage.root)
    monkeypatch.setenv("RECSYS_SERVICES__MLFLOW_URL", world.settings.mlflow_url)

    def made(run: str, **options: Any) -> dict[str, Any]:
        begun(world.settings, RunId(run))
        told = {"day": tiny_shop.LAST, "run": run, **OPTIONS, "epochs": 1, **options}
        assert stage.run("train_retrieval", [f"--{n.replace('_', '-')}={v}" for n, v in told.items()]) is Exit.OK
        return stage.result_of(world.settings, RunId(run), "train_retrieval")

    first, second = made("one"), made("two")
    assert second["artifact"] == first["artifact"]
    client, _ = tracking.connect(world.settings)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    (logged,) = client.search_runs(
        [experiment.experiment_id], f"tags.`{tracking.RUN_TAG}` = 'two' AND tags.`{tracking.KEPT_TAG}` = 'one'"
    )
    assert logged.data.metrics["last/loss"] == pytest.approx(first["metrics"]["last"]["loss"])
    assert [file.path for file in client.list_artifacts(logged.info.run_id)] == ["loss.png"]
    assert made("three", layers=0)["artifact"] != first["artifact"], "other parameters"


# The last days of this shop are too few to watch; here they are watched all the same.
WORKER = """
import sys
from pipelines import stage, tower_training
tower_training.FEWEST_WATCHED = 1
sys.exit(stage.run("train_retrieval", sys.argv[1:]))
"""


@pytest.fixture
def pair(world: World, port_block: Callable[[], int], tmp_path: Path) -> Callable[..., list[str]]:
    """Trains on two processes of this machine; returns what each printed, that of the chief first."""

    def trained(run: RunId, **options: Any) -> list[str]:
        begun(world.settings, run)
        named = {"day": tiny_shop.LAST, "run": run, **OPTIONS, **options}
        given = [f"--{name.replace('_', '-')}={value}" for name, value in named.items()]
        first = port_block()
        cluster = {"worker": [f"127.0.0.1:{port}" for port in (first, first + 1)]}
        processes = []
        try:
            for index in range(2):
                config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
                environment = child_environment(
                    world.settings,
                    RECSYS_SERVICES__MLFLOW_URL=world.settings.mlflow_url,
                    TF_CONFIG=config,
                    PYTHONPATH=str(REPOSITORY),
                )
                with (tmp_path / f"{index}.log").open("w") as log:
                    command = [sys.executable, "-c", WORKER, *given]
                    processes.append(
                        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
                    )
            told = [process.communicate(timeout=400)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        logs = [(tmp_path / f"{index}.log").read_text()[-3000:] for index in range(2)]
        assert [process.returncode for process in processes] == [0, 0], logs
        return told

    return trained


def test_two_workers_learn_what_one_process_does(
    world: World, pair: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tower_training, "FEWEST_WATCHED", 1)
    # Odd batches, which two workers cannot halve; what is dropped at random would not be the same.
    without_chance = dict.fromkeys(("history_dropout", "short_histories", "id_dropout", "dropout"), 0)
    options = {"epochs": 2, "batch_size": 63, "layers": 0, **without_chance}
    alone = train(world.settings, RunId("alone"), **options)
    chief, other = pair(RunId("together"), **options)
    together = json.loads(chief)
    assert together["metrics"]["last"] == pytest.approx(alone["metrics"]["last"], rel=1e-4)
    assert together["metrics"]["last"].keys() >= {"loss", "val_loss", "val_recall@100"}
    assert together["metrics"]["examples"] == alone["metrics"]["examples"]
    both = (two_tower.Towers.load(opened(world.settings, result).path) for result in (together, alone))
    mine, theirs = (users(World(world.settings, {}, towers), [["mug-1", "lamp-2"], []]) for towers in both)
    np.testing.assert_allclose(mine, theirs, atol=1e-3)
    assert other == "", "only the chief has a result"
    models = sorted(path.name for path in datasets.models_folder(world.settings).glob("retrieval/together*"))
    assert models == [together["artifact"]["version"]]


KERNELS = ("Prescott", "Haswell", "Zen", "SkylakeX", "ARMV8", "NEOVERSEN1")  # of OpenBLAS
ARCHITECTURE = "import numpy, threadpoolctl as t; print(t.ThreadpoolController().select(user_api='blas').info())"


def kernels() -> list[str]:
    """Core types by which OpenBLAS computes differently on this processor."""
    named = {}
    for kernel in KERNELS:
        environment = os.environ | {"OPENBLAS_CORETYPE": kernel}
        command = [sys.executable, "-c", ARCHITECTURE]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        named.setdefault(told.partition("'architecture': ")[2].partition("}")[0], kernel)
    return list(named.values())


def test_the_kernels_of_a_processor_change_no_figure(world: World) -> None:
    found = kernels()
    if len(found) < 2:
        pytest.skip(f"OpenBLAS has one kernel for this processor: {found}")
    figures = []
    for kernel in found[:2]:
        run = RunId(f"on-{kernel}")
        begun(world.settings, run)
        options = {"day": tiny_shop.LAST, "run": run, **OPTIONS}
        given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        environment = child_environment(
            world.settings,
            OPENBLAS_CORETYPE=kernel,
            RECSYS_SERVICES__MLFLOW_URL=world.settings.mlflow_url,
            PYTHONPATH=str(REPOSITORY),
        )
        command = [sys.executable, "-c", WORKER, *given]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        figures.append(json.loads(done.stdout)["metrics"]["last"])
    assert figures[0] == pytest.approx(figures[1], abs=1e-3)


def test_gate_passes_a_good_model_and_draws(world: World) -> None:
    result = evaluate_retrieval.main(evaluate_retrieval.Params(day=tiny_shop.LAST, run=RUN), world.settings)
    assert result["passed"], result["reasons"]
    figures = result["metrics"]["views"]["all"]
    assert figures["two towers"]["recall@20"] > figures["popularity"]["recall@20"]
    assert result["metrics"]["slices"]["20+ events"]["users"] == tiny_shop.USERS
    drawn = {path.name for path in (datasets.run_folder(world.settings, RUN) / "evaluate_retrieval").iterdir()}
    assert drawn == {"recall_all.png", "recall_new.png", "slices.png"}


def test_gate_can_be_made_stricter(world: World) -> None:
    params = evaluate_retrieval.Params(day=tiny_shop.LAST, run=RUN, min_recall=1.0)
    unreachable = params.model_copy(update={"min_recall": 1.01})
    result = evaluate_retrieval.main(unreachable, world.settings)
    assert not result["passed"]
    assert any(reason.startswith("FAILED") and "demanded" in reason for reason in result["reasons"])
