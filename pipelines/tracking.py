"""What a stage did, in MLflow: one nested run per stage under the one run of the pipeline run.

    with tracking.stage_run(settings, params.run, "train_retrieval", params.model_dump()) as run:
        run.metrics_at(epoch, {"loss": loss})
        run.artifacts(folder)

The parent is found by its tag `recsys.run_id`, so stages in different processes and in any order meet under it.
A stage that runs again replaces its nested run: the curves of two attempts never mix.
"""

import fcntl
import logging
import math
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipelines import card, datasets, stage
from pipelines.datasets import RunId
from recsys import typechecks
from recsys.errors import BadData, Permanent, RecsysError, Retryable
from recsys.settings import REPOSITORY, Settings

EXPERIMENT = "recsys"
RUN_TAG = "recsys.run_id"
STAGE_TAG = "recsys.stage"
NOTE_TAG = "mlflow.note.content"
KEPT_TAG = "recsys.made_by"  # the run whose result stays, on a stage that had nothing new to do
WHOLE = "pipeline"  # what the parent run has in the place of a stage
TRAININGS = ("train_retrieval", "train_ranker")  # their parameters are what two pipeline runs differ by
_MAX_PARAM = 6000  # MLflow refuses longer values
_MAX_TAG = 8000
_MAX_BATCH = 100  # params or tags one request of MLflow may carry

log = logging.getLogger(__name__)
typechecks.skip()


@dataclass(frozen=True)
class Run:
    """One MLflow run that is being written.

    Attributes:
        client: an `mlflow.MlflowClient`.
        id: MLflow's id of this run.
        parent: MLflow's id of the pipeline run, or the same id where this is the parent itself.
        url: where the tracking server is, for messages.
        stage: whose run it is; "" where this is the parent.
    """

    client: Any
    id: str
    parent: str
    url: str
    stage: str = ""

    @property
    def whole(self) -> "Run":
        """The pipeline run that this one is a part of."""
        return Run(self.client, self.parent, self.parent, self.url)

    def params(self, values: Mapping[str, object]) -> None:
        """Log inputs. A value cannot be changed once logged; the stage that runs again has a new run.

        Those of a training stand on the pipeline run as well, beside its figures, so that a comparison of two pipeline
        runs shows what made the difference: as tags, because a training that runs again may be told otherwise.
        """
        from mlflow.entities import Param

        self._batches("params", [Param(key, str(value)[:_MAX_PARAM]) for key, value in values.items()])
        if self.stage in TRAININGS:
            told = {f"{self.stage}.{key}": value for key, value in values.items() if key not in stage.RUN_ONLY}
            self.whole.tags(told)

    def tags(self, values: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag

        self._batches("tags", [RunTag(key, str(value)[:_MAX_TAG]) for key, value in values.items()])

    def verdict(self, passed: bool, reasons: Sequence[str], metrics: Mapping[str, object]) -> None:
        """Say how a gate decided: as a metric, as tags, and as the run's description, which its page opens with.

        The figures that pipeline runs are compared by go to the pipeline run at once: one that is refused is the very
        one that somebody will compare, and nothing is registered of it.
        """
        self.metrics({**metrics, "passed": passed})
        self.whole.metrics(card.compared({self.stage: {"metrics": metrics}}) | {f"{self.stage}/passed": passed})
        note = "\n".join(f"- {reason}" for reason in reasons)
        self.tags({"passed": passed, "reasons": "; ".join(reasons), NOTE_TAG: note})

    def metrics(self, values: Mapping[str, object]) -> None:
        """Log results; nested mappings become `outer/inner`, what is not a finite number is left out."""
        self.metrics_at(0, values)

    def metrics_at(self, step: int, values: Mapping[str, object]) -> None:
        """Log one point of each curve."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        points = [Metric(name, value, now, step) for name, value in flat(values).items()]
        self._batches("metrics", points)

    def table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Keep rows as the table `name`.json. MLflow shows the tables of one name of several runs side by side."""
        columns = dict.fromkeys(column for row in rows for column in row)
        with reaching(self.url):
            data = {column: [row.get(column) for row in rows] for column in columns}
            self.client.log_table(self.id, data, f"{name}.json")

    def artifacts(self, folder: Path, under: str | None = None) -> None:
        """Keep a folder of reports and plots; nothing happens if there is no such folder."""
        if folder.is_dir():
            with reaching(self.url):
                self.client.log_artifacts(self.id, str(folder), under)

    def file(self, path: Path, under: str | None = None) -> None:
        """Keep one file."""
        with reaching(self.url):
            self.client.log_artifact(self.id, str(path), under)

    def text(self, text: str, name: str) -> None:
        """Keep one text, such as a model card, as the artifact `name`."""
        with reaching(self.url):
            self.client.log_text(self.id, text, name)

    def _batches(self, kind: str, entries: list[Any]) -> None:
        with reaching(self.url):
            for start in range(0, len(entries), _MAX_BATCH):
                self.client.log_batch(self.id, **{kind: entries[start : start + _MAX_BATCH]})


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, float]:
    """Numbers of a nested mapping by `outer/inner` name, in characters that MLflow allows."""
    found: dict[str, float] = {}
    for key, value in values.items():
        name = prefix + "".join(c if c.isalnum() or c in "_-./ " else "_" for c in str(key))
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}/")
        elif isinstance(value, bool | int | float) and math.isfinite(value):
            found[name] = float(value)
    return found


