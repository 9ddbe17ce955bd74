"""The model registry: which versions of the models exist in MLflow, and which of them serve.

A registered version points to an artifact by its tags (version, path, digest). Its files stay in the storage root,
where predictors read and verify them; MLflow keeps the manifest and the model card beside the version.
"""

import logging
from collections.abc import Mapping
from typing import Any

from models.release import Release
from pipelines import tracking
from recsys.settings import Settings

MODELS: Mapping[str, str] = {"retrieval": "recsys-retrieval", "index": "recsys-index", "ranker": "recsys-ranker"}
PRODUCERS: Mapping[str, str] = {"retrieval": "train_retrieval", "index": "build_index", "ranker": "train_ranker"}
CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
VERSION_TAG = "recsys.artifact_version"
DIGEST_TAG = "recsys.artifact_digest"

log = logging.getLogger(__name__)


def register(run: tracking.Run, kind: str, source: str, tags: Mapping[str, str], description: str) -> str:
    """Register an artifact as a model version with the alias `candidate`; the same artifact is the same version.

    Args:
        run: the MLflow run that holds the artifact's manifest and card.
        kind: key of MODELS.
        source: URI of the folder in MLflow that holds them.
        tags: VERSION_TAG and DIGEST_TAG among them.

    Returns: MLflow's version number.
    """
    from mlflow.exceptions import MlflowException

    name, client = MODELS[kind], run.client
    with tracking.reaching(run.url):
        try:
            client.create_registered_model(name, description=f"What the `{PRODUCERS[kind]}` stage makes; see its card.")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        number = _version(client, name, tags[VERSION_TAG], tags[DIGEST_TAG])
        if number is None:
            made = client.create_model_version(
                name, source, run_id=run.id, tags=dict(tags), description=description, await_creation_for=30
            )
            number = str(made.version)
        else:
            client.update_model_version(name, number, description)
            for key, value in tags.items():
                client.set_model_version_tag(name, number, key, value)
        client.set_registered_model_alias(name, CANDIDATE, number)
    return number


def promote(settings: Settings, live: Release, before: Release | None) -> dict[str, str]:
    """Let `champion` name the models that serve and `previous` those that a rollback brings back.

    Returns: champion's version by model name; a model that was never registered is left out, with a warning.

    Raises:
        Retryable: MLflow is away; calling again sets it right.
    """
    client, url = tracking.connect(settings)
    champions = {}
    with tracking.reaching(url):
        for kind, name in MODELS.items():
            number = _of_release(client, name, kind, live)
            if number is None:
                log.warning("%s of release %s is not registered; run `register`", name, live.release_id)
                continue
            champions[name] = number
            client.set_registered_model_alias(name, CHAMPION, number)
            if _aliased(client, name, CANDIDATE) == number:
                client.delete_registered_model_alias(name, CANDIDATE)
            earlier = _of_release(client, name, kind, before) if before else None
            if earlier is None:
                client.delete_registered_model_alias(name, PREVIOUS)
            else:
                client.set_registered_model_alias(name, PREVIOUS, earlier)
    return champions


def aliases(settings: Settings) -> dict[str, dict[str, str]]:
    """Model name → alias → artifact version."""
    client, url = tracking.connect(settings)
    with tracking.reaching(url):
        return {
            name: {alias: _artifact_version(client, name, number) for alias, number in _aliases(client, name).items()}
            for name in MODELS.values()
        }


def _of_release(client: Any, name: str, kind: str, release: Release) -> str | None:
    reference = release.artifacts[kind]
    return _version(client, name, reference.version, reference.digest)


def _version(client: Any, name: str, artifact_version: str, digest: str) -> str | None:
    """The registered version of an artifact, or None."""
    found = client.search_model_versions(f"name = '{name}' AND tags.`{VERSION_TAG}` = '{artifact_version}'")
    return next((str(v.version) for v in found if v.tags.get(DIGEST_TAG) == digest), None)


def _aliases(client: Any, name: str) -> dict[str, str]:
    found = client.search_registered_models(f"name = '{name}'")
    return {alias: str(number) for alias, number in found[0].aliases.items()} if found else {}


def _aliased(client: Any, name: str, alias: str) -> str | None:
    return _aliases(client, name).get(alias)


def _artifact_version(client: Any, name: str, number: str) -> str:
    return str(client.get_model_version(name, number).tags.get(VERSION_TAG, ""))
