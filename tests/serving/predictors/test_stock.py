"""Search over the index and what stands beside it gives what one exact search over all that is sold would."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.changes import Change, Overlay
from models.index import Index
from serving.predictors import stock
from serving.predictors.stock import Stock

SOLD = {"available": True}


def unit(count: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


INDEX = Index.build([f"i{n}" for n in range(200)], unit(200, 1))
BESIDE = unit(20, 2)


@given(
    gone=st.sets(st.integers(0, 199), max_size=199),
    new=st.integers(0, 20),
    k=st.integers(1, 250),
    left_out=st.integers(-1, 219),
    seed=st.integers(0, 99),
)
def test_it_is_the_exact_search_over_what_is_sold(gone: set[int], new: int, k: int, left_out: int, seed: int) -> None:
    left_out = min(left_out, 200 + new - 1)
    overlay = Overlay({f"i{n}": Change(n, None) for n in gone})
    found = Stock.of(INDEX, overlay, {f"n{n}": BESIDE[n] for n in range(new)})
    query = unit(1, 100 + seed)
    rows, scores = found.search(query, k, left_out)
    every = np.concatenate([INDEX.vectors, BESIDE[:new]]) @ query[0]
    sold = [row for row in np.argsort(-every, kind="stable").tolist() if row not in gone and row != left_out]
    np.testing.assert_allclose(scores, every[sold[:k]], atol=1e-6)
    assert len(set(rows.tolist())) == len(rows)
    assert set(rows.tolist()) <= set(sold)
    np.testing.assert_allclose(found.vectors[rows] @ query[0], scores, atol=1e-6)


def test_an_item_that_the_index_holds_needs_no_place_beside_it() -> None:
    found = Stock.of(INDEX, Overlay({"i5": Change(1, SOLD), "x": Change(2, None)}), {})
    assert (found.ids is INDEX.ids, found.vectors is INDEX.vectors, found.gone.any()) == (True, True, False)


def test_rows_are_counted_through() -> None:
    found = Stock.of(INDEX, Overlay({"i3": Change(1, {"available": False})}), {"new": BESIDE[0]})
    assert [found.row(item) for item in ("i0", "i3", "new", "who")] == [0, 3, 200, -1]
    assert found.ids[[3, 200]].tolist() == ["i3", "new"]
    rows, scores = found.search(BESIDE[:1], 3)
    assert rows[0] == 200
    np.testing.assert_allclose(scores[0], 1.0, rtol=1e-6)
    assert found.search(BESIDE[:1], 3, 200)[0][0] != 200


def test_few_gone_items_cost_no_second_search() -> None:
    asked = []

    class Counting:
        ids, row_of, dim, vectors = INDEX.ids, INDEX.row_of, INDEX.dim, INDEX.vectors

        def __len__(self) -> int:
            return len(INDEX)

        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            asked.append(k)
            return INDEX.search(queries, k)

    worst_first = INDEX.ids[np.argsort(INDEX.vectors @ BESIDE[0])]
    away = Overlay({item: Change(1, None) for item in worst_first[:100]})
    Stock.of(Counting(), away, {}).search(BESIDE[:1], 10)  # type: ignore[arg-type]
    assert asked == [10 + stock.SPARE]
