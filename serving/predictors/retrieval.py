"""The retrieval predictor: a visitor → the user tower → ScaNN → candidates with scores and true evidence.

`python -m serving.predictors.retrieval --colour blue`
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import store, transforms
from models import artifact, two_tower
from models.index import Index
from models.release import Release
from recsys.inference import Deed, Profile, RetrievalRequest, RetrievalResponse, strings
from recsys.settings import Settings
from serving.predictors import server, stages, visitors
from serving.predictors.visitors import Visitor

RECENT = 20  # items of the history that the profile names
# An item is only called the reason for another if they are alike; below this cosine it is coincidence.
LIKENESS = 0.2
WARM_SIZES = (100, 500, 3_000)
log = logging.getLogger(__name__)


class Retriever:
    """Answers retrieval requests of one release; thread-safe.

    Args:
        towers: of the release.
        index: made by those towers.
        known: reads who is asking.
        history_length: newest events that the user tower takes.
        release_id: what answers say.
    """

    def __init__(
        self, towers: Any, index: Index, known: visitors.Reader, *, history_length: int, release_id: str
    ) -> None:
        self._towers, self._index, self._visitors = towers, index, known
        self._history_length, self._release_id = history_length, release_id

    def answer(self, request: RetrievalRequest) -> RetrievalResponse:
        """Candidates for a visitor, or for an item where the request names one that the index holds."""
        watch = stages.Watch("retrieval")
        visitor = self._visitors.read(request, watch)
        query = self._index.row_of.get(request.query_item, -1) if request.query_item else -1
        with watch.stage("tower"):
            vector = self._embed(visitor, request.region) if query < 0 else self._index.vectors[[query]]
        with watch.stage("search"):
            rows, scores = self._search(vector, request.k, query)
        with watch.stage("evidence"):
            evidence, events = self._evidence(visitor, rows) if query < 0 else self._similar(request.query_item, rows)
        return RetrievalResponse(
            item_ids=self._index.ids[rows],
            scores=scores,
            evidence=evidence,
            evidence_events=events,
            profile=self._profile(visitor, request.region),
            query=vector[0],
            release=self._release_id,
            timings=watch.milliseconds,
        )

    def warm_up(self) -> None:
        """Answer once for each kind of request, so that no visitor pays for TensorFlow's first call."""
        known = str(self._index.ids[0])
        for k in WARM_SIZES:
            for request in (
                RetrievalRequest(user_id="warm-up", session_id="warm-up", recent=(Deed(0, "view", known),), k=k),
                RetrievalRequest(query_item=known, k=k),
            ):
                self.answer(request)

    def close(self) -> None:
        """Nothing to end."""

    def _embed(self, visitor: Visitor, region: str) -> NDArray[np.float32]:
        inputs = transforms.user_tower_inputs(
            items=[visitor.items],
            events=[visitor.events],
            times=[visitor.times],
            region=[visitor.text("region") or region],
            age_group=[visitor.text("age_group")],
            preferences=[visitor.values["preferences"]],
            now=np.array([visitor.now]),
            length=self._history_length,
        )
        vector: NDArray[np.float32] = self._towers.users(inputs)
        return vector

    def _search(
        self, vector: NDArray[np.float32], k: int, left_out: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and scores, best first, without one row (-1: without none)."""
        rows, scores = self._index.search(vector, k + (left_out >= 0))
        kept = (rows[0] >= 0) & (rows[0] != left_out)
        return rows[0][kept][:k], scores[0][kept][:k]

    def _evidence(self, visitor: Visitor, rows: NDArray[np.int64]) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
        """For each candidate the most similar item of the history, and what was done with it; "" if none is alike."""
        newest = dict(zip(visitor.items[-self._history_length :], visitor.events[-self._history_length :], strict=True))
        items = strings(list(newest))
        held = self._index.rows(items)
        items, kinds, held = items[held >= 0], strings(list(newest.values()))[held >= 0], held[held >= 0]
        if len(held) == 0 or len(rows) == 0:
            return strings([""] * len(rows)), strings([""] * len(rows))
        likeness = self._index.vectors[rows] @ self._index.vectors[held].T
        best = likeness.argmax(axis=1)
        alike = likeness[np.arange(len(rows)), best] >= LIKENESS
        return np.where(alike, items[best], ""), np.where(alike, kinds[best], "")

    def _similar(self, query: str, rows: NDArray[np.int64]) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
        """Every item is there because of the item on the page, which is being viewed."""
        return strings([query] * len(rows)), strings(["view"] * len(rows))

    def _profile(self, visitor: Visitor, region: str) -> Profile:
        return Profile(
            known=visitor.known,
            history_size=len(visitor.items),
            region=visitor.text("region") or region,
            age_group=visitor.text("age_group"),
            recent=tuple(dict.fromkeys(reversed(visitor.items)))[:RECENT],
            degraded=visitor.degraded,
        )


def open_engine(settings: Settings, release: Release, opened: server.Opened) -> Retriever:
    """Load a release from its verified artifacts.

    Raises:
        ArtifactError, BadIndex: they cannot be served together.
    """
    index = Index.load(opened["index"].path)
    meta: Mapping[str, Any] = opened["retrieval"].manifest.meta
    if index.dim != meta["dim"]:
        raise artifact.ArtifactError(f"the index has dimension {index.dim}, the user tower {meta['dim']}; roll back")
    return Retriever(
        two_tower.Towers.load(Path(opened["retrieval"].path)),
        index,
        visitors.Reader.of(release, store.connect(settings)),
        history_length=int(meta["history_length"]),
        release_id=release.release_id,
    )


if __name__ == "__main__":
    sys.exit(server.run("retrieval", open_engine, sys.argv[1:]))
