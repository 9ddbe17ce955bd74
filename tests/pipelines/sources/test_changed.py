"""What the API was told of items stands in place of what the source says."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from feature_repo import changes
from feature_repo.events import ITEMS
from pipelines.sources import changed, source
from recsys import bus

THEN, UNTIL = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 10, tzinfo=UTC)


def item(item_id: str, **said: Any) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(ITEMS.names)
    content = {"title": item_id.title(), "category": "Home", "price": 9.0, "created_at": THEN, "available": True}
    return empty | {"item_id": item_id} | content | said


def line(minute: int, item_id: str, row: dict[str, Any] | None) -> bytes:
    received = datetime(2024, 3, 5, 12, minute, tzinfo=UTC).isoformat()
    told = json.loads(changes.encode(row))
    return json.dumps({"item_id": item_id, "item": told, "received_at": received}).encode()


def write(root: Path, *lines: bytes, opened: datetime = datetime(2024, 3, 5, tzinfo=UTC)) -> Path:
    folder = bus.folder(root, "items")
    folder.mkdir(parents=True, exist_ok=True)
    segment = folder / f"{int(opened.timestamp() * 1e9):020d}-77-0a1b2c3d.jsonl"
    segment.write_bytes(b"".join(text + b"\n" for text in lines))
    return segment


def over(root: Path, *rows: dict[str, Any]) -> dict[str, tuple[float | None, bool]]:
    """Price and availability by item, of a source's rows with what was told."""
    batches = [pa.RecordBatch.from_pylist([row], source.relaxed(ITEMS)) for row in rows]
    found = [row for batch in changed.read(root).over(batches, UNTIL) for row in batch.to_pylist()]
    assert len({row["item_id"] for row in found}) == len(found)
    return {row["item_id"]: (row["price"], row["available"]) for row in found}


def test_the_newest_record_wins_over_the_source_and_over_older_ones(tmp_path: Path) -> None:
    write(tmp_path, line(5, "mug", item("mug", price=5.0)), line(3, "mug", item("mug", price=3.0)))
    write(tmp_path, line(4, "vase", item("vase", price=4.0)), opened=THEN)
    assert over(tmp_path, item("mug"), item("lamp")) == {
        "mug": (5.0, True),
        "lamp": (9.0, True),
        "vase": (4.0, True),
    }


def test_a_deletion_makes_unavailable_what_somebody_knows(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(line(1, "vase", item("vase")), line(2, "vase", None)),
        *(line(1, "rug", None), line(2, "rug", item("rug", price=2.0))),
        *(line(1, "mug", None), line(1, "nobody's", None)),
    )
    assert over(tmp_path, item("mug"), item("lamp")) == {
        "mug": (9.0, False),
        "lamp": (9.0, True),
        "vase": (9.0, False),
        "rug": (2.0, True),
    }


def test_an_item_of_later_does_not_exist_yet(tmp_path: Path) -> None:
    write(tmp_path, line(1, "vase", item("vase", created_at=UNTIL)))
    assert over(tmp_path) == {}


def test_without_changes_a_source_passes_as_it_is(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pylist([item("mug")], source.relaxed(ITEMS))
    assert list(changed.read(tmp_path).over([batch], UNTIL)) == [batch]


@pytest.mark.parametrize("bad", [b"{", b"[]", b'{"item_id": "x"}', line(1, "x", {"item_id": "x"})])
def test_a_line_that_is_no_change_is_counted_and_stays(tmp_path: Path, bad: bytes) -> None:
    segment = write(tmp_path, bad, line(2, "mug", item("mug", price=2.0)))
    found = changed.read(tmp_path)
    assert found.dropped == {"bad_item_line": 1}
    assert list(found.told) == ["mug"]
    assert bad in segment.read_bytes().splitlines()


def test_the_segments_of_a_past_day_become_one(tmp_path: Path) -> None:
    days = [THEN, THEN + timedelta(hours=1), THEN + timedelta(days=1), datetime.now(UTC)]
    for minute, opened in enumerate(days):
        write(tmp_path, line(minute, f"i{minute}", item(f"i{minute}")), opened=opened)
    found = changed.read(tmp_path)
    assert len(found.files()) == 3
    assert sorted(found.told) == sorted(changed.read(tmp_path).told) == ["i0", "i1", "i2", "i3"]
