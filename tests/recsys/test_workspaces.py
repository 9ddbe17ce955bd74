"""One folder per shop, and a link to the one in use."""

from pathlib import Path

import pytest

from recsys import settings as configuration


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(configuration, "WORKSPACES", tmp_path)
    monkeypatch.delenv("RECSYS_STORAGE__ROOT", raising=False)
    return tmp_path


def test_the_simulated_shop_is_in_use_until_another_is_chosen(shops: Path) -> None:
    assert configuration.load().storage.root == str(shops / "simulator")
    configuration.choose_workspace("online_retail")
    assert configuration.load().storage.root == str(shops / "online_retail")
    configuration.choose_workspace("simulator")
    assert configuration.load().storage.root == str(shops / "simulator")


def test_a_storage_root_that_is_set_wins(shops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration.choose_workspace("online_retail")
    monkeypatch.setenv("RECSYS_STORAGE__ROOT", "/somewhere/else")
    assert configuration.load().storage.root == "/somewhere/else"