@contextmanager
def stage_run(settings: Settings, run: RunId, name: str, params: Mapping[str, object]) -> Iterator[Run]:
    """The nested run of a stage; it ends FINISHED or FAILED as the block does.

    Logs the parameters, the seed, the code's commit and the fingerprint of the data.

    Raises:
        Retryable: the tracking server is away; the message names its URL.
    """
    client, url = connect(settings)
    with reaching(url):
        parent = _parent(client, settings, run)
        _delete_earlier(client, parent, name)
        tags = {STAGE_TAG: name, "mlflow.parentRunId": parent.info.run_id} | provenance(settings, run)
        nested = client.create_run(parent.info.experiment_id, tags=tags, run_name=name)
    tracked = Run(client, nested.info.run_id, parent.info.run_id, url, name)
    try:
        tracked.params({**params, "seed": settings.seed})
        yield tracked
    except BaseException:
        _end(tracked, "FAILED")
        raise
    _end(tracked, "FINISHED")


def kept(settings: Settings, run: RunId, name: str, params: Mapping[str, object], result: Mapping[str, Any]) -> None:
    """The nested run of a stage whose earlier result stays: its figures, its plots, and which run made them."""
    with stage_run(settings, run, name, params) as tracked:
        tracked.tags({KEPT_TAG: result["made_by"]})
        tracked.metrics(result["metrics"])
        tracked.artifacts(datasets.run_folder(settings, result["made_by"]) / name / "plots")


def pipeline_run(settings: Settings, run: RunId) -> Run:
    """The parent run of a pipeline run, made if there is none yet.

    Raises:
        Retryable: the tracking server is away.
    """
    client, url = connect(settings)
    with reaching(url):
        parent = _parent(client, settings, run)
    return Run(client, parent.info.run_id, parent.info.run_id, url)


def connect(settings: Settings) -> tuple[Any, str]:
    """An MLflow client and the URL it talks to; state of its own, nothing global.

    MLflow takes two seconds to import, which `--help` and the stages' tests need not pay.
    """
    import mlflow

    url = settings.mlflow_url
    with reaching(url):
        return mlflow.MlflowClient(tracking_uri=url, registry_uri=url), url


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn what MLflow raises into our two kinds of error.

    How long MLflow tries is bounded by `recsys.settings.LIBRARIES`.
    """
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.get_http_status_code() < 500:
            raise Permanent(f"MLflow at {url} refused: {error}") from error
        raise Retryable(f"MLflow at {url} does not answer ({_first_line(error)}); is it up? `recsys status`") from error
    except (requests.RequestException, ConnectionError) as error:
        raise Retryable(f"MLflow at {url} does not answer ({_first_line(error)}); is it up? `recsys status`") from error


def provenance(settings: Settings, run: RunId) -> dict[str, str]:
    """Where a result comes from: pipeline run, data fingerprint, commit of the code."""
    found = {RUN_TAG: run, "recsys.seed": str(settings.seed)}
    if fingerprint := _fingerprint(settings, run):
        found["recsys.data_fingerprint"] = fingerprint
    if commit := _commit():
        found["mlflow.source.git.commit"] = commit
    return found


def _fingerprint(settings: Settings, run: RunId) -> str:
    try:
        return str(stage.result_of(settings, run, "ingest").get("fingerprint", ""))
    except BadData:
        return ""  # a stage of a run that took its data from an earlier one


@lru_cache
def _commit() -> str:
    """The commit of the code with `-dirty` where files differ from it; empty outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _parent(client: Any, settings: Settings, run: RunId) -> Any:
    """The parent run, made once: stages of one run start at the same moment, so a lock stands between them."""
    folder = datasets.run_folder(settings, run)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".tracking.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        experiment = _experiment(client, settings)
        query = f"tags.`{RUN_TAG}` = '{run}' AND tags.`{STAGE_TAG}` = '{WHOLE}'"
        found = client.search_runs([experiment], query, max_results=1, order_by=["attributes.start_time ASC"])
        if found:
            return found[0]
        tags = {STAGE_TAG: WHOLE, **provenance(settings, run)}
        return client.create_run(experiment, tags=tags, run_name=run)


def _experiment(client: Any, settings: Settings) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    # A server knows its own artifact store; a bare database would put artifacts into the working directory.
    served = settings.mlflow_url.startswith(("http://", "https://"))
    place = None if served else (Path(settings.storage.root).resolve() / "mlflow" / "artifacts").as_uri()
    # Without the kind, the page opens on charts for language-model agents instead of on the runs.
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return str(client.create_experiment(EXPERIMENT, artifact_location=place, tags=kind))


def _delete_earlier(client: Any, parent: Any, name: str) -> None:
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND tags.`{STAGE_TAG}` = '{name}'"
    for earlier in client.search_runs([parent.info.experiment_id], query):
        client.delete_run(earlier.info.run_id)


def _end(run: Run, status: str) -> None:
    """Close a run; the parent is as good as its last stage."""
    try:
        with reaching(run.url):
            run.client.set_terminated(run.id, status)
            run.client.set_terminated(run.parent, status)
    except RecsysError as error:
        if status == "FINISHED":
            raise
        log.warning("the failure of this stage is not in MLflow: %s", error)  # the first error is the one to see


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
