"""Gate G2: nothing wrong with the index may reach a release.

Opens both artifacts as a predictor would, asks the run's own towers about them, and measures search against exact
search with the vectors of real users. The checks and their limits are in `pipelines.index_checks`.
"""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from feature_repo import events
from models import artifact, catalogue, embeddings, index, two_tower
from models.release import Releases
from pipelines import datasets, embedding, index_checks, index_plots, stage, tracking
from pipelines.index_checks import Findings, Limits
from recsys.errors import RecsysError
from recsys.settings import Settings

log = logging.getLogger(__name__)


class Params(stage.Params):
    min_recall: float = Field(0.95, ge=0, le=1, description="least recall against exact search, at 20, 100 and 500")
    max_p99_ms: float = Field(30.0, gt=0, description="slowest hundredth of searches for 500 items, milliseconds")
    queries: int = Field(1_000, ge=2, description="users whose vectors are searched with")
    sample: int = Field(500, ge=1, description="items that are embedded again and compared")


@dataclass(frozen=True)
class Evidence:
    """What the checks look at.

    Attributes:
        path: folder of the index artifact.
        dim: length of the towers' vectors.
        shown: the catalogue artifact of the same run.
        available: ids of all items that may be recommended, read from the lake and not from the artifact.
        again: rows of the catalogue that were embedded again, and the item tower's answers, [sample, dim].
        queries: [users, dim] vectors of real users; empty where there are none.
        live: ids and vectors of the index that serves, or None.
    """

    path: Path
    dim: int
    shown: catalogue.Catalogue
    available: NDArray[np.object_]
    again: tuple[NDArray[np.int64], NDArray[np.float32]]
    queries: NDArray[np.float32]
    live: tuple[NDArray[np.object_], NDArray[np.float32]] | None


def main(params: Params, settings: Settings) -> stage.Result:
    """Judge the run's index, and keep figures and plots in MLflow."""
    with tracking.stage_run(settings, params.run, "validate_index", params.model_dump()) as run:
        verdict = judge(params, settings)
        run.verdict(verdict["passed"], verdict["reasons"], verdict["metrics"])
        run.artifacts(datasets.run_folder(settings, params.run) / "validate_index")
    return verdict


def judge(params: Params, settings: Settings) -> stage.Result:
    """The verdict on the run's index; that an index is bad is no error of this stage."""
    limits = Limits(recall=params.min_recall, p99_ms=params.max_p99_ms)
    folder = datasets.run_folder(settings, params.run) / "validate_index"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = _examine_run(params, settings, limits, folder)
    except (artifact.ArtifactError, embeddings.BadIndex) as error:
        found = Findings(reasons=[f"cannot be opened: {error}"])
    verdict = index_checks.summary(found)
    (folder / "verdict.json").write_text(json.dumps(verdict | {"limits": asdict(limits)}, indent=1))
    for reason in found.reasons:
        log.warning("index refused: %s", reason)
    return verdict


def _examine_run(params: Params, settings: Settings, limits: Limits, folder: Path) -> Findings:
    """Open everything, check it, and draw it if it can be drawn."""
    root = Path(settings.storage.root).resolve()
    built = stage.result_of(settings, params.run, "build_index")
    trained = stage.result_of(settings, params.run, "train_retrieval")["artifact"]
    made = artifact.load(root / built["artifact"]["path"], kind="index", parents={"retrieval": trained["version"]})
    shown = artifact.load(root / built["catalogue"]["path"], kind="catalogue")
    evidence = _gather(params, settings, made, shown, root / trained["path"])
    found, vectors = examine(evidence, limits, np.random.default_rng(settings.seed))
    if vectors is not None:
        categories = [events.top_category(path) for path in evidence.shown.column("category")]
        index_plots.write(folder, vectors, categories, found.metrics)
    return found


