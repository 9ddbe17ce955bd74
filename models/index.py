"""Nearest neighbours among the item embeddings: ScaNN where the catalogue is large, exact where that is fast.

An index on disk is a folder with `embeddings.npy` ([n, dim] float32, unit norm, opened by mmap), `ids.parquet`
(the item id of each row), `settings.json` and `scann/` (ScaNN's own files). Search knows
rows; the caller looks up the ids.

Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from models import embeddings
from models.embeddings import BadIndex

# Exact search of 20,000 x 128 takes 0.2 ms on one core, so that approximating would buy nothing; of 100,000, 1.8 ms.
EXACT_BELOW = 20_000
SCANNED = 60_000  # vectors compared per query in a tree: 0.3 ms, and recall@500 above 0.98 on clustered data
CANDIDATES = 500  # what a request asks for; the settings are tuned to it
BLOCK = 1 << 25  # scores held at once by exact search: 128 MiB


@dataclass(frozen=True)
class Settings:
    """How ScaNN searches.

    Attributes:
        leaves: partitions of the tree; 0 means exact search over everything.
        leaves_to_search: partitions that a query visits.
        reorder: best candidates of the quantised scores that are scored again with float32.
    """

    leaves: int
    leaves_to_search: int
    reorder: int


def settings_for(count: int, dim: int) -> Settings:
    """Settings derived from the catalogue.

    Below EXACT_BELOW items: exact. Above: sqrt(count) leaves, so that choosing leaves costs as much as scanning
    one of them; as many visited as hold SCANNED vectors, at least a twentieth of them; quantised scores pick four
    times the candidates wanted, and float32 orders those. Dimensions that are odd cannot be hashed in blocks of
    two and are searched exactly.

    Args:
        count: items.
        dim: length of a vector.
    """
    if count < EXACT_BELOW or dim % 2:
        return Settings(0, 0, 0)
    leaves = round(math.sqrt(count))
    visited = min(leaves, max(math.ceil(leaves / 20), math.ceil(SCANNED * leaves / count)))
    return Settings(leaves, visited, 4 * CANDIDATES)


@dataclass(frozen=True)
class Index:
    """A searchable set of items; safe to share between threads, each search runs on the caller's thread alone.

    Attributes:
        ids: [n] str objects, the item of each row.
        vectors: [n, dim] float32; read-only and mapped from disk when the index was loaded.
        settings: how ScaNN was built.
        searcher: ScaNN's own object.
    """

    ids: NDArray[np.object_]
    vectors: NDArray[np.float32]
    settings: Settings
    searcher: Any

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        return {item_id: row for row, item_id in enumerate(self.ids)}

    def rows(self, item_ids: Sequence[str] | NDArray[np.object_]) -> NDArray[np.int64]:
        """Rows of item ids, -1 where an id is not in the index."""
        row_of = self.row_of
        return np.fromiter((row_of.get(i, -1) for i in item_ids), np.int64, len(item_ids))

    @staticmethod
    def build(
        ids: Sequence[str] | NDArray[np.object_], vectors: NDArray[np.float32], settings: Settings | None = None
    ) -> "Index":
        """Index vectors; the same input gives the same index.

        Args:
            ids: item id of each vector; unique.
            vectors: [n, dim] float32.
            settings: default: `settings_for` the shape.

        Raises:
            BadIndex: no vectors, not a matrix, NaN, or ids that do not fit.
        """
        from scann.scann_ops.py import scann_ops_pybind

        names = _objects(ids)
        matrix = np.ascontiguousarray(vectors, np.float32)
        _check(names, matrix)
        chosen = settings or settings_for(*matrix.shape)
        builder = scann_ops_pybind.builder(matrix, min(CANDIDATES, len(matrix)), "dot_product")
        if chosen.leaves == 0:
            builder = builder.score_brute_force()
        else:
            # One thread and k-means++ instead of random centres: twice as slow, and the same index every time.
            builder = builder.set_n_training_threads(1).tree(
                chosen.leaves,
                chosen.leaves_to_search,
                training_sample_size=min(len(matrix), 250_000),
                random_init=False,
            )
            builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(chosen.reorder)
        searcher = builder.build()
        searcher.set_num_threads(1)
        return Index(names, matrix, chosen, searcher)

    def save(self, folder: Path) -> None:
        """Write the files of the index into an existing folder."""
        np.save(folder / "embeddings.npy", self.vectors, allow_pickle=False)
        pyarrow.parquet.write_table(pa.table({"item_id": pa.array(self.ids, pa.string())}), folder / "ids.parquet")
        (folder / "settings.json").write_text(json.dumps(asdict(self.settings)))
        (folder / "scann").mkdir()
        self.searcher.serialize(str(folder / "scann"), relative_path=True)

    @staticmethod
    def load(folder: Path) -> "Index":
        """Open what `save` wrote (verify it with `artifact.load` first).

        Raises:
            BadIndex: NaN, or ids, vectors and ScaNN's files that do not belong together.
        """
        ids, vectors = embeddings.read(folder)
        _check(ids, vectors)
        from scann.scann_ops.py import scann_ops_pybind

        try:
            settings = Settings(**json.loads((folder / "settings.json").read_text()))
            searcher = scann_ops_pybind.load_searcher(str(folder / "scann"), assets_backcompat_shim=False)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise BadIndex(f"{folder} cannot be opened by ScaNN: {error}; build the index again") from error
        searcher.set_num_threads(1)
        found = Index(ids, vectors, settings, searcher)
        found._check_searcher(folder)
        return found

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The nearest items by dot product, best first; equal scores by row, so that answers never flicker.

        Args:
            queries: [batch, dim] float32.
            k: neighbours wanted; at most all items are returned.

        Returns:
            rows and scores, both [batch, min(k, n)]; row -1 with score -inf where the leaves visited held fewer.
        """
        wanted = min(k, len(self))
        reorder = max(self.settings.reorder, 2 * wanted) if self.settings.leaves else None
        found, scores = self.searcher.search_batched(np.ascontiguousarray(queries, np.float32), wanted, reorder)
        missing = np.isnan(scores)
        rows = np.where(missing, -1, found.astype(np.int64))
        scores = np.where(missing, -np.inf, scores).astype(np.float32)
        order = np.arange(len(rows))[:, None], np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def _check_searcher(self, folder: Path) -> None:
        """ScaNN's files must be of these very vectors' shape."""
        try:
            size = self.searcher.size()
            self.search(self.vectors[:1], 1)
        except (ValueError, RuntimeError) as error:
            raise BadIndex(f"{folder}: ScaNN refuses a vector of dimension {self.dim}: {error}") from error
        if size != len(self):
            raise BadIndex(f"{folder}: ScaNN holds {size} vectors, embeddings.npy {len(self)}; build the index again")


