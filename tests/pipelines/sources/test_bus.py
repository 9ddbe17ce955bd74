"""Events of the API: read from closed segments, and no line is ever lost."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import datasets, sources
from pipelines.sources import canonical
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


def test_late_events_are_counted_and_stay_in_the_bus(tmp_path: Path) -> None:
    _segment(tmp_path, [json.dumps(GOOD).encode()])
    source = Bus(tmp_path)
    assert _ids(source, since=datetime(2026, 1, 6, tzinfo=UTC)) == []
    assert source.late == 1
    assert _ids(source, since=datetime(2026, 1, 5, tzinfo=UTC)) == ["a1"]
    assert source.late == 0


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
