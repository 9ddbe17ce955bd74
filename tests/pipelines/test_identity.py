"""Where id embeddings start: from who saw what, and not from how a processor rounds."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn.utils.extmath
from numpy.typing import NDArray

from models.vocabulary import FIRST
from pipelines import corpus

SEED = 7
# Four groups of users, each with its own three items: four equal singular values, whose vectors may turn freely.
TWINS = np.kron(np.eye(4), np.ones((6, 3)))


def seen(pairs: NDArray[Any]) -> scipy.sparse.csr_matrix:
    """[users, items] as the corpus has it: no user has the rows for padding and the unknown."""
    return scipy.sparse.csr_matrix(np.hstack([np.zeros((len(pairs), FIRST)), pairs]).astype(np.float32))


def noisy() -> NDArray[Any]:
    return (np.random.default_rng(1).random((60, 25)) < 0.2).astype(float)


@pytest.mark.parametrize("pairs", [TWINS, noisy()], ids=["equal values", "distinct values"])
@pytest.mark.parametrize("dim", [2, 4, 8])
def test_signs_and_turns_of_the_library_change_nothing(
    pairs: NDArray[Any], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = sklearn.utils.extmath.randomized_svd
    before = corpus.identity(seen(pairs), dim, SEED)

    def turned(*args: Any, **options: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        left, strength, right = exact(*args, **options)
        turn = np.diag(np.where(np.arange(len(strength)) % 2, -1.0, 1.0))
        for value in np.unique(strength.round(6)):
            same = np.flatnonzero(strength.round(6) == value)
            angle = np.random.default_rng(3).standard_normal((len(same), len(same)))
            turn[np.ix_(same, same)] = np.linalg.qr(angle)[0]
        return left @ turn.T, strength, turn @ right

    monkeypatch.setattr(sklearn.utils.extmath, "randomized_svd", turned)
    np.testing.assert_allclose(corpus.identity(seen(pairs), dim, SEED), before, atol=1e-5)


def test_items_of_the_same_users_start_alike_and_others_apart() -> None:
    start = corpus.identity(seen(TWINS), 4 + 1, SEED)[FIRST:]
    np.testing.assert_allclose(start @ start.T, np.kron(np.eye(4), np.ones((3, 3))), atol=1e-5)


def test_rows_without_an_item_or_an_event_start_at_nothing() -> None:
    pairs = noisy()
    pairs[:, 5] = 0
    start = corpus.identity(seen(pairs), 8, SEED)
    assert not start[:FIRST].any()
    np.testing.assert_allclose(start[FIRST + 5], 0, atol=1e-6)
