"""The catalogue as it is now: follows the changes in the online store and lays them over the live release."""

import asyncio
import logging

import numpy as np
from numpy.typing import NDArray

from feature_repo import arms, changes, online
from feature_repo.changes import Overlay
from recsys.errors import Retryable
from serving.api.live import LiveRelease
from serving.api.metrics import Metrics
from serving.api.watcher import Watcher

log = logging.getLogger(__name__)

Vectors = dict[str, tuple[int, NDArray[np.float32]]]  # of new items: version, [dim]


class Changed:
    """What this process knows of the changes. While Redis is away it is what it was.

    Args:
        store: the online store.
        metrics: where a look that fails is counted.
    """

    def __init__(self, store: online.AsyncClient, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics
        self._overlay = Overlay()
        self._vectors: dict[str, Vectors] = {}  # by release

    async def lay(self, live: LiveRelease) -> LiveRelease:
        """A release with the changes over it, made in a thread of its own."""
        if live.release_id not in self._vectors:
            await self._fetch(live)
        vectors = {item_id: vector for item_id, (_, vector) in self._vectors.get(live.release_id, {}).items()}
        return await asyncio.to_thread(live.changed, self._overlay.items, vectors)

    async def poll(self, watcher: Watcher) -> None:
        """Take what is new, if anything is, into the releases that serve."""
        before, held = self._overlay, watcher.held
        try:
            self._overlay = await changes.newer_async(self._store, before)
        except Retryable as error:
            log.warning("the catalogue stays as it was: %s", error)
            self._metrics.falls.labels("changes", "down").inc()
            return
        self._vectors = {live.release_id: self._vectors.get(live.release_id, {}) for live in held}
        fetched = [await self._fetch(live) for live in held]
        if any(fetched) or self._overlay is not before:
            await watcher.relay()

    async def _fetch(self, live: LiveRelease) -> bool:
        """Read the vectors of new items that retrieval has embedded since; true if there are any."""
        held, known = self._vectors.setdefault(live.release_id, {}), live.loaded.catalogue.row_of
        wanted = {
            item_id: change.version
            for item_id, change in self._overlay.changes.items()
            if change.available and item_id not in known and held.get(item_id, (0,))[0] != change.version
        }
        if not wanted:
            return False
        dim = live.vectors.shape[1]
        try:
            found = await arms.run_async(self._store, changes.vectors(live.release_id, wanted, dim))
        except Retryable as error:
            log.warning("new items are without vectors: %s", error)
            return False
        held |= {item_id: (wanted[item_id], vector) for item_id, vector in found.items()}
        return bool(found)
