"""A shop's own event types come from the environment, and bad ones are refused with their name."""

import pytest

from feature_repo import events
from recsys import settings as configuration
from recsys.errors import Exit, Permanent


def test_own_types_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_EVENTS__CUSTOM", '{"play_trailer": {"weight": 0.5, "polarity": "positive"}}')
    settings = configuration.load()
    assert settings.events.custom["play_trailer"].weight == 0.5
    assert "RECSYS_EVENTS__CUSTOM" in configuration.child_environment(settings)


@pytest.mark.parametrize(
    ("custom", "named"),
    [
        ('{"Play": {"weight": 1, "polarity": "positive"}}', "Play"),
        ('{"play": {"weight": 0, "polarity": "positive"}}', "greater than 0"),
        ('{"play": {"weight": 1, "polarity": "neutral"}}', "neutral"),
        ('{"play": {"weight": 1}}', "polarity"),
        ("{" + ", ".join(f'"p{n}": {{"weight": 1, "polarity": "positive"}}' for n in range(33)) + "}", "at most 32"),
        ("play", "JSON"),
    ],
)
def test_bad_own_types_are_refused(monkeypatch: pytest.MonkeyPatch, custom: str, named: str) -> None:
    monkeypatch.setenv("RECSYS_EVENTS__CUSTOM", custom)
    with pytest.raises(Permanent, match=named):
        configuration.load()


def test_a_stage_refuses_the_name_of_a_built_in_type(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import stage

    monkeypatch.setenv("RECSYS_EVENTS__CUSTOM", '{"view": {"weight": 9, "polarity": "positive"}}')
    assert stage.run("ingest", []) is Exit.CONFIG
    assert events.SIGNAL_WEIGHT["view"] == 1
