"""The ranking predictor: all candidates of a request → features → one forward pass → one blended score each.

`python -m serving.predictors.ranking --colour blue`
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import store, transforms
from feature_repo.neighbours import Neighbours
from models import catalogue, ranker
from models.release import Release
from recsys.errors import Permanent
from recsys.inference import HEADS, RankingRequest, RankingResponse, Refused
from recsys.settings import Settings
from serving.predictors import items, server, stages, visitors
from serving.predictors.changed import Follower
from serving.predictors.visitors import Visitor

WARM_SIZES = (1, 20, 100, 500, 1_000)
log = logging.getLogger(__name__)

Scores = NDArray[np.float32]


class Ranker:
    """Answers ranking requests of one release; thread-safe.

    Args:
        scorer: the opened model; `score(inputs)` gives [n] per head.
        blend: weight by head of the final score, unless a request says otherwise.
        shown: the items, kept fresh.
        known: reads who is asking.
        release_id: what answers say.
        changes: of the catalogue, which `shown` takes in.
    """

    def __init__(
        self,
        scorer: Any,
        blend: Mapping[str, float],
        shown: items.Items,
        known: visitors.Reader,
        *,
        release_id: str,
        changes: Follower,
    ) -> None:
        self._scorer, self._blend, self._items = scorer, blend, shown
        self._visitors, self._release_id, self._changes = known, release_id, changes

    def answer(self, request: RankingRequest) -> RankingResponse:
        """Scores in the order of the request; an item that the release does not hold is scored as an unknown one.

        Raises:
            Refused: `features_of` is not among the candidates, or `visitor` is not what retrieval answered with.
        """
        asked = _place(request)
        watch = stages.Watch("ranking")
        visitor = self._visitors.read(request, watch)
        with watch.stage("transforms"):
            inputs = _inputs(request, visitor, self._items.matrix)
        with watch.stage("forward"):
            found: dict[str, Scores] = self._scorer.score(inputs)
        heads = {head: np.asarray(found[head], np.float32) for head in HEADS}
        return RankingResponse(
            scores=ranker.blend(heads, request.blend or self._blend),
            **heads,
            features=inputs["numeric"][asked].ravel(),
            release=self._release_id,
            timings=watch.milliseconds,
        )

    def warm_up(self) -> None:
        """Score lists of the usual sizes, so that no visitor pays for TensorFlow's first calls."""
        ids = list(self._items.matrix.row_of) or ["warm-up"]
        for size in WARM_SIZES:
            candidates = [ids[k % len(ids)] for k in range(size)]
            scores = np.linspace(1, 0.1, size, dtype=np.float32)
            self.answer(RankingRequest(candidates, scores, user_id="warm-up", session_id="warm-up"))
        self._items.start()
        self._changes.start()

    def close(self) -> None:
        self._changes.close()
        self._items.close()


def ranks(scores: Scores) -> NDArray[np.int64]:
    """Places in retrieval's order, 0 the best; -1 where retrieval did not return the item (score 0 or NaN)."""
    retrieved = np.flatnonzero(np.nan_to_num(scores) != 0)
    places = np.full(len(scores), -1, np.int64)
    places[retrieved[np.argsort(-scores[retrieved], kind="stable")]] = np.arange(len(retrieved))
    return places


def _place(request: RankingRequest) -> slice:
    """Where the item stands whose features are asked for; nowhere if none is. Raises Refused if it is no candidate."""
    if not request.features_of:
        return slice(0)
    places = np.flatnonzero(np.asarray(request.item_ids, object) == request.features_of)
    if not len(places):
        raise Refused(
            f"features_of is {request.features_of!r}, which is none of the {len(request.item_ids)} candidates"
        )
    return slice(places[0], places[0] + 1)


def _inputs(request: RankingRequest, visitor: Visitor, matrix: transforms.ItemMatrix) -> dict[str, NDArray[Any]]:
    scores = np.asarray(request.retrieval_scores, np.float32)
    one = transforms.Requests(
        users={"user_id": [request.user_id]} | {name: [value] for name, value in visitor.values.items()},
        now=np.array([visitor.now]),
        region=[request.region],
        surface=[request.surface],
    )
    candidates = transforms.Candidates(
        request=np.zeros(len(scores), np.int64),
        item=matrix.rows(request.item_ids),
        score=np.nan_to_num(scores).astype(np.float64),
        rank=ranks(scores),
    )
    return transforms.ranking_inputs(one, candidates, matrix)


def open_engine(settings: Settings, release: Release, opened: server.Opened) -> Ranker:
    """Load a release from its verified artifacts.

    Raises:
        Permanent: the ranker wants other features or heads than this code gives.
    """
    meta, version = opened["ranker"].manifest.meta, opened["ranker"].manifest.version
    if list(meta["features"]) != list(transforms.RANKING_FEATURES):
        raise Permanent(
            f"ranker {version} was trained on {len(meta['features'])} features that are not "
            f"the {len(transforms.RANKING_FEATURES)} of this code; train it again, or roll the code back"
        )
    if list(meta["heads"]) != list(HEADS):
        raise Permanent(
            f"ranker {version} has the heads {', '.join(meta['heads'])}, this code serves {', '.join(HEADS)}; "
            "train it again, or roll the code back"
        )
    weights = settings.predictors.blend or meta["blend"]
    if set(weights) - set(HEADS) or sum(weights.values()) <= 0:
        raise Permanent(f"blend must weigh some of {', '.join(HEADS)}, got {weights}; see recsys/settings.py")
    features = store.connect(settings)
    held = catalogue.read(opened["catalogue"].path, opened["catalogue"].manifest.meta)
    neighbours = Neighbours.load(opened["ranker"].path)
    shown = items.Items(held, features, settings.predictors.item_refresh, neighbours)
    return Ranker(
        ranker.Scorer.load(opened["ranker"].path / "model"),
        weights,
        shown,
        visitors.Reader.of(release, features),
        release_id=release.release_id,
        changes=Follower(settings, shown.lay),
    )


if __name__ == "__main__":
    sys.exit(server.run("ranking", open_engine, sys.argv[1:]))
