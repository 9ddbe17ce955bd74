"""Events of the API: read from closed segments, and no line is ever lost."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import datasets, sources
from pipelines.sources import canonical, received
from pipelines.sources.bus import Bus, event
from recsys import bus
from recsys.errors import BadData
from recsys.settings import Settings

GOOD = {
    "event_id": "a1",
    "user_id": "u1",
    "session_id": "s1",
    "item_id": "i1",
    "event": "purchase",
    "value": 3,
    "quantity": 1,
    "event_time": "2026-01-05T10:00:00.250+01:00",
    "ingested_at": "2026-01-05T09:00:01Z",
}
BAD = [
    (b'{"event_id": "b1"', "Expecting"),
    (json.dumps(GOOD | {"colour": "red"}).encode(), "unknown columns ['colour']"),
    (json.dumps(GOOD | {"event": "stare"}).encode(), "unknown event type 'stare'"),
    (json.dumps(GOOD | {"item_id": ""}).encode(), "item_id is empty"),
    (json.dumps(GOOD | {"quantity": "two"}).encode(), "quantity must be int, got 'two'"),
    (json.dumps(GOOD | {"event_time": "noon"}).encode(), "noon"),
    (b"[1, 2]", "not a JSON object"),
]


def _segment(root: Path, lines: list[bytes], name: str = "0001") -> None:
    folder = bus.folder(root, "events")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def _ids(source: Bus, since: datetime = sources.BEGINNING, until: datetime = sources.END) -> list[str]:
    return [row["event_id"] for batch in source.events(since, until) for row in batch.to_pylist()]


def test_what_the_log_wrote_is_read_back(tmp_path: Path) -> None:
    with bus.Log(tmp_path, "events") as log:
        log.append([json.dumps(GOOD).encode()]).result(10)
    source = Bus(tmp_path)
    row = next(source.events(sources.BEGINNING, sources.END)).to_pylist()[0]
    assert row["event_time"] == datetime(2026, 1, 5, 9, 0, 0, 250_000, tzinfo=UTC)
    assert row["ingested_at"] == datetime(2026, 1, 5, 9, 0, 1, tzinfo=UTC)
    assert (row["value"], row["quantity"], row["surface"]) == (3.0, 1, None)
    assert source.last() == row["event_time"]


def test_bad_lines_are_set_aside_with_their_reason_and_the_others_are_read(tmp_path: Path) -> None:
    _segment(tmp_path, [json.dumps(GOOD).encode(), *(line for line, _ in BAD)])
    _segment(tmp_path, [json.dumps(GOOD | {"event_id": "a2"}).encode()], "0002")
    source = Bus(tmp_path, tmp_path / "aside.jsonl")
    assert _ids(source) == ["a1", "a2"]
    assert source.dropped == {"bad_bus_line": len(BAD)}
    aside = [json.loads(line) for line in (tmp_path / "aside.jsonl").read_text().splitlines()]
    assert [entry["line"].encode() for entry in aside] == [line for line, _ in BAD]
    for entry, (_, reason) in zip(aside, BAD, strict=True):
        assert reason in entry["reason"]
    _ids(source)  # again: nothing is counted or written twice
    assert len((tmp_path / "aside.jsonl").read_text().splitlines()) == len(BAD)


def test_what_was_received_at_a_wrong_time_is_no_event_of_its_day(tmp_path: Path) -> None:
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    ages = {
        "on time": timedelta(days=30),
        "late": timedelta(days=30, seconds=1),
        "ahead": -timedelta(days=1, seconds=1),
    }
    lines = [
        GOOD | {"event_id": name, "ingested_at": moment.isoformat(), "event_time": (moment - age).isoformat()}
        for name, age in ages.items()
    ]
    unknown = {name: value for name, value in GOOD.items() if name != "ingested_at"} | {"event_id": "says nothing"}
    _segment(tmp_path, [json.dumps(line).encode() for line in (*lines, unknown)])
    assert _ids(Bus(tmp_path)) == ["on time", "says nothing"]
    strays = {reason: batch.column("event_id").to_pylist() for reason, batch in Bus(tmp_path).strays()}
    assert strays == {"late": ["late"], "future": ["ahead"]}
    assert Bus(tmp_path).last() == moment - timedelta(days=30)


def test_the_catalogue_is_the_newest_published_one(settings: Settings, tiny_shop: Path) -> None:
    lake = datasets.lake(settings)
    with pytest.raises(BadData, match="no items have been published yet"):
        list(Bus(lake.root).items(sources.END))
    items = pa.Table.from_batches(canonical.Canonical(tiny_shop).items(sources.END))
    lake.write(datasets.ITEMS, date(2026, 1, 6), items.slice(0, 3))
    lake.write(datasets.ITEMS, date(2026, 1, 7), items.slice(0, 5))
    assert sum(batch.num_rows for batch in Bus(lake.root).items(sources.END)) == 5
    assert sum(batch.num_rows for batch in Bus(lake.root).items(datetime(2026, 1, 7, tzinfo=UTC))) == 3


def test_one_line_as_a_row() -> None:
    assert event(json.dumps(GOOD).encode())["quantity"] == 1
    with pytest.raises(TypeError, match="value must be double"):
        event(json.dumps(GOOD | {"value": True}).encode())


LIMIT = datetime(2026, 1, 12, tzinfo=UTC)


def _opened(moment: datetime) -> str:
    """The name of a segment that was opened at a moment."""
    return f"{int(moment.timestamp() * 1e9):020d}-77-0a1b2c3d"


def _good(event_id: str, time: str = "2026-01-05T10:00:00Z") -> bytes:
    return json.dumps(GOOD | {"event_id": event_id, "event_time": time}).encode()


def test_old_segments_move_to_the_lake_and_are_read_from_there(tmp_path: Path) -> None:
    _segment(tmp_path, [_good("a1"), _good("a2", "2026-01-06T00:00:00Z")], _opened(datetime(2026, 1, 6, tzinfo=UTC)))
    _segment(tmp_path, [_good("a3")], _opened(LIMIT))
    before = list(Bus(tmp_path).events(sources.BEGINNING, sources.END))
    assert Bus(tmp_path).retire(LIMIT) == 1
    assert [path.name for path in bus.closed(tmp_path, "events")] == [f"{_opened(LIMIT)}.jsonl"]
    assert datasets.Lake(tmp_path).days(datasets.RECEIVED) == [date(2026, 1, 5), date(2026, 1, 6)]
    after = pa.Table.from_batches(Bus(tmp_path).events(sources.BEGINNING, sources.END))
    assert after.sort_by("event_id") == pa.Table.from_batches(before).sort_by("event_id")
    assert Bus(tmp_path).retire(LIMIT) == 0
    assert Bus(tmp_path).last() == datetime(2026, 1, 6, tzinfo=UTC)


def test_only_the_days_of_the_window_are_read_from_the_lake(tmp_path: Path) -> None:
    lines = [_good(f"a{day}", f"2026-01-0{day}T23:59:59Z") for day in (4, 5, 6)]
    _segment(tmp_path, lines, _opened(datetime(2026, 1, 6, tzinfo=UTC)))
    Bus(tmp_path).retire(LIMIT)
    source = Bus(tmp_path)
    assert len(source.files()) == 3
    assert _ids(source, datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC)) == ["a5"]
    assert [path.parent.name for path in source.files()] == ["day=2026-01-05"]


def test_a_late_event_is_still_there_when_its_day_is_run_again(tmp_path: Path) -> None:
    lake = datasets.Lake(tmp_path)
    lake.write(datasets.EVENTS, date(2026, 1, 5), pa.table({"event_id": ["published"]}))
    _segment(tmp_path, [_good("late")], _opened(datetime(2026, 1, 8, tzinfo=UTC)))
    Bus(tmp_path).retire(LIMIT)
    assert _ids(Bus(tmp_path), datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC)) == ["late"]


def test_a_segment_with_a_line_that_is_no_event_stays_whole(tmp_path: Path) -> None:
    name = _opened(datetime(2026, 1, 6, tzinfo=UTC))
    _segment(tmp_path, [_good("a1"), b"[1, 2]"], name)
    torn = bus.folder(tmp_path, "events") / f"{name}.torn"
    torn.write_bytes(b'{"event_id"')
    assert Bus(tmp_path).retire(LIMIT) == 0
    assert _ids(Bus(tmp_path)) == ["a1"]
    assert not datasets.Lake(tmp_path).days(datasets.RECEIVED)
    assert torn.exists()


def test_nothing_is_deleted_that_the_lake_has_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _segment(tmp_path, [_good("a1")], _opened(datetime(2026, 1, 6, tzinfo=UTC)))

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(received.bus, "sync_folder", full)
    with pytest.raises(OSError, match="No space left"):
        Bus(tmp_path).retire(LIMIT)
    assert len(bus.closed(tmp_path, "events")) == 1


def test_one_bad_segment_keeps_no_other_from_leaving(tmp_path: Path) -> None:
    for number, lines in enumerate(([_good("a0")], [b"[1]", _good("a1")], [_good("a2")])):
        _segment(tmp_path, lines, _opened(datetime(2026, 1, 6, 0, 0, number, tzinfo=UTC)))
    assert Bus(tmp_path).retire(LIMIT) == 2
    assert len(bus.closed(tmp_path, "events")) == 1
    assert sorted(_ids(Bus(tmp_path))) == ["a0", "a1", "a2"]


def test_many_segments_are_moved_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sources.bus.TOGETHER", 1)
    monkeypatch.setattr("pipelines.sources.bus.RETIRED_ROWS", 2)
    for number in range(5):
        opened = datetime(2026, 1, 6, tzinfo=UTC) + timedelta(seconds=number)
        _segment(tmp_path, [_good(f"a{number}")], _opened(opened))
    assert Bus(tmp_path).retire(LIMIT) == 5
    assert sorted(_ids(Bus(tmp_path))) == ["a0", "a1", "a2", "a3", "a4"]
    assert len(Bus(tmp_path).files()) == 3


def test_a_segment_that_another_run_retires_meanwhile_is_read_from_the_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.sources.bus.TOGETHER", 1)
    for number in (1, 2):
        _segment(tmp_path, [_good(f"a{number}")], _opened(datetime(2026, 1, 6, 0, 0, number, tzinfo=UTC)))
    source = Bus(tmp_path)
    reading = source.events(sources.BEGINNING, sources.END)
    first = next(reading).column("event_id").to_pylist()
    Bus(tmp_path).retire(LIMIT)
    others = [event_id for batch in reading for event_id in batch.column("event_id").to_pylist()]
    assert first == ["a1"]
    assert set(others) == {"a1", "a2"}, "one twice, which the quality gate sees, and none lost"
    assert [path.parent.name for path in source.files()] == ["day=2026-01-05"], "what is gone has no fingerprint"
