"""The tables of all runs, as MLflow's own reader puts them together."""

import os
from typing import Any
from unittest import mock

from pipelines import tracking
from recsys.settings import Settings


def read(settings: Settings, name: str) -> Any:
    """One frame of the tables of one name, with the tag of the pipeline run of each row."""
    client, url = tracking.connect(settings)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    with mock.patch.dict(os.environ, MLFLOW_TRACKING_URI=url):  # the reader asks the environment, not the client
        return client.load_table(experiment.experiment_id, f"{name}.json", extra_columns=[f"tags.{tracking.RUN_TAG}"])
