"""What child processes are given of the environment."""

import pytest

from recsys.settings import Settings, child_environment


@pytest.mark.parametrize(
    "name",
    [
        "OPENBLAS_CORETYPE",
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_CBWR",
        "BLIS_NUM_THREADS",
        "NUMEXPR_MAX_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "ONEDNN_MAX_CPU_ISA",
        "TF_ENABLE_ONEDNN_OPTS",
    ],
)
def test_children_compute_with_the_kernels_of_their_parent(
    name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    assert child_environment(settings)[name] == "1"


@pytest.mark.parametrize("name", ["TF_CONFIG", "AIRFLOW__CORE__FERNET_KEY", "AWS_SECRET_ACCESS_KEY", "TFX"])
def test_children_are_not_given_what_is_the_parents_own(
    name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "secret")
    assert name not in child_environment(settings)


def test_what_the_platform_needs_of_libraries_can_be_overruled(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert child_environment(settings)["TF_CPP_MIN_LOG_LEVEL"] == "2"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert child_environment(settings)["TF_CPP_MIN_LOG_LEVEL"] == "0"
