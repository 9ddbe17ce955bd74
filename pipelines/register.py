"""Register a run's models in MLflow: versions with the alias `candidate`, a card each, and figures to compare runs by.

A registered version points to the verified artifact by version, path and digest; `deploy` moves the aliases
`champion` and `previous` when a release goes live. Registering twice changes nothing but the newest texts.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import artifact
from pipelines import card, datasets, registry, stage, tracking
from pipelines.tracking import Run
from recsys.errors import BadData
from recsys.settings import Settings

GATES = ("evaluate_retrieval", "validate_index", "evaluate_ranker")
KINDS: tuple[artifact.Kind, ...] = ("retrieval", "index", "ranker")
_KEY_FIGURES = {"retrieval": "evaluate_retrieval", "index": "validate_index", "ranker": "evaluate_ranker"}
_MAX_FIGURES = 20  # tags of a version are read by people

log = logging.getLogger(__name__)


class Params(stage.Params):
    pass


def main(params: Params, settings: Settings) -> stage.Result:
    """Register the three models of a run whose gates have all passed.

    Raises:
        BadData: a gate has failed or has not run.
        ArtifactError: an artifact is not what its manifest says.
        Retryable: MLflow is away.
    """
    for gate in GATES:
        stage.require_passed(settings, params.run, gate)
    results = _results(params, settings)
    folder = datasets.run_folder(settings, params.run) / "register"
    parent = tracking.pipeline_run(settings, params.run)
    registered = {}
    with tracking.stage_run(settings, params.run, "register", params.model_dump(exclude={"result"})) as run:
        for kind in KINDS:
            reference = results[registry.PRODUCERS[kind]]["artifact"]
            made = artifact.load(Path(settings.storage.root).resolve() / reference["path"], kind=kind)
            tags = _tags(params, settings, made, reference["path"], results)
            text = card.markdown(kind, results, tags)
            _write(folder / kind, made, text)
            parent.artifacts(folder / kind, f"models/{kind}")
            number = registry.register(parent, kind, f"runs:/{parent.id}/models/{kind}", tags, text)
            registered[registry.MODELS[kind]] = {"version": number, "artifact": made.manifest.version}
            log.info("%s version %s is %s", registry.MODELS[kind], number, made.manifest.version)
        figures = _summarise(parent, params, settings, results, folder)
        run.params({name: entry["version"] for name, entry in registered.items()})
    return {"models": registered, "card": str(folder), "figures": figures, "mlflow_run": parent.id}


def _results(params: Params, settings: Settings) -> dict[str, stage.Result]:
    """What the stages of the run have left; a stage that did not run is not among them."""
    found = {}
    for name in stage.DAILY:
        try:
            found[name] = stage.result_of(settings, params.run, name)
        except BadData:
            continue
    return found


def _tags(
    params: Params, settings: Settings, made: artifact.Artifact, path: str, results: Mapping[str, stage.Result]
) -> dict[str, str]:
    """What a version is known by: identity, origin, and the figures of its gate."""
    figures = tracking.flat(results[_KEY_FIGURES[made.manifest.kind]].get("metrics", {}))
    parents = {f"recsys.parent.{kind}": version for kind, version in made.manifest.parents.items()}
    shortest = sorted(figures, key=lambda name: (name.count("/"), name))[:_MAX_FIGURES]
    return {
        registry.VERSION_TAG: made.manifest.version,
        registry.DIGEST_TAG: made.digest,
        "recsys.path": path,
        "recsys.day": params.day.isoformat(),
        "recsys.as_of": made.manifest.as_of,
        **parents,
        **tracking.provenance(settings, params.run),
        **{f"metric.{name}": f"{figures[name]:.6g}" for name in shortest},
    }


def _write(folder: Path, made: artifact.Artifact, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.md").write_text(text)
    shutil.copyfile(made.path / artifact.MANIFEST, folder / artifact.MANIFEST)


def _summarise(
    parent: Run, params: Params, settings: Settings, results: Mapping[str, stage.Result], folder: Path
) -> dict[str, Any]:
    """Figures and plots on the run of the whole pipeline, so that two runs compare at a glance."""
    figures: dict[str, Any] = {name: dict(table) for name, table in card.comparisons(results).items()}
    towers = results["evaluate_retrieval"].get("metrics", {})
    seconds = {name: result["seconds"] for name, result in results.items() if "seconds" in result}
    parent.metrics(card.compared(results) | {"seconds": seconds})
    tables = "\n\n".join(f"## {name}\n\n{card.table(table)}" for name, table in figures.items() if table)
    parent.tags({"view": towers.get("view", ""), tracking.NOTE_TAG: tables})
    (folder / "comparison.md").write_text(tables + "\n")
    (folder / "comparison.json").write_text(json.dumps(figures, indent=1))
    parent.file(folder / "comparison.md")
    parent.file(folder / "comparison.json")
    for plot in sorted(datasets.run_folder(settings, params.run).glob("*/**/*.png")):
        parent.file(plot, f"plots/{plot.relative_to(datasets.run_folder(settings, params.run)).parts[0]}")
    return figures
