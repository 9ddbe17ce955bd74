"""The items of a release in memory, kept fresh from the feature store in the background.

Ranking reads 130 features of 500 items per request; through the store that would take 55 ms, from memory it takes
none. A thread reads all items again every few minutes and puts a whole new matrix in the place of the old one, so
that a request sees one or the other and never waits. Changes of the catalogue come on top, as soon as they are known.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo import events, store, transforms
from feature_repo.changes import Overlay
from feature_repo.neighbours import NOBODY, Neighbours
from feature_repo.transforms import ItemMatrix
from models.catalogue import Catalogue
from serving.predictors import stages

SERVICE = "items_v1"
BLOCK = 200  # items per read: 20 ms, after which requests get their turn
REST = 4.0  # pause after a block, as a multiple of its time: the thread uses a fifth of a core at most
CREATED = {"created_time": "created_at"}  # names of the store that the catalogue calls otherwise

Columns = dict[str, NDArray[Any]]


class Items:
    """The current item matrix; `matrix` may be read from any thread, and is replaced whole.

    Args:
        catalogue: of the release; what the store does not know stays as it says.
        features: the connected feature store.
        interval: seconds between two readings.
        neighbours: of the release's ranker.
    """

    def __init__(self, catalogue: Catalogue, features: Any, interval: float, neighbours: Neighbours = NOBODY) -> None:
        self._columns: Columns = {name: _column(catalogue, name) for name in transforms.ITEM_COLUMNS}
        self._catalogue, self._neighbours = catalogue, neighbours
        self._read = self._columns  # with what the store knows
        self._overlay = Overlay()
        self._building = threading.Lock()
        self.matrix: ItemMatrix = self._built()
        self._features, self._interval = features, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="items", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; it stops at the next block."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def lay(self, overlay: Overlay) -> None:
        """Take the changes of the catalogue and swap the matrix."""
        with self._building:
            self._overlay = overlay
            self.matrix = self._built()

    def refresh(self, pause: Callable[[float], object] = lambda seconds: None) -> None:
        """Read all items and swap the matrix; what the store does not know is left as the release has it.

        Args:
            pause: called with seconds to rest between blocks.

        Raises:
            Retryable: the store is away; the old matrix stays.
        """
        fresh = {name: values.copy() for name, values in self._columns.items()}
        ids = fresh["item_id"].tolist()
        for start in range(0, len(ids), BLOCK):
            if self._stop.is_set():
                return
            began = time.perf_counter()
            found = store.read_online(self._features, SERVICE, "item_id", ids[start : start + BLOCK])
            _overlay(fresh, found, start)
            pause(REST * (time.perf_counter() - began))
        with self._building:
            self._read = fresh
            self.matrix = self._built()
        stages.ITEMS_READ.set_to_current_time()

    def _built(self) -> ItemMatrix:
        """The matrix of the items as they are now: content by the changes, then the store, then the release; and
        statistics by the store, then the release, none for new items."""
        changes = self._overlay.items
        shown = self._catalogue.changed(changes)
        if shown is self._catalogue:
            return transforms.item_matrix(self._read, self._neighbours)
        columns = {name: _column(shown, name) for name in transforms.ITEM_COLUMNS}
        every = np.arange(len(self._catalogue))
        untold = np.setdiff1d(every, self._catalogue.rows(list(changes)))
        for name, values in self._read.items():
            rows = untold if name in events.ITEMS.names else every
            columns[name][rows] = values[rows]
        return transforms.item_matrix(columns, self._neighbours)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            with stages.beside("items"):
                self.refresh(self._stop.wait)


def _column(catalogue: Catalogue, name: str) -> NDArray[Any]:
    """A column of the catalogue in a form that values of the store can be written into."""
    kind = catalogue.items.schema.field(name).type
    if pa.types.is_timestamp(kind):
        seconds: NDArray[np.float64] = catalogue.column(name).astype("datetime64[us]").astype(np.float64) / 1e6
        return seconds
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return catalogue.column(name).astype(np.float64)
    return catalogue.column(name)


def _overlay(columns: Columns, found: Mapping[str, list[Any]], start: int) -> None:
    """Write what the store knows over one block of rows."""
    for name, values in found.items():
        target = columns.get(CREATED.get(name, name))
        if target is None:
            continue
        known = [k for k, value in enumerate(values) if value is not None]
        target[[start + k for k in known]] = [values[k] for k in known]
