"""The retrieval predictor: a visitor → the user tower → ScaNN → candidates with scores and tested evidence.

Items that are new since the release was made are embedded by its item tower from their content, and stand beside ScaNN.

`python -m serving.predictors.retrieval --colour blue`
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import changes, names, online, store, transforms
from feature_repo.changes import Change, Overlay
from models import artifact, two_tower
from models.index import Index
from models.release import Release
from models.versions import Versions
from recsys.inference import Deed, Profile, RetrievalRequest, RetrievalResponse, strings
from recsys.settings import Settings
from serving.predictors import evidence, server, stages, visitors
from serving.predictors.changed import Follower
from serving.predictors.stock import Stock
from serving.predictors.visitors import Visitor

# For one read of Redis that hangs, so that what needs no visitor is found within the API's deadline.
READ_SECONDS = 0.02
RECENT = 20  # items of the history that the profile names
WARM_SIZES = (100, 500, 3_000)
CONTENT = ("item_id", "title", "category", "brand", "tags", "price")  # what the item tower reads of an item
log = logging.getLogger(__name__)


class Retriever:
    """Answers retrieval requests of one release; thread-safe.

    Args:
        towers: of the release.
        index: made by those towers.
        known: reads who is asking.
        history_length: newest events that the user tower takes.
        release: what answers name, and when its data end.
        settings: where the changes of the catalogue are.
    """

    def __init__(
        self,
        towers: Any,
        index: Index,
        known: visitors.Reader,
        *,
        history_length: int,
        release: Release,
        settings: Settings,
    ) -> None:
        self._towers, self._index, self._visitors = towers, index, known
        self._versions, self._release = Versions(towers, history_length), release
        self._stock = Stock.of(index, Overlay(), {})
        self._embedded: dict[str, tuple[int, NDArray[np.float32]]] = {}
        self._store = online.connect(settings.redis_url)
        self._changes = Follower(settings, self.restock)

    def answer(self, request: RetrievalRequest) -> RetrievalResponse:
        """Candidates for a visitor, or for an item where the request names one that is known."""
        watch, stock = stages.Watch("retrieval"), self._stock
        visitor = self._visitors.read(request, watch)
        query = stock.row(request.query_item) if request.query_item else -1
        tested = evidence.tested(visitor, self._index) if query < 0 else []
        with watch.stage("tower"):
            vectors = self._embed(visitor, tested, request.region) if query < 0 else stock.vectors[np.array([query])]
        with watch.stage("search"):
            rows, scores = stock.search(vectors[:1], request.k, query)
        with watch.stage("evidence"):
            if query < 0:
                because, causes, events = self._evidence(visitor, tested, vectors, rows, stock)
            else:
                # Every item is there because of the item on the page, which is being viewed.
                because, causes, events = np.zeros(len(rows), np.int32), [request.query_item], ["view"]
        return RetrievalResponse(
            item_ids=stock.ids[rows],
            scores=scores,
            because=because,
            causes=strings(causes),
            cause_events=strings(events),
            query=vectors[0],
            profile=self._profile(visitor, request.region),
            visitor=visitor.to_json(),
            release=self._release.release_id,
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
        self._changes.start()

    def close(self) -> None:
        self._changes.close()
        self._store.close()

    def restock(self, overlay: Overlay) -> None:
        """Take the changes of the catalogue: from the next request on, new items are found and others are gone.

        The vectors of new items are written to the online store, for the API, which scores with them what other sources
        propose. Raises Retryable where that fails; the items are found all the same.
        """
        new = {
            item_id: change
            for item_id, change in overlay.changes.items()
            if change.available and item_id not in self._index.row_of
        }
        late = {item: change for item, change in new.items() if self._embedded.get(item, (0,))[0] != change.version}
        embedded = self._embedded | self._vectors(late)
        self._stock = Stock.of(self._index, overlay, {item: embedded[item][1] for item in new})
        written = ((item, *embedded[item]) for item in late)
        changes.write_vectors(self._store, self._release.release_id, written)
        self._embedded = {item: embedded[item] for item in new}

    def _vectors(self, new: Mapping[str, Change]) -> dict[str, tuple[int, NDArray[np.float32]]]:
        """Version and vector [dim] of new items, from their content: they have no statistics yet."""
        if not new:
            return {}
        rows = [change.item for change in new.values() if change.item is not None]
        inputs = transforms.item_tower_inputs(
            **{name: [row[name] for row in rows] for name in CONTENT},
            created=np.array([row["created_at"].timestamp() for row in rows]),
            stats=np.zeros((len(rows), len(names.ITEM_STATS)), np.float32),
            now=datetime.fromisoformat(self._release.as_of).timestamp(),
        )
        vectors = self._towers.items(inputs)
        return {item: (change.version, vector) for (item, change), vector in zip(new.items(), vectors, strict=True)}

    def _embed(self, visitor: Visitor, tested: Sequence[str], region: str) -> NDArray[np.float32]:
        """[1 + m, dim] a visitor, and the same without each of the tested items."""
        inputs = transforms.user_tower_inputs(
            items=[visitor.items],
            events=[visitor.events],
            times=[visitor.times],
            region=[visitor.text("region") or region],
            age_group=[visitor.text("age_group")],
            preferences=[visitor.values["preferences"]],
            now=np.array([visitor.now]),
            length=len(visitor.items),
        )
        return self._versions.embed(inputs, tested)

    def _evidence(
        self,
        visitor: Visitor,
        tested: Sequence[str],
        vectors: NDArray[np.float32],
        rows: NDArray[np.int64],
        stock: Stock,
    ) -> tuple[NDArray[np.int32], list[str], list[str]]:
        """For each candidate, which of the causes is its own; the causes, that is, the items that candidates are there
        because of, candidates that were met before, and "" for none; and what was done with each last."""
        did = dict(zip(visitor.items, visitor.events, strict=True))
        held = self._index.vectors[self._index.rows(tested)]
        because = evidence.causes(stock.vectors[rows], vectors, held).astype(np.int32)
        candidates = stock.ids[rows].tolist()
        met = [place for place, item in enumerate(candidates) if item in did]
        because[met] = 1 + len(tested) + np.arange(len(met))
        causes = ["", *tested, *(candidates[place] for place in met)]
        return because, causes, [did.get(item, "") for item in causes]

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
        visitors.Reader.of(release, store.connect(settings, READ_SECONDS)),
        history_length=int(meta["history_length"]),
        release=release,
        settings=settings,
    )


if __name__ == "__main__":
    sys.exit(server.run("retrieval", open_engine, sys.argv[1:]))
