"""Search is exact where it says so, close where it approximates, and refuses what is broken."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import embeddings, index


def vectors(count: int, dim: int = 16, seed: int = 1) -> NDArray[np.float32]:
    """Unit vectors in clusters, as real embeddings are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dim))
    found = centres[rng.integers(0, 20, count)] + 0.5 * rng.normal(size=(count, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def ids(count: int) -> list[str]:
    return [f"i{n}" for n in range(count)]


def test_four_items_by_hand() -> None:
    items = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)
    found = index.Index.build(["east", "north", "northeast", "west"], items)
    rows, scores = found.search(np.array([[1, 0]], np.float32), 3)
    assert [found.ids[row] for row in rows[0]] == ["east", "northeast", "north"]
    np.testing.assert_allclose(scores[0], [1, 0.6, 0], atol=1e-6)
    assert found.rows(["west", "nowhere"]).tolist() == [3, -1]


def test_equal_scores_come_by_row_and_k_beyond_the_catalogue_gives_all() -> None:
    found = index.Index.build(ids(5), np.tile(np.array([[0, 1]], np.float32), (5, 1)))
    rows, _ = found.search(np.array([[0, 1]], np.float32), 50)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 10_000))
def test_a_small_index_equals_exact_search(count: int, k: int, seed: int) -> None:
    items, queries = vectors(count, 6, seed), vectors(3, 6, seed + 1)
    rows, scores = index.Index.build(ids(count), items).search(queries, k)
    truth, best = index.exact_search(items, queries, k)
    np.testing.assert_allclose(scores, best, atol=1e-6)
    assert (rows == truth).mean() > 0.9 or np.allclose(scores, best)  # near-ties may swap


def test_exact_search_in_blocks_equals_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    items, queries = vectors(50), vectors(7, seed=2)
    whole = index.exact_search(items, queries, 10)
    monkeypatch.setattr(index, "BLOCK", 100)
    for one, other in zip(whole, index.exact_search(items, queries, 10), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_settings_follow_the_item_count() -> None:
    assert index.settings_for(5_000, 128).leaves == 0
    assert index.settings_for(1_000_000, 128) == index.Settings(1000, 60, 2000)
    assert index.settings_for(100_000, 127).leaves == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(index.EXACT_BELOW, 100_000_000))
def test_a_tree_visits_some_of_its_leaves(count: int) -> None:
    chosen = index.settings_for(count, 128)
    assert 1 <= chosen.leaves_to_search <= chosen.leaves <= count


@pytest.fixture(scope="module")
def tree() -> index.Index:
    return index.Index.build(ids(21_000), vectors(21_000))


def test_a_tree_finds_what_exact_search_finds(tree: index.Index) -> None:
    assert tree.settings.leaves > 0
    queries = vectors(50, seed=3)
    rows, _ = tree.search(queries, 100)
    truth, _ = index.exact_search(tree.vectors, queries, 100)
    recall = np.mean([len(set(a) & set(b)) / 100 for a, b in zip(rows, truth, strict=True)])
    assert recall > 0.95


def test_the_same_vectors_give_the_same_tree(tree: index.Index) -> None:
    again = index.Index.build(tree.ids, tree.vectors)
    queries = vectors(20, seed=4)
    for one, other in zip(tree.search(queries, 50), again.search(queries, 50), strict=True):
        np.testing.assert_array_equal(one, other)


def test_leaves_that_hold_too_few_say_so() -> None:
    # Two leaves of which one is visited, and more asked than it can hold.
    found = index.Index.build(ids(200), vectors(200), index.Settings(2, 1, 400))
    rows, scores = found.search(vectors(1, seed=5), 200)
    short = rows[0] == -1
    assert short.any()
    assert np.isneginf(scores[0][short]).all()
    assert not short[: (~short).sum()].any()


@pytest.mark.parametrize("count", [300, 21_000])
def test_save_and_load_answer_alike_even_after_a_move(count: int, tmp_path: Path, tree: index.Index) -> None:
    built = tree if count == len(tree) else index.Index.build(ids(count), vectors(count))
    (tmp_path / "a").mkdir()
    built.save(tmp_path / "a")
    loaded = index.Index.load((tmp_path / "a").rename(tmp_path / "b"))
    assert loaded.settings == built.settings
    assert isinstance(loaded.vectors.base, np.memmap)
    assert not list((tmp_path / "b").rglob("*.pkl"))
    for one, other in zip(built.search(vectors(9), 20), loaded.search(vectors(9), 20), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_broken_build_is_refused() -> None:
    good = vectors(3)
    with pytest.raises(embeddings.BadIndex, match="2 ids for 3 vectors"):
        index.Index.build(["a", "b"], good)
    with pytest.raises(embeddings.BadIndex, match="1 ids occur twice"):
        index.Index.build(["a", "b", "a"], good)
    with pytest.raises(embeddings.BadIndex, match="must be a float32 matrix with rows"):
        index.Index.build([], good[:0])
    holed = good.copy()
    holed[1, 0] = np.nan
    with pytest.raises(embeddings.BadIndex, match="1 of 3 vectors hold NaN"):
        index.Index.build(["a", "b", "c"], holed)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    index.Index.build(ids(100), vectors(100)).save(tmp_path)
    return tmp_path


def test_load_refuses_parts_of_different_builds(saved: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"item_id": ids(99)}), saved / "ids.parquet")
    with pytest.raises(embeddings.BadIndex, match="99 ids for 100 vectors"):
        index.Index.load(saved)


def test_load_refuses_nan_and_another_dimension(saved: Path) -> None:
    items = vectors(100)
    items[7] = np.nan
    np.save(saved / "embeddings.npy", items)
    with pytest.raises(embeddings.BadIndex, match="hold NaN"):
        index.Index.load(saved)
    np.save(saved / "embeddings.npy", vectors(100, dim=8))
    with pytest.raises(embeddings.BadIndex, match="dimension 8"):
        index.Index.load(saved)


def test_load_refuses_fewer_vectors_in_scann(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    np.save(saved / "embeddings.npy", vectors(50))
    pyarrow.parquet.write_table(pa.table({"item_id": ids(50)}), saved / "ids.parquet")
    with pytest.raises(embeddings.BadIndex, match="ScaNN holds 100 vectors"):
        index.Index.load(saved)


@pytest.mark.parametrize("name", ["embeddings.npy", "ids.parquet", "settings.json", "scann/scann_assets.pbtxt"])
def test_load_names_a_file_that_is_gone(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(embeddings.BadIndex, match="build the index again"):
        index.Index.load(saved)


def test_settings_on_disk_can_be_read_by_people(saved: Path) -> None:
    assert json.loads((saved / "settings.json").read_text()) == {"leaves": 0, "leaves_to_search": 0, "reorder": 0}
