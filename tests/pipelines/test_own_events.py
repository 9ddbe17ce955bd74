"""Event types of the shop's own: known wherever types are, and no harm to a model that was trained before them."""

import json
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest

from feature_repo import events, moments
from models import vocabulary
from pipelines import expectations, reuse, stage
from pipelines.sources import bus, source
from recsys.errors import BadData

LINE = {"event_id": "e1", "session_id": "s1", "item_id": "mug", "event": "play_trailer"} | {
    "event_time": "2026-03-10T12:00:00Z"
}
BATCH = pa.RecordBatch.from_pylist([{"event": "play_trailer"}, {"event": "report"}])


def weights(*kinds: str) -> list[float]:
    """What the ranking features make of types of events."""
    code_of, weight, _ = moments._by_type(tuple(events.SIGNAL_WEIGHT.items()))
    return [float(weight[code_of.get(kind, -1)]) for kind in kinds]


def test_the_bus_and_the_adapters_take_them(own_events: None) -> None:
    assert bus.event(json.dumps(LINE).encode())["event"] == "play_trailer"
    source.check_event_types(BATCH, "shop.csv")


def test_without_being_configured_they_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown event type 'play_trailer'"):
        bus.event(json.dumps(LINE).encode())
    with pytest.raises(BadData, match="play_trailer"):
        source.check_event_types(BATCH, "shop.csv")


def test_the_quality_gate_knows_them(own_events: None) -> None:
    moment = datetime(2026, 3, 10, tzinfo=UTC)
    rules = expectations.event_rules(moment, 100, expectations.Limits())
    [rule] = [rule for rule in rules if rule.name == "unknown_event_type"]
    assert "'play_trailer'" in rule.broken
    assert "report" in rule.says


def test_they_weigh_in_features_and_unknown_ones_nothing(own_events: None) -> None:
    assert weights("play_trailer", "report", "purchase", "unheard of") == [0.5, 0.0, 4.0, 0.0]


def test_after_a_change_of_types_a_result_is_made_anew(own_events: None) -> None:
    params = stage.ReuseParams(day=date(2026, 3, 10), run="r")
    before = reuse.Touched(facts=params.facts()).digest()
    events.configure({})
    assert reuse.Touched(facts=params.facts()).digest() != before


def test_a_model_from_before_a_type_reads_it_as_unknown(own_events: None) -> None:
    """Its own types keep their numbers, and the later one has that of a value that training never saw."""
    old = vocabulary.Vocabulary((), (), (), (), (), (), events=("impression", "click", "view"))
    new = vocabulary.Vocabulary((), (), (), (), (), ())
    assert new.events[-2:] == ("play_trailer", "report")
    known = vocabulary.Lookup(old)("events", np.array(["view", "dislike", "play_trailer", ""]))
    assert known.numpy().tolist() == [4, 1, 1, 0]
