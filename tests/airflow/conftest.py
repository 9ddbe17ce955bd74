"""The DAGs under a real Airflow with a database of its own; stages are played by a script, as other processes are."""

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def pytest_configure(config: pytest.Config) -> None:
    """Airflow reads its configuration when it is imported, so it is set before any test module is."""
    import tempfile

    home = tempfile.mkdtemp(prefix="airflow-tests-")
    config.add_cleanup(lambda: __import__("shutil").rmtree(home, ignore_errors=True))
    os.environ |= {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "RECSYS_STORAGE__ROOT": str(Path(home) / "var"),
        "RECSYS_NETWORK__BASE_PORT": "64000",
    }
    sys.path.insert(0, str(REPOSITORY))
    from airflow.utils import db

    db.initdb()
