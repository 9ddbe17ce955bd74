"""The index is built whole, passes its gate, and is refused in each way in which it can be wrong."""

import json
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import fake_models
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from models import artifact, catalogue, embeddings, index, release
from pipelines import build_index, datasets, validate_index
from recsys.errors import BadData
from recsys.settings import Settings, Storage

DAY = date(2024, 3, 9)
RUN = datasets.RunId("r1")


def keep(settings: Settings, stage: str, result: dict[str, Any], run: datasets.RunId = RUN) -> None:
    folder = datasets.run_folder(settings, run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stage}.json").write_text(json.dumps(result))


def reference(settings: Settings, made: artifact.Artifact) -> dict[str, str]:
    root = Path(settings.storage.root).resolve()
    return {"kind": made.manifest.kind, "version": made.manifest.version, "path": str(made.path.relative_to(root))}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, Any]]:
    """A tiny shop, towers, and the index that build_index makes of them."""
    settings = Settings(storage=Storage(root=str(tmp_path_factory.mktemp("gate") / "var")))
    fake_models.write_shop(settings, DAY)
    trained = fake_models.retrieval(settings, RUN, DAY)
    keep(settings, "train_retrieval", {"artifact": reference(settings, trained)})
    keep(settings, "evaluate_retrieval", {"passed": True, "reasons": []})
    keep(settings, "features", {"allow_repeats": True})
    result = build_index.build(build_index.Params(day=DAY, run=RUN), settings)
    keep(settings, "build_index", result)
    return settings, result


@pytest.fixture
def shop(built: tuple[Settings, dict[str, Any]], tmp_path: Path) -> Settings:
    """A copy that a test may break."""
    shutil.copytree(built[0].storage.root, tmp_path / "var")
    return Settings(storage=Storage(root=str(tmp_path / "var")))


def verdict(settings: Settings, **options: Any) -> dict[str, Any]:
    # Machines that run tests are busy: latency has its own test.
    return validate_index.judge(validate_index.Params(day=DAY, run=RUN, **{"max_p99_ms": 10_000} | options), settings)


def reasons(settings: Settings) -> str:
    found = verdict(settings)
    assert found["passed"] is False
    return " | ".join(found["reasons"])


def opened(settings: Settings, what: str) -> artifact.Artifact:
    result = json.loads((datasets.run_folder(settings, RUN) / "build_index.json").read_text())
    kind: artifact.Kind = "index" if what == "artifact" else "catalogue"
    return artifact.load(Path(settings.storage.root) / result[what]["path"], kind=kind)


def test_a_catalogue_names_what_it_left_out(shop: Settings) -> None:
    made = opened(shop, "catalogue")
    read = catalogue.read(made.path, made.manifest.meta)
    assert (read.unavailable, "i3" in read.row_of) == (frozenset({"i3"}), False)


def rebuilt(settings: Settings, change: Callable[[Path], None]) -> None:
    """An index from a builder that was wrong: other content, and checksums that match it."""
    old = opened(settings, "artifact")
    folder, parents = datasets.models_folder(settings), old.manifest.parents
    with artifact.draft(folder, kind="index", run="broken", as_of=old.manifest.as_of, parents=parents) as draft:
        shutil.copytree(old.path, draft.path, dirs_exist_ok=True)
        (draft.path / artifact.MANIFEST).unlink()
        change(draft.path)
    result = json.loads((datasets.run_folder(settings, RUN) / "build_index.json").read_text())
    keep(settings, "build_index", result | {"artifact": reference(settings, draft.finished)})


def parts(folder: Path) -> tuple[Any, Any]:
    """Ids and vectors of an index, in memory: a mapped file must not be written over."""
    ids, stored = embeddings.read(folder)
    return ids, np.array(stored)


def with_vectors(change: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Path], None]:
    """Make the whole index of changed vectors, as a faulty builder would; what ScaNN refuses is only stored."""

    def apply(folder: Path) -> None:
        ids, vectors = parts(folder)
        changed = change(vectors)
        vectors = vectors if changed is None else changed
        if np.isfinite(vectors).all():
            shutil.rmtree(folder / "scann")
            index.Index.build(ids, vectors).save(folder)
        else:
            np.save(folder / "embeddings.npy", vectors)

    return apply


def test_the_index_holds_the_available_items_in_the_catalogues_order(built: tuple[Settings, dict[str, Any]]) -> None:
    settings, result = built
    assert result["metrics"] | {"items": 119, "dim": fake_models.DIM, "users_embedded": 39} == result["metrics"]
    made, shown = opened(settings, "artifact"), opened(settings, "catalogue")
    found, items = index.Index.load(made.path), catalogue.read(shown.path, shown.manifest.meta)
    assert found.ids.tolist() == items.ids.tolist() == sorted(f"i{n}" for n in range(120) if n != 3)
    assert made.manifest.parents == {"retrieval": fake_models_version(settings)}
    assert items.meta["allow_repeats"] is True
    assert items.popular["region"]["France"] == [["i0", 10.0], ["i1", 9.0], ["i2", 8.0]]


