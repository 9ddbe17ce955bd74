"""The catalogue as it is now: follows the changes in the online store and lays them over the live release."""

import asyncio
import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from feature_repo import arms, changes, online
from feature_repo.changes import Overlay
from recsys.errors import Retryable
from serving.api.live import LiveRelease, Watcher
from serving.api.metrics import Metrics

log = logging.getLogger(__name__)


class Changed:
    """What this process knows of the changes. While Redis is away it is what it was.

    Args:
        store: the online store.
        interval: seconds between two looks.
        metrics: where a look that fails is counted.
    """

    def __init__(self, store: online.AsyncClient, interval: float, metrics: Metrics) -> None:
        self._store, self._interval, self._metrics = store, interval, metrics
        self._overlay = Overlay()
        self._live: LiveRelease | None = None
        self._vectors: dict[str, tuple[int, NDArray[np.float32]]] = {}

    async def lay(self, loaded: LiveRelease) -> LiveRelease:
        """The release with the changes over it, made in a thread of its own."""
        if self._live is not loaded:
            self._live, self._vectors = loaded, {}
            await self._fetch()
        vectors = {item_id: vector for item_id, (_, vector) in self._vectors.items()}
        return await asyncio.to_thread(loaded.changed, self._overlay.items, vectors)

    async def poll(self, watcher: Watcher) -> None:
        """Take what is new, if anything is, into the release that serves."""
        before = self._overlay
        try:
            self._overlay = await changes.newer_async(self._store, before)
        except Retryable as error:
            log.warning("the catalogue stays as it was: %s", error)
            self._metrics.falls.labels("changes", "down").inc()
            return
        if await self._fetch() or self._overlay is not before:
            await watcher.relay()

    async def follow(self, watcher: Watcher) -> None:
        """Poll for ever."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.poll(watcher)
            except Exception:  # the edge of a background task: it must not end while the process serves
                log.exception("the changes of the catalogue could not be taken")

    async def _fetch(self) -> bool:
        """Read the vectors of new items that retrieval has embedded since; true if there are any."""
        if self._live is None or not (wanted := self._wanted(self._live)):
            return False
        try:
            call = changes.vectors(self._live.release_id, wanted, self._live.dim)
            found = await arms.run_async(self._store, call)
        except Retryable as error:
            log.warning("new items are without vectors: %s", error)
            return False
        self._vectors |= {item_id: (wanted[item_id], vector) for item_id, vector in found.items()}
        return bool(found)

    def _wanted(self, live: LiveRelease) -> Mapping[str, int]:
        """New items whose vector is not here, with the version that it must be of."""
        new = live.catalogue.row_of
        return {
            item_id: change.version
            for item_id, change in self._overlay.changes.items()
            if change.available and item_id not in new and self._vectors.get(item_id, (0,))[0] != change.version
        }