def examine(
    evidence: Evidence, limits: Limits, rng: np.random.Generator
) -> tuple[Findings, NDArray[np.float32] | None]:
    """All checks; those that need to search are left out where the index cannot be opened.

    Returns:
        the findings, and the stored vectors if they are fit to be drawn.

    Raises:
        BadIndex: ids or vectors cannot be read at all.
    """
    found = Findings()
    ids, stored = embeddings.read(evidence.path)
    index_checks.vectors(found, stored, evidence.dim, limits)
    index_checks.ids(found, ids, evidence.shown.ids, evidence.available)
    rows, again = evidence.again
    if len(ids) == len(stored) == len(evidence.shown):
        index_checks.reembedding(found, stored, rows, again, limits)
    if evidence.live is not None:
        index_checks.against_live(found, (ids, stored), evidence.live, limits, rng)
    found.metrics["bytes"] = sum(f.stat().st_size for f in evidence.path.rglob("*") if f.is_file())
    try:
        built = index.Index.load(evidence.path)
    except RecsysError as error:
        found.reasons.append(f"cannot be searched: {error}")
        return found, None
    if built.dim == evidence.dim:
        _search(found, built, evidence.queries, limits, rng)
    return found, stored


def _search(
    found: Findings, built: index.Index, users: NDArray[np.float32], limits: Limits, rng: np.random.Generator
) -> None:
    """The checks that compare search with exact search."""
    queries = users
    if len(queries) == 0:
        found.warnings.append("nobody is known: item vectors stand in for user vectors")
        queries = np.asarray(built.vectors[rng.choice(len(built), min(len(built), 500), replace=False)])
    searched, _ = built.search(queries, index_checks.DEPTHS[-1])
    exact, best = index.exact_search(built.vectors, queries, index_checks.DEPTHS[-1])
    index_checks.recall(found, _scores(built.vectors, queries, searched), best, limits)
    index_checks.coverage(found, searched, exact, limits)
    if len(users):
        index_checks.sameness(found, searched, exact, limits)
    index_checks.own_vectors(found, built, rng.choice(len(built), min(len(built), 1_000), replace=False), limits)
    index_checks.latency(found, built, queries, limits)


def _scores(vectors: NDArray[np.float32], queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """[queries, k] exact scores of rows; -inf for row -1."""
    scores = np.stack([vectors[line] @ query for line, query in zip(rows, queries, strict=True)])
    return np.where(rows < 0, -np.inf, scores).astype(np.float32)


def _gather(
    params: Params, settings: Settings, made: artifact.Artifact, shown: artifact.Artifact, trained: Path
) -> Evidence:
    lake, as_of = datasets.lake(settings), datasets.end_of(params.day)
    rng = np.random.default_rng(settings.seed)
    retrieval = artifact.load(trained, kind="retrieval")
    towers, meta = two_tower.Towers.load(retrieval.path), retrieval.manifest.meta
    opened = catalogue.read(shown.path, shown.manifest.meta)
    rows = np.sort(rng.choice(len(opened), min(params.sample, len(opened)), replace=False))
    people = embedding.visitors(lake, params.day)
    some = people.take(np.sort(rng.choice(len(people), min(params.queries, len(people)), replace=False)))
    batches = [v for _, v in embedding.embed_users(towers, some, as_of, int(meta["history_length"]))]
    items = lake.read(datasets.ITEMS, params.day, ["item_id", "available"])
    return Evidence(
        path=made.path,
        dim=int(meta["dim"]),
        shown=opened,
        available=items.filter(pc.field("available")).column("item_id").to_numpy(),
        again=(rows, embedding.embed_items(towers, opened.items.take(rows), as_of)),
        queries=np.concatenate(batches) if batches else np.zeros((0, int(meta["dim"])), np.float32),
        live=_live(Path(settings.storage.root).resolve()),
    )


def _live(root: Path) -> tuple[NDArray[np.object_], NDArray[np.float32]] | None:
    """Ids and vectors that serve now; None before the first release, or where they are gone."""
    release = Releases(root).live()
    if release is None:
        return None
    try:
        return embeddings.read(root / release.artifacts["index"].path)
    except embeddings.BadIndex as error:
        log.warning("the live index cannot be compared with: %s", error)
        return None
