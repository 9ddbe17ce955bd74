"""Follows the changes of the catalogue in a thread, and hands all of them to an engine whenever there are new ones."""

import threading
import time
from collections.abc import Callable

from feature_repo import changes, online
from feature_repo.changes import Overlay
from recsys.settings import Settings
from serving.predictors import stages

REST = 4.0  # pause after taking changes in, as a multiple of its time: the thread uses a fifth of a core at most


class Follower:
    """Changes as this process knows them. While Redis is away they are what they were.

    Args:
        settings: where the online store is, and how often to look.
        apply: takes all changes; called from one thread at a time. After an exception it is called again.
    """

    def __init__(self, settings: Settings, apply: Callable[[Overlay], None]) -> None:
        self._store, self._interval, self._apply = online.connect(settings.redis_url), settings.changes.poll, apply
        self._overlay = Overlay()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="changes", daemon=True)

    def start(self) -> None:
        """Take what there is before the first request, and follow from there."""
        self.poll()
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._store.close()

    def poll(self) -> None:
        """Take what is new, if anything is."""
        with stages.beside("changes"):
            found = changes.newer(self._store, self._overlay)
            if found is not self._overlay:
                self._apply(found)
                self._overlay = found

    def _run(self) -> None:
        took = 0.0
        while not self._stop.wait(max(self._interval, REST * took)):
            began = time.perf_counter()
            self.poll()
            took = time.perf_counter() - began