def exact_search(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The truth that `Index.search` approximates: the same answer by scoring every item.

    Args:
        vectors: [n, dim].
        queries: [batch, dim].
        k: neighbours wanted.

    Returns:
        rows and scores, both [batch, min(k, n)].
    """
    wanted = min(k, len(vectors))
    rows = np.empty((len(queries), wanted), np.int64)
    best = np.empty((len(queries), wanted), np.float32)
    step = max(BLOCK // len(vectors), 1)
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ vectors.T
        part = np.argpartition(-scores, wanted - 1, axis=1)[:, :wanted]
        values = np.take_along_axis(scores, part, 1)
        order = np.lexsort((part, -values))
        rows[start : start + step] = np.take_along_axis(part, order, 1)
        best[start : start + step] = np.take_along_axis(values, order, 1)
    return rows, best


def _objects(ids: Sequence[str] | NDArray[np.object_]) -> NDArray[np.object_]:
    names = np.empty(len(ids), object)
    names[:] = ids
    return names


def _check(ids: NDArray[np.object_], vectors: NDArray[np.float32]) -> None:
    if vectors.ndim != 2 or vectors.size == 0 or vectors.dtype != np.float32:
        raise BadIndex(f"vectors must be a float32 matrix with rows, got {vectors.dtype} {vectors.shape}")
    if len(ids) != len(vectors):
        raise BadIndex(f"{len(ids)} ids for {len(vectors)} vectors; both must come from one build")
    if len(set(ids)) != len(ids):
        raise BadIndex(f"{len(ids) - len(set(ids))} ids occur twice; an item has one vector")
    if bad := int((~np.isfinite(vectors).all(axis=1)).sum()):
        raise BadIndex(f"{bad} of {len(vectors)} vectors hold NaN or infinity; train the towers again")
