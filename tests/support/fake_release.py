"""A whole release of the fake models, with its catalogue, index and online features: what a predictor can hold."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import fake_models
import pandas as pd
from feast.types import Array

from feature_repo import definitions, online, shoppers, store
from models import artifact
from models.release import Reference, Release, ReleaseId
from pipelines import build_index, datasets
from recsys.settings import Colour, Settings

DAY = date(2024, 3, 9)
NOW = datasets.end_of(DAY).timestamp()


def publish(
    settings: Settings,
    run: str = "r1",
    colour: Colour = "blue",
    seed: int = 1,
    shop: Callable[[Settings, date], None] = fake_models.write_shop,
    ranker: Callable[[Settings, str, date, str], artifact.Artifact] = fake_models.ranker,
) -> Release:
    """Build the artifacts of a run and write the release file of a colour."""
    run_id = datasets.RunId(run)
    shop(settings, DAY)
    trained = fake_models.retrieval(settings, run, DAY, seed)
    keep(settings, run_id, "train_retrieval", {"artifact": reference(settings, trained)})
    keep(settings, run_id, "evaluate_retrieval", {"passed": True, "reasons": []})
    keep(settings, run_id, "features", {"allow_repeats": True})
    built = build_index.build(build_index.Params(day=DAY, run=run_id), settings)
    root = Path(settings.storage.root)
    made = {
        "retrieval": trained,
        "index": artifact.load(root / built["artifact"]["path"], kind="index"),
        "catalogue": artifact.load(root / built["catalogue"]["path"], kind="catalogue"),
        "ranker": ranker(settings, run, DAY, trained.manifest.version),
    }
    release = Release(
        release_id=ReleaseId(run),
        released_at=datetime.now(UTC).isoformat(),
        as_of=datasets.end_of(DAY).isoformat(),
        colour=colour,
        artifacts={
            kind: Reference(a.manifest.version, reference(settings, a)["path"], a.digest) for kind, a in made.items()
        },
        feature_service="ranking_v1",
        previous=None,
        reason="test",
    )
    (root / "releases").mkdir(exist_ok=True)
    (root / "releases" / f"{colour}.json").write_text(release.to_json())
    return release


def keep(settings: Settings, run: datasets.RunId, stage: str, result: dict[str, Any]) -> None:
    """Leave the result of a stage as the stage itself would."""
    folder = datasets.run_folder(settings, run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stage}.json").write_text(json.dumps(result))


def reference(settings: Settings, made: artifact.Artifact) -> dict[str, str]:
    """An artifact as results and releases name it."""
    path = made.path.resolve().relative_to(Path(settings.storage.root).resolve())
    return {"kind": made.manifest.kind, "version": made.manifest.version, "path": str(path)}


def write_online(settings: Settings, view: str, **values: Any) -> None:
    """One row of a feature view in the online store; what is not given is 0, "" or []."""
    row: dict[str, Any] = {"event_timestamp": datasets.end_of(DAY)}
    for field in definitions.SCHEMAS[view]:
        empty: Any = [] if isinstance(field.dtype, Array) else "" if "String" in str(field.dtype) else 0
        row[field.name] = values.get(field.name, empty)
    row |= {name: value for name, value in values.items() if name.endswith("_id")}
    features = store.connect(settings, online.WRITE_TIMEOUT)
    features.write_to_online_store(view, pd.DataFrame([row]))


def known_user(settings: Settings, user_id: str, items: list[str]) -> None:
    """A user of France who bought items, the last an hour before the release's data end."""
    times = [int(NOW) - 3600 * (len(items) - k) for k in range(len(items))]
    write_online(settings, "user_profile", user_id=user_id, region="France", age_group="25-34")
    write_online(
        settings, "user_history", user_id=user_id,
        history_items=items, history_events=["purchase"] * len(items), history_times=times,
    )  # fmt: skip
    profile = {"region": "France", "age_group": "25-34", "items": items, "events": len(items)}
    with online.connect(settings.redis_url, online.WRITE_TIMEOUT) as client:
        shoppers.write_profiles(client, [(user_id, profile)])
