"""Feast is imported without the run-time checks that typeguard would compile into it."""

import subprocess
import sys

from recsys.settings import REPOSITORY

ASK = """
{first}
import feast
names = feast.Entity.__init__.__code__.co_names + feast.Entity.__init__.__code__.co_freevars
print("check_argument_types" in str(names) + str(feast.Entity.__init__.__code__.co_consts))
"""


def checked(first: str) -> str:
    ask = [sys.executable, "-c", ASK.format(first=first)]
    return subprocess.run(ask, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


def test_feast_is_compiled_once_where_our_features_or_mlflow_are_asked_for() -> None:
    assert checked("") == "True", "Feast checks no types any more: this module can go"
    assert checked("import feature_repo") == "False"
    assert checked("import pipelines.tracking") == "False"