def fake_models_version(settings: Settings) -> str:
    result = json.loads((datasets.run_folder(settings, RUN) / "train_retrieval.json").read_text())
    return str(result["artifact"]["version"])


def test_the_catalogue_has_the_newest_statistics_of_its_day(built: tuple[Settings, dict[str, Any]]) -> None:
    shown = opened(built[0], "catalogue")
    items = catalogue.read(shown.path, shown.manifest.meta)
    popularity = dict(zip(items.ids, items.column("popularity"), strict=True))
    assert popularity["i1"] == 5.0  # not 1.0 of three days before
    assert popularity["i10"] == 0.0  # nothing ever happened
    assert items.column("stats_time")[items.row_of["i10"]] == 0


def test_embeddings_are_written_for_the_feature_store(built: tuple[Settings, dict[str, Any]]) -> None:
    lake = datasets.lake(built[0])
    users = lake.read(datasets.feature_view("user_embedding"), DAY)
    assert set(users.column("user_id").to_pylist()) == {f"u{n}" for n in range(1, 40)}  # u0 was away for 60 days
    assert set(users.column("event_timestamp").to_pylist()) == {datasets.end_of(DAY)}
    items = lake.read(datasets.feature_view("item_embedding"), DAY)
    assert items.num_rows == 119
    np.testing.assert_allclose(np.linalg.norm(items.column("embedding").to_pylist(), axis=1), 1, atol=1e-5)


def test_a_failed_retrieval_gate_builds_nothing(shop: Settings) -> None:
    keep(shop, "evaluate_retrieval", {"passed": False, "reasons": ["recall is low"]})
    with pytest.raises(BadData, match="recall is low"):
        build_index.build(build_index.Params(day=DAY, run=RUN), shop)


def test_a_good_index_passes_and_says_how_good(shop: Settings) -> None:
    found = verdict(shop)
    assert (found["passed"], found["reasons"], found["warnings"]) == (True, [], [])
    metrics = found["metrics"]
    assert metrics["recall_20"] == metrics["recall_100"] == 1.0
    assert metrics["catalogue"]["indexed_share"] == 1.0
    assert metrics["reembedding"]["wrong"] == 0
    assert metrics["sameness"]["overlap"] < 0.9
    assert metrics["found_by_own_vector"] == 1.0
    folder = datasets.run_folder(shop, RUN) / "validate_index"
    assert {"embedding_map.png", "recall.png", "verdict.json"} == {file.name for file in folder.iterdir()}


def test_shuffled_ids_are_refused(shop: Settings) -> None:
    def shuffle(folder: Path) -> None:
        ids, _ = parts(folder)
        pyarrow.parquet.write_table(pa.table({"item_id": ids[::-1].tolist()}), folder / "ids.parquet")

    rebuilt(shop, shuffle)
    assert "ids differ from the catalogue's" in reasons(shop)


def test_shuffled_vectors_under_the_right_ids_are_refused(shop: Settings) -> None:
    rebuilt(shop, with_vectors(lambda v: np.roll(v, 7, axis=0)))
    assert "shuffled ids: 119 of 119 sampled items have the vector of another item" in reasons(shop)


def test_a_zeroed_block_is_refused(shop: Settings) -> None:
    def zero(vectors: np.ndarray[Any, Any]) -> None:
        vectors[10:20] = 0

    rebuilt(shop, with_vectors(zero))
    assert "zeroed vectors: 10 of 119, rows 10 to 19" in reasons(shop)


def test_nan_is_refused(shop: Settings) -> None:
    def spoil(vectors: np.ndarray[Any, Any]) -> None:
        vectors[5, 2] = np.nan

    rebuilt(shop, with_vectors(spoil))
    assert "NaN: 1 of 119 vectors" in reasons(shop)


def test_a_wrong_dimension_is_refused(shop: Settings) -> None:
    rebuilt(shop, with_vectors(lambda v: np.ascontiguousarray(v[:, :8])))
    assert "wrong dimension: vectors are (119, 8), the towers give [n, 64]" in reasons(shop)


def test_constant_vectors_are_refused(shop: Settings) -> None:
    rebuilt(shop, with_vectors(lambda v: np.repeat(v[:1], len(v), axis=0)))
    found = reasons(shop)
    assert "constant vectors: 100% of the items share their vector" in found
    assert "same items for everyone" in found
    assert "collapsed space" in found


def test_vectors_that_are_not_unit_are_refused(shop: Settings) -> None:
    rebuilt(shop, with_vectors(lambda v: v * np.float32(1.01)))
    assert "not unit vectors: 119 of 119" in reasons(shop)


