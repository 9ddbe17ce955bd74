"""The decision log becomes a table, and a re-run loses and doubles nothing."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines import datasets, decisions
from pipelines.datasets import RunId
from recsys import bus
from recsys.settings import Settings

DAY = datetime.now(UTC).date()
NOON = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC).timestamp()
THOMPSON = {"name": "thompson", "version": "1", "edition": "e5"}


def line(request_id: str, time: float = NOON, **changes: Any) -> dict[str, Any]:
    """A response of two items, the second explored."""
    item = {"score": 0.5, "sources": ["personal"], "reason": "Picked for you", "propensity": 1.0, "explored_by": {}}
    return {
        "request_id": request_id,
        "time": time,
        "ask": {"user_id": "ann", "session_id": "", "surface": "home", "region": "", "count": 2},
        "release_id": "r1",
        "rung": "ranked",
        "experiments": [
            {"experiment": "feed", "variant": "rules", "unit": "user", "missed": ""},
            {"experiment": "late", "variant": "new", "unit": "user", "missed": "away"},
        ],
        "items": [
            item | {"item_id": "mug", "position": 0},
            item | {"item_id": "pot", "position": 1, "propensity": 0.25, "explored_by": THOMPSON},
        ],
    } | changes


def logged(settings: Settings, *lines: Any) -> None:
    with bus.Log(Path(settings.storage.root), decisions.TOPIC) as log:
        log.append([json.dumps(found).encode() for found in lines]).result(5)


def run(settings: Settings) -> dict[str, Any]:
    return decisions.main(decisions.Params(day=DAY, run=RunId("r")), settings)


def table(settings: Settings, day: date = DAY) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = datasets.lake(settings).read(datasets.DECISIONS, day).to_pylist()
    return found


def test_every_shown_item_is_a_row_with_its_propensity(settings: Settings) -> None:
    logged(settings, line("q1"))
    assert run(settings) == {"written": {str(DAY): 2}, "refused": 0}
    mug, pot = table(settings)
    assert (mug["item_id"], mug["propensity"], mug["policy"]) == ("mug", 1.0, "")
    assert (pot["position"], pot["propensity"], pot["policy"], pot["policy_edition"]) == (1, 0.25, "thompson", "e5")
    assert pot["experiments"] == [{"experiment": "feed", "variant": "rules"}]
    assert (pot["user_id"], pot["surface"], pot["release_id"], pot["time"].hour) == ("ann", "home", "r1", 12)


def test_a_second_run_adds_what_is_new_and_keeps_what_has_left_the_bus(settings: Settings) -> None:
    logged(settings, line("q1"))
    run(settings)
    first = table(settings)
    assert run(settings)["written"] == {str(DAY): 2}
    assert table(settings) == first
    bus.delete(bus.closed(Path(settings.storage.root), decisions.TOPIC))
    logged(settings, line("q2", NOON + 1), line("q2", NOON + 1))
    assert run(settings)["written"] == {str(DAY): 4}
    assert [row["request_id"] for row in table(settings)] == ["q1", "q1", "q2", "q2"]


def test_the_day_before_is_completed_and_older_ones_are_left(settings: Settings) -> None:
    logged(settings, line("q1"))
    run(settings)
    logged(settings, line("late", NOON - 86_400), line("old", NOON - 2 * 86_400))
    assert len(run(settings)["written"]) == 2
    assert len(datasets.lake(settings).days(datasets.DECISIONS)) == 2


def test_days_that_no_run_has_read_are_read_by_the_next(settings: Settings) -> None:
    logged(settings, line("q1", NOON - 5 * 86_400), line("q2", NOON - 3 * 86_400))
    assert len(run(settings)["written"]) == 2, "the first run of all"
    logged(settings, line("q3", NOON - 2 * 86_400), line("q4"), line("older", NOON - 5 * 86_400))
    assert list(run(settings)["written"]) == [str(DAY - timedelta(days=back)) for back in (3, 2, 0)]


def test_a_line_that_is_no_decision_is_counted_and_harms_nothing(settings: Settings) -> None:
    logged(settings, {"hello": 1}, line("q1"), line("q2", items=[{"item_id": "mug"}]), line("q3", time="noon"))
    assert run(settings) == {"written": {str(DAY): 2}, "refused": 3}


def test_nothing_logged_is_nothing_written(settings: Settings) -> None:
    assert run(settings) == {"written": {}, "refused": 0}
