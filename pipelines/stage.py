"""What every stage has in common: parameters, a result as JSON, and an exit code that says whether to retry.

A stage module has `class Params(stage.Params)` and `def main(params: Params, settings: Settings) -> Result`. Where
several processes run one stage together, main returns None in all but the one that keeps the result. With
`class Params(stage.ReuseParams)` it also has `touches` (see `pipelines.reuse`), and may have
`def keep(params, settings, result)`, told of the earlier result that takes the place of a run of main. The mains of the
trainings import TensorFlow themselves, so that nobody waits for that to learn that nothing is to be done.
"""

import importlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import CliApp, CliExplicitFlag, SettingsConfigDict

from feature_repo import events
from pipelines import datasets, reuse
from pipelines.datasets import RunId
from recsys import settings as configuration
from recsys.errors import BadData, Exit, NothingToDo, RecsysError, UsageError
from recsys.settings import Settings

Result = dict[str, Any]
RUN_ONLY = {"run", "result", "reuse"}  # parameters that do not change what a stage makes
log = logging.getLogger(__name__)

# In the order of the daily DAG.
DAILY: Mapping[str, str] = {
    "ingest": "read a source into the staged events, items and users of a run",
    "quality": "quarantine bad rows, stop on a bad batch, publish the clean day",
    "trending": "decayed popularity per scope and co-visitation, with Spark",
    "features": "windowed user and item features and training sequences, with Spark",
    "materialize": "bring feature views, trending lists and watched sets to the online store",
    "train_retrieval": "train the two towers",
    "evaluate_retrieval": "gate: the towers against baselines and the live release",
    "build_index": "embed the catalogue and build the ScaNN index",
    "validate_index": "gate: the index against exact search, and its health",
    "train_ranker": "train the multi-task ranker",
    "evaluate_ranker": "gate: the ranker against retrieval order, what is free, and boosted trees",
    "register": "register the models in MLflow with card and aliases",
    "deploy": "bring the release live, blue-green",
}
# In DAGs of their own.
BESIDE: Mapping[str, str] = {
    "decisions": "publish what the API showed as a table, from the decision log",
    "email": "ask the API for an e-mail's recommendations to every active user",
}
STAGES: Mapping[str, str] = {**DAILY, **BESIDE}


class Params(BaseModel):
    """What every stage is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    day: date = Field(description="the data day to process, YYYY-MM-DD (UTC)")
    run: RunId = Field(description="name of the run; stages of one run share it", pattern=r"^[A-Za-z0-9._-]{1,80}$")
    result: Path | None = Field(None, description="also write the result, one JSON object, to this file")


class ReuseParams(Params):
    """What a stage is told that keeps what it made if nothing it reads has changed."""

    reuse: CliExplicitFlag[bool] = Field(
        True, description="keep what an earlier run made from the same data, parameters and code"
    )

    def facts(self) -> dict[str, Any]:
        """The parameters that the result depends on, and the event types of the shop's own."""
        return self.model_dump(mode="json", exclude=RUN_ONLY) | ({"events": own} if (own := events.custom()) else {})


def result_of(settings: Settings, run: RunId, stage: str) -> Result:
    """The result that an earlier stage of the same run left.

    Raises:
        BadData: it has not run.
    """
    path = datasets.run_folder(settings, run) / f"{stage}.json"
    try:
        found: Result = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadData(f"run {run!r} has no result of {stage}; run `python -m pipelines {stage}` first") from None
    return found


def require_passed(settings: Settings, run: RunId, gate: str) -> Result:
    """The result of a gate that must have passed.

    Raises:
        BadData: it has not run or has failed.
    """
    found = result_of(settings, run, gate)
    if not found["passed"]:
        raise BadData(f"{gate} of run {run!r} failed: {'; '.join(found['reasons'])}")
    return found


def run(stage: str, arguments: Sequence[str]) -> Exit:
    """Run one stage from its command line; the process edge where errors become exit codes."""
    try:
        settings = configuration.load()
        events.configure(settings.events.custom)
        if stage not in STAGES:
            raise UsageError(f"no stage {stage!r}; the stages are {', '.join(STAGES)}")
        module = importlib.import_module(f"pipelines.{stage}")
        params = _parse(module.Params, stage, arguments)
        started = time.monotonic()
        result = _made(module, stage, params, settings)
        if result is None:
            return Exit.OK
        _keep(
            result | {"stage": stage, "seconds": round(time.monotonic() - started, 2)},
            params,
            settings,
            stage,
        )
    except NothingToDo as nothing:
        log.info("%s: nothing to do: %s", stage, nothing)
        return nothing.exit_code
    except RecsysError as error:
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code
    return Exit.OK


def _made(module: Any, stage: str, params: Params, settings: Settings) -> Result | None:
    """The result of a stage: kept from an earlier run if that stage can tell that it would be the same."""
    if not isinstance(params, ReuseParams):
        return module.main(params, settings)  # type: ignore[no-any-return]
    record = reuse.Record(datasets.lake(settings).record(stage, params.day))
    digest = module.touches(params, settings).digest()
    kept = record.result(digest) if params.reuse else None
    if kept is not None and _stands(kept, settings):
        log.info("nothing that %s reads has changed since run %s: what that made stays", stage, kept["made_by"])
        if hasattr(module, "keep"):
            module.keep(params, settings, kept)
        return kept
    result: Result | None = module.main(params, settings)
    if result is None:
        return None
    result |= {"made_by": params.run}
    # What a stage of the data writes is part of the digest; what a training read may have been replaced meanwhile.
    after: reuse.Touched = module.touches(params, settings)
    record.keep(after.digest() if after.writes else digest, result)
    return result


def _stands(result: Result, settings: Settings) -> bool:
    """Whether the folders that a result points to are still there; partitions of the lake are in its digest."""
    named = [result.get("artifact", {}).get("path"), result.get("examples")]
    return all((Path(settings.storage.root) / path).is_dir() for path in named if path)


def _named(model: type[Params], stage: str) -> type[Params]:
    """The same parameters with the stage's own name and purpose in `--help`, and options as `--like-this`."""
    config = SettingsConfigDict(
        cli_prog_name=f"python -m pipelines {stage}", cli_kebab_case=True, frozen=True, extra="forbid"
    )
    return type(model.__name__, (model,), {"model_config": config, "__doc__": STAGES[stage], "__module__": __name__})


def _parse(model: type[Params], stage: str, arguments: Sequence[str]) -> Params:
    try:
        return CliApp.run(_named(model, stage), cli_args=list(arguments))
    except ValidationError as error:
        problems = "; ".join(f"--{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"{stage}: {problems}") from error


def _keep(result: Result, params: Params, settings: Settings, stage: str) -> None:
    """Print the result as one line, and write it where later stages and the scheduler look for it."""
    line = json.dumps(result, default=str, sort_keys=True)
    targets = [datasets.run_folder(settings, params.run) / f"{stage}.json", params.result]
    for target in filter(None, targets):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = target.with_name(f".{target.name}.tmp")
        work.write_text(line)
        work.replace(target)
    sys.stdout.write(line + "\n")
