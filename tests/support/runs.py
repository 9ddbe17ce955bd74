"""A run that is ready to be registered and deployed: tiny artifacts, results of its stages, gates passed."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from stub_predictors import KNOWN_USERS

from models import artifact, catalogue
from pipelines import datasets
from pipelines.datasets import RunId
from recsys.settings import Settings

DAY = date(2024, 3, 1)
ITEMS = [f"i{n:02}" for n in range(60)]

_RETRIEVAL = {
    "view": "purchases",
    "views": {"purchases": {"two towers": {"recall@20": 0.31}, "popularity": {"recall@20": 0.12}}},
    "health": {"items": {"effective_rank": 12.0}},
    "slices": {"new users": {"users": 12, "recall": {"two towers": 0.2, "popularity": 0.1}}},
}


def make(settings: Settings, run: str, day: date = DAY, salt: str = "") -> dict[str, artifact.Artifact]:
    """Write artifacts and results of a run; another salt gives other artifacts."""
    retrieval = _artifact(settings, run, "retrieval", f"towers {run}{salt}", day)
    parents = {"retrieval": retrieval.manifest.version}
    made = {
        "retrieval": retrieval,
        "index": _artifact(settings, run, "index", f"index {run}{salt}", day, parents),
        "ranker": _artifact(settings, run, "ranker", f"ranker {run}{salt}", day, parents),
        "catalogue": _catalogue(settings, run, day),
    }
    refs = {kind: _reference(settings, found) for kind, found in made.items()}
    gate = {"passed": True, "reasons": []}
    results: dict[str, dict[str, Any]] = {
        "ingest": {"fingerprint": f"data-{day}", "source": "simulator", "rows": {"events": 1000, "items": len(ITEMS)}},
        "train_retrieval": {"artifact": refs["retrieval"], "metrics": {"loss": 1.5}},
        "evaluate_retrieval": gate | {"metrics": _RETRIEVAL},
        "build_index": {"artifact": refs["index"], "catalogue": refs["catalogue"], "metrics": {"items": len(ITEMS)}},
        "validate_index": gate | {"metrics": {"recall@100": 0.99}},
        "train_ranker": {"artifact": refs["ranker"], "metrics": {"auc": 0.7}},
        "evaluate_ranker": gate
        | {"metrics": {"ranker": {"ndcg_10": 0.4}, "xgboost": {"ndcg_10": 0.38}, "heads": {"click": {"auc": 0.7}}}},
    }
    for stage, result in results.items():
        write_result(settings, run, stage, result)
    _sequences(settings, day)
    return made


def write_result(settings: Settings, run: str, stage: str, result: dict[str, Any]) -> None:
    folder = datasets.run_folder(settings, RunId(run))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stage}.json").write_text(json.dumps(result | {"stage": stage, "seconds": 1.0}))


def _artifact(
    settings: Settings, run: str, kind: artifact.Kind, text: str, day: date, parents: dict[str, str] | None = None
) -> artifact.Artifact:
    as_of = datasets.end_of(day).isoformat()
    folder = datasets.models_folder(settings)
    with artifact.draft(folder, kind=kind, run=run, as_of=as_of, parents=parents) as draft:
        (draft.path / "weights.txt").write_text(text)
        draft.meta["dim"] = 128
    return draft.finished


def _catalogue(settings: Settings, run: str, day: date) -> artifact.Artifact:
    as_of = datasets.end_of(day).isoformat()
    with artifact.draft(datasets.models_folder(settings), kind="catalogue", run=run, as_of=as_of) as draft:
        catalogue.write(draft.path, pa.table({"item_id": ITEMS, "title": ITEMS}), {})
    return draft.finished


def _reference(settings: Settings, made: artifact.Artifact) -> dict[str, str]:
    path = made.path.relative_to(Path(settings.storage.root).resolve())
    return {"kind": made.manifest.kind, "version": made.manifest.version, "path": str(path)}


def _sequences(settings: Settings, day: date) -> None:
    rows = pa.table({"visitor_id": [*KNOWN_USERS, "session-9"], "is_user": [True, True, True, False]})
    datasets.lake(settings).write(datasets.SEQUENCES, day, rows)
