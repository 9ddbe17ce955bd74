"""Does a colour answer like a recommender? A handful of requests whose answers anybody could check by eye."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Catalogue
from models.release import Release
from pipelines.backend import Backend
from recsys.errors import Permanent, RecsysError, Retryable
from recsys.inference import (
    HEADS,
    RankingRequest,
    RankingResponse,
    RetrievalRequest,
    RetrievalResponse,
)
from recsys.inference_client import BlockingClient

STRANGER = "smoke-test-nobody"
_K = 50
_DEADLINE = 10.0  # seconds; the first call of a kind may still trace a graph

log = logging.getLogger(__name__)


class SmokeFailure(Permanent):
    """A colour gave an answer that no release may give."""


def test(backend: Backend, release: Release, catalogue: Catalogue, known: Sequence[str]) -> dict[str, int]:
    """Ask the predictors of a release's colour for a known and an unknown user, for similar items and for ranks.

    Args:
        known: user ids that have a history; the first is asked for. Empty where the lake has none.

    Returns: number of candidates by kind of request.

    Raises:
        SmokeFailure: an answer is wrong; the message says which and how.
        Retryable: a predictor or the feature store is away.
    """
    asks = {"unknown user": RetrievalRequest(user_id=STRANGER, k=_K)}
    asks["similar items"] = RetrievalRequest(query_item=str(catalogue.ids[0]), k=_K)
    if known:
        asks["known user"] = RetrievalRequest(user_id=known[0], k=_K)
    counts = {}
    with (
        BlockingClient(backend.address("retrieval", release.colour)) as retrieval,
        BlockingClient(backend.address("ranking", release.colour)) as ranking,
    ):
        for name, ask in asks.items():
            found = retrieval.retrieve(ask, release=release.release_id, deadline=_DEADLINE)
            _check_candidates(name, found, release, catalogue)
            if name == "known user" and not found.profile.known:
                raise SmokeFailure(f"user {ask.user_id!r} has a history in the lake, the predictor knows none")
            ranks = ranking.rank(
                RankingRequest(found.item_ids, found.scores, user_id=ask.user_id, visitor=found.visitor),
                release=release.release_id,
                deadline=_DEADLINE,
            )
            _check_ranks(name, ranks, len(found.item_ids), release)
            counts[name] = len(found.item_ids)
    log.info("smoke test of %s in %s passed: %s", release.release_id, release.colour, counts)
    return counts


def answers(backend: Backend, release: Release) -> bool:
    """Whether the colour of a release holds it and answers at once; the question of a rollback and of a bake."""
    try:
        require_answers(backend, release, deadline=1.0)
    except RecsysError as error:
        log.warning("%s does not answer for %s: %s", release.colour, release.release_id, error)
        return False
    return True


def require_answers(backend: Backend, release: Release, deadline: float = _DEADLINE) -> None:
    """Ask a colour once for a stranger's recommendations. Raises the error of `recsys.inference` if that fails."""
    with (
        BlockingClient(backend.address("retrieval", release.colour)) as retrieval,
        BlockingClient(backend.address("ranking", release.colour)) as ranking,
    ):
        ask = RetrievalRequest(user_id=STRANGER, k=_K)
        found = retrieval.retrieve(ask, release=release.release_id, deadline=deadline)
        ranks = RankingRequest(found.item_ids, found.scores, user_id=STRANGER, visitor=found.visitor)
        ranking.rank(ranks, release=release.release_id, deadline=deadline)


def _check_candidates(name: str, found: RetrievalResponse, release: Release, catalogue: Catalogue) -> None:
    ids = [str(item) for item in found.item_ids]
    unknown = [item for item, row in zip(ids, catalogue.rows(ids), strict=True) if row < 0]
    _require(found.release == release.release_id, name, f"release {found.release!r} answered")
    _require(len(ids) > 0, name, "no candidates")
    _require(len(set(ids)) == len(ids), name, "an item stands twice")
    _require(not unknown, name, f"{len(unknown)} items are not in the catalogue, such as {unknown[:3]}")
    _require_finite(name, "scores", found.scores)
    _require(bool(np.all(np.diff(found.scores) <= 0)), name, "scores are not in falling order")
    if found.profile.degraded:
        raise Retryable(f"smoke test, {name}: the feature store did not answer the predictor; is Redis up?")


def _check_ranks(name: str, ranks: RankingResponse, count: int, release: Release) -> None:
    _require(ranks.release == release.release_id, name, f"release {ranks.release!r} ranked")
    for column in ("scores", *HEADS):
        values = getattr(ranks, column)
        _require(values.shape == (count,), name, f"{column} has shape {values.shape}, asked for {count}")
        _require_finite(name, column, values)


def _require_finite(name: str, column: str, values: NDArray[np.float32]) -> None:
    _require(
        bool(np.isfinite(values).all()), name, f"{column} holds {int((~np.isfinite(values)).sum())} NaN or infinite"
    )


def _require(condition: bool, name: str, problem: str) -> None:
    if not condition:
        raise SmokeFailure(f"smoke test, {name}: {problem}")
