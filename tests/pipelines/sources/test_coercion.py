"""The same values in whatever types a tool writes them."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources import BEGINNING, END, canonical, coercion
from recsys.errors import BadData

MOMENT = datetime(2026, 3, 1, 10, 30, 15, 123456, tzinfo=UTC)
NANOSECONDS = int(MOMENT.timestamp()) * 10**9 + 123456789
ITEMS = {
    "item_id": ["1", "2", "3"],
    "title": ["a", "b", "c"],
    "category": ["Home"] * 3,
    "created_at": pa.array([MOMENT - timedelta(days=30)] * 3, pa.timestamp("us", "UTC")),
    "available": [True] * 3,
}


def shop(folder: Path, **columns: Any) -> canonical.Canonical:
    """Three purchases of three items; columns in place of the usual ones."""
    usual = {
        "event_id": ["e1", "e2", "e3"],
        "user_id": ["u1", "u2", "u3"],
        "session_id": ["s1", "s2", "s3"],
        "item_id": ["1", "2", "3"],
        "event": ["purchase"] * 3,
        "event_time": pa.array([MOMENT] * 3, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(usual | columns), folder / "events.parquet")
    pq.write_table(pa.table(ITEMS), folder / "items.parquet")
    return canonical.Canonical(folder)


def rows(source: canonical.Canonical, since: datetime = BEGINNING, until: datetime = END) -> list[dict[str, Any]]:
    return [row for batch in source.events(since, until) for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.timestamp("ns"), NANOSECONDS),
        (pa.timestamp("ns", "UTC"), NANOSECONDS),
        (pa.timestamp("ns", "Asia/Kolkata"), NANOSECONDS),
        (pa.timestamp("us"), NANOSECONDS // 1000),
        (pa.timestamp("us", "America/New_York"), NANOSECONDS // 1000),
        (pa.string(), "2026-03-01T10:30:15.123456Z"),
        (pa.large_string(), "2026-03-01T16:00:15.123456+05:30"),
        (pa.dictionary(pa.int32(), pa.string()), "2026-03-01 10:30:15.123456"),
    ],
    ids=str,
)
def test_a_time_is_the_same_in_every_type(tmp_path: Path, kind: pa.DataType, value: object) -> None:
    source = shop(tmp_path, event_time=pa.array([value] * 3, kind))
    assert {row["event_time"] for row in rows(source)} == {MOMENT}
    assert source.last() == MOMENT
    assert not rows(source, until=MOMENT)
    assert len(rows(source, since=MOMENT)) == 3


def test_coarse_times_and_dates_are_their_beginning() -> None:
    second = MOMENT.replace(microsecond=0)
    day = second.replace(hour=0, minute=0, second=0)
    for kind, value, moment in [
        (pa.timestamp("s"), int(second.timestamp()), second),
        (pa.timestamp("ms", "UTC"), int(second.timestamp()) * 1000, second),
        (pa.date32(), date(2026, 3, 1), day),
        (pa.date64(), date(2026, 3, 1), day),
    ]:
        assert coercion.timestamps(pa.array([value, None], kind)).to_pylist() == [moment, None]


@pytest.mark.parametrize(
    ("unit", "scale"), [("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)]
)
def test_epoch_numbers_are_refused_with_their_unit(tmp_path: Path, unit: str, scale: int) -> None:
    number = int(MOMENT.timestamp()) * scale
    source = shop(tmp_path, event_time=pa.array([number] * 3))
    with pytest.raises(BadData, match=rf"events.parquet: event_time: times are int64, such as {number}.*epoch {unit}"):
        rows(source)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string())], ids=str
)
def test_text_of_every_type_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    names = ("event_id", "user_id", "session_id", "item_id", "event", "surface")
    columns = {name: pa.array([f"{name}-1", " ", ""], pa.string()).cast(kind) for name in names}
    columns["event"] = pa.array(["purchase"] * 3).cast(kind)
    found = rows(shop(tmp_path, **columns))
    assert [row["user_id"] for row in found] == ["user_id-1", None, None]
    assert [row["surface"] for row in found] == ["surface-1", None, None]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string_view(), 2)], ids=str
)
def test_lists_of_every_type_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    source = shop(tmp_path)
    pq.write_table(pa.table(ITEMS | {"tags": pa.array([["x", "y"]] * 3, kind)}), tmp_path / "items.parquet")
    tags = [row["tags"] for batch in source.items(END) for row in batch.to_pylist()]
    assert tags == [["x", "y"]] * 3


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (pa.array([17850.0, float("nan"), None]), ["17850", None, None]),
        (pa.array([17850, 1, None]), ["17850", "1", None]),
        (pa.array([17850.0, 1.0, None], pa.float32()), ["17850", "1", None]),
        (pa.array([Decimal("17850.00"), Decimal("1.00"), None]), ["17850", "1", None]),
        (pa.array(["17850.0", " u1 ", "\t"]), ["17850.0", "u1", None]),
        (pa.nulls(3), [None, None, None]),
    ],
    ids=["floats", "integers", "short floats", "decimals", "text", "nothing"],
)
def test_ids_in_numbers(tmp_path: Path, values: Any, ids: list[str | None]) -> None:
    assert [row["user_id"] for row in rows(shop(tmp_path, user_id=values))] == ids


def csv_shop(folder: Path, users: list[str]) -> canonical.Canonical:
    header = "event_id,user_id,session_id,item_id,event,event_time"
    lines = [f"e{k},{user},s{k},1,purchase,2026-03-01T10:00:00Z" for k, user in enumerate(users)]
    (folder / "events.csv").write_text("\n".join([header, *lines]) + "\n")
    return canonical.Canonical(folder)


@pytest.mark.parametrize(
    ("users", "ids"),
    [
        (["17850.0", "", "1.0"], ["17850", None, "1"]),
        (["17850.0", "1.5", "1.0"], ["17850.0", "1.5", "1.0"]),
        (['""', '" "', "u1"], [None, None, "u1"]),
    ],
    ids=["all as floats", "some as floats", "quoted and empty"],
)
def test_ids_in_csv(tmp_path: Path, users: list[str], ids: list[str | None]) -> None:
    assert [row["user_id"] for row in rows(csv_shop(tmp_path, users))] == ids


NOBODY = st.sampled_from(["", '""', " ", '"  "', "NULL", "NaN", "nan"])


@given(users=st.lists(st.one_of(NOBODY, st.sampled_from(["u1", "u2", "7"])), min_size=1, max_size=20))
def test_nobodys_events_join_nobodys(users: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    found = rows(csv_shop(tmp_path_factory.mktemp("shop"), users))
    assert [row["user_id"] for row in found] == [user if user in ("u1", "u2", "7") else None for user in users]