def test_vectors_of_another_runs_tower_are_refused(shop: Settings) -> None:
    other = fake_models.retrieval(shop, "r2", DAY, seed=2)
    from models import two_tower
    from pipelines import embedding

    shown = opened(shop, "catalogue")
    items = catalogue.read(shown.path, shown.manifest.meta).items
    vectors = embedding.embed_items(two_tower.Towers.load(other.path), items, datasets.end_of(DAY))
    rebuilt(shop, with_vectors(lambda _: vectors))
    assert "not the run's tower: 119 of 119 sampled vectors are not its own" in reasons(shop)


def test_an_index_that_names_another_retrieval_model_is_refused(shop: Settings) -> None:
    other = fake_models.retrieval(shop, "r2", DAY, seed=2)
    keep(shop, "train_retrieval", {"artifact": reference(shop, other)})
    assert "was made from retrieval" in reasons(shop)


@pytest.mark.parametrize("name", ["embeddings.npy", "ids.parquet", "scann/dataset.npy"])
def test_a_truncated_file_is_refused(shop: Settings, name: str) -> None:
    file = opened(shop, "artifact").path / name
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{name} does not match its manifest" in reasons(shop)


@pytest.mark.parametrize("name", ["embeddings.npy", "ids.parquet"])
def test_a_file_that_was_truncated_before_its_checksum_is_refused(shop: Settings, name: str) -> None:
    def cut(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])

    rebuilt(shop, cut)
    assert "cannot be read" in reasons(shop)


def test_scann_over_other_vectors_is_refused(shop: Settings) -> None:
    def mismatch(folder: Path) -> None:
        ids, stored = parts(folder)
        shutil.rmtree(folder / "scann")
        index.Index.build(ids, np.roll(stored, 5, axis=0)).save(folder)
        np.save(folder / "embeddings.npy", stored)

    rebuilt(shop, mismatch)
    found = reasons(shop)
    assert "low recall against exact search" in found
    assert "unreachable items" in found


def test_an_index_without_some_available_items_is_refused(shop: Settings) -> None:
    def drop(folder: Path) -> None:
        ids, stored = parts(folder)
        shutil.rmtree(folder / "scann")
        index.Index.build(ids[:-5], stored[:-5]).save(folder)

    rebuilt(shop, drop)
    assert "incomplete: 5 available items are not indexed" in reasons(shop)


def test_a_slow_search_is_refused(shop: Settings) -> None:
    assert verdict(shop, max_p99_ms=0.0001)["reasons"][0].startswith("slow search: p99 is")


def go_live(settings: Settings, index_path: str) -> None:
    some = release.Reference("v", index_path, "")
    record = release.Release(
        release.ReleaseId("old"), "2024-03-08T00:00:00+00:00", "2024-03-08T00:00:00+00:00", "blue",
        {"index": some}, "ranking_v1", None, "deploy",
    )  # fmt: skip
    folder = Path(settings.storage.root) / "releases"
    folder.mkdir()
    (folder / "live.json").write_text(record.to_json())


def test_drift_against_the_live_index_is_measured_and_only_warned_of(shop: Settings, tmp_path: Path) -> None:
    go_live(shop, "live_index")
    live = Path(shop.storage.root) / "live_index"
    shutil.copytree(opened(shop, "artifact").path, live)
    assert verdict(shop)["metrics"]["live"] == {"items": 119, "share_of_size": 1.0, "neighbour_overlap": 1.0}
    _, stored = parts(live)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(stored.shape[1],) * 2))
    np.save(live / "embeddings.npy", (np.array(stored) @ rotation).astype(np.float32))
    assert verdict(shop)["metrics"]["live"]["neighbour_overlap"] > 0.99  # another training's rotation is no drift
    np.save(live / "embeddings.npy", np.random.default_rng(1).permutation(np.array(stored)))
    found = verdict(shop)
    assert found["passed"] is True
    assert found["warnings"][0].startswith("drift: items keep only")
    pyarrow.parquet.write_table(pa.table({"item_id": [f"i{n}" for n in range(500)]}), live / "ids.parquet")
    np.save(live / "embeddings.npy", np.random.default_rng(1).normal(size=(500, 64)).astype(np.float32))
    assert "shrunk: 119 items against 500" in reasons(shop)


def test_the_future_changes_no_vector(shop: Settings) -> None:
    """Statistics of the day after must not be seen by the day before."""
    before = opened(shop, "artifact")
    lake, view = datasets.lake(shop), datasets.feature_view("item_stats")
    later = fake_models.stats(["i1", "i2"], 99.0, datasets.end_of(DAY) + timedelta(days=1))
    lake.write(view, DAY + timedelta(days=1), later)
    lake.write(view, DAY, pa.concat_tables([lake.read(view, DAY), later]))
    build_index.build(build_index.Params(day=DAY, run=RUN), shop)
    again = opened(shop, "catalogue")
    items = catalogue.read(again.path, again.manifest.meta)
    assert items.column("popularity").max() == 5.0
    assert opened(shop, "artifact").digest == before.digest
