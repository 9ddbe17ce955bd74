"""Embed the catalogue with the run's item tower, and make it searchable.

Writes two artifacts whose rows correspond: "catalogue" (what an item is) and "index" (where it lies), and the
day's offline rows of the views `item_embedding` and `user_embedding`. The index names its retrieval model as
parent, so that no release can pair it with the towers of another run.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray
from pydantic import Field

from models import artifact, catalogue, index, two_tower
from pipelines import datasets, embedding, stage, tracking
from pipelines.datasets import Lake
from recsys.errors import BadData
from recsys.settings import Settings

log = logging.getLogger(__name__)


class Params(stage.Params):
    active_days: int = Field(30, ge=0, description="write embeddings of users who were active in the last N days")


def main(params: Params, settings: Settings) -> stage.Result:
    """Build both artifacts, and keep the figures in MLflow."""
    with tracking.stage_run(settings, params.run, "build_index", params.model_dump()) as run:
        result = build(params, settings)
        run.metrics(result["metrics"])
    return result


def build(params: Params, settings: Settings) -> stage.Result:
    """Build both artifacts from the retrieval model of the same run, which must have passed its gate."""
    stage.require_passed(settings, params.run, "evaluate_retrieval")
    lake, root = datasets.lake(settings), Path(settings.storage.root).resolve()
    reference = stage.result_of(settings, params.run, "train_retrieval")["artifact"]
    retrieval = artifact.load(root / reference["path"], kind="retrieval")
    towers = two_tower.Towers.load(retrieval.path)
    as_of = datasets.end_of(params.day)

    items = embedding.catalogue(lake, params.day)
    if items.num_rows == 0:
        raise BadData(f"no item of {params.day} is available; check the catalogue that was ingested")
    log.info("embedding %d items with %s", items.num_rows, retrieval.manifest.version)
    vectors = embedding.embed_items(towers, items, as_of)
    built = index.Index.build(items.column("item_id").to_numpy(), vectors)

    facts = {"allow_repeats": bool(stage.result_of(settings, params.run, "features")["allow_repeats"])}
    left_out = _unavailable(lake, params.day)
    lists = popular(lake.read(datasets.TRENDING, params.day))
    shown = _write_catalogue(params, settings, items, lists, left_out, facts)
    parents = {"retrieval": retrieval.manifest.version}
    made = _write_index(params, settings, built, parents)
    version = retrieval.manifest.version
    _write_view(lake, params, "item_embedding", built.ids.tolist(), vectors, version)
    users = _write_users(lake, params, towers, as_of, int(retrieval.manifest.meta["history_length"]), version)
    metrics = {"items": len(built), "dim": built.dim, "users_embedded": users, "exact": built.settings.leaves == 0}
    return {"artifact": _reference(made, root), "catalogue": _reference(shown, root), "metrics": metrics}


def popular(trending: pa.Table) -> dict[str, dict[str, catalogue.Ranked]]:
    """TRENDING as scope → key → [(item_id, score)], best first."""
    lists: dict[str, dict[str, list[tuple[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in trending.sort_by("rank").to_pylist():
        lists[row["scope"]][row["key"]].append((row["item_id"], float(row["score"])))
    return {scope: dict(keys) for scope, keys in lists.items()}


def _unavailable(lake: Lake, day: date) -> list[str]:
    rows = lake.read(datasets.ITEMS, day, ["item_id", "available"])
    left_out: list[str] = rows.filter(pc.invert(rows.column("available"))).column("item_id").to_pylist()
    return sorted(left_out)


def _write_catalogue(
    params: Params,
    settings: Settings,
    items: pa.Table,
    lists: Mapping[str, Mapping[str, catalogue.Ranked]],
    left_out: Sequence[str],
    facts: dict[str, Any],
) -> artifact.Artifact:
    as_of = datasets.end_of(params.day).isoformat()
    with artifact.draft(datasets.models_folder(settings), kind="catalogue", run=params.run, as_of=as_of) as draft:
        catalogue.write(draft.path, items, lists, left_out)
        draft.meta.update(facts, items=items.num_rows)
    return draft.finished


def _write_index(
    params: Params, settings: Settings, built: index.Index, parents: Mapping[str, str]
) -> artifact.Artifact:
    folder, as_of = datasets.models_folder(settings), datasets.end_of(params.day).isoformat()
    with artifact.draft(folder, kind="index", run=params.run, as_of=as_of, parents=parents) as draft:
        built.save(draft.path)
        draft.meta.update(items=len(built), dim=built.dim, settings=asdict(built.settings))
    return draft.finished


def _write_view(
    lake: Lake, params: Params, view: str, ids: list[str], vectors: NDArray[np.float32], version: str
) -> None:
    with lake.replacing(datasets.feature_view(view), params.day) as work:
        table = _rows(view, ids, vectors, version, datasets.end_of(params.day))
        pyarrow.parquet.write_table(table, work / "part-0.parquet", compression="zstd")


def _write_users(
    lake: Lake, params: Params, towers: embedding.Towers, as_of: datetime, history_length: int, version: str
) -> int:
    """Embed the users who were active lately, a batch in memory at a time; returns how many."""
    found = embedding.visitors(lake, params.day, active_since=as_of - timedelta(days=params.active_days))
    schema = _rows("user_embedding", [], np.zeros((0, 1), np.float32), version, as_of).schema
    with (
        lake.replacing(datasets.feature_view("user_embedding"), params.day) as work,
        pyarrow.parquet.ParquetWriter(work / "part-0.parquet", schema, compression="zstd") as writer,
    ):
        for ids, vectors in embedding.embed_users(towers, found, as_of, history_length):
            writer.write_table(_rows("user_embedding", ids, vectors, version, as_of))
    return len(found)


def _rows(view: str, ids: list[str], vectors: NDArray[np.float32], version: str, stamp: datetime) -> pa.Table:
    """Offline rows of an embedding view."""
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * vectors.shape[1]
    return pa.table(
        {
            "user_id" if view == "user_embedding" else "item_id": pa.array(ids, pa.string()),
            "event_timestamp": pa.array([stamp] * len(ids), pa.timestamp("us", tz="UTC")),
            "embedding": pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel(), pa.float32())),
            "embedding_version": pa.array([version] * len(ids), pa.string()),
        }
    )


def _reference(made: artifact.Artifact, root: Path) -> dict[str, str]:
    return {
        "kind": made.manifest.kind,
        "version": made.manifest.version,
        "path": str(made.path.relative_to(root)),
    }
