"""Canonical input: parquet and csv, cut by time, and every way in which it can be wrong."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from feature_repo.events import EVENTS
from pipelines import sources
from pipelines.sources.canonical import Canonical
from recsys.errors import BadData

EVENTS_CSV = """event_id,user_id,session_id,item_id,event,value,quantity,event_time
e1,u1,s1,i1,view,,,2026-01-05T10:00:00Z
e2,,s2,i1,add_to_cart,4.5,2.0,2026-01-05 11:00:00
e3,u1,s3,i2,purchase,9,1,2026-01-06T01:00:00+02:00
"""
ITEMS_CSV = """item_id,title,category,tags,regions,created_at,available
i1,Mug,Home > Mugs,red|big,,2026-01-01,true
i2,Lamp,Home > Lamps,,DE|GB,2026-01-05T12:00:00Z,false
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "events.csv").write_text(EVENTS_CSV)
    (tmp_path / "items.csv").write_text(ITEMS_CSV)
    return tmp_path


def _frame(batches: object) -> pd.DataFrame:
    return pa.Table.from_batches(list(batches)).to_pandas()  # type: ignore[call-overload]


def test_csv_gives_the_schema_with_times_in_utc(shop: Path) -> None:
    batches = list(Canonical(shop).events(sources.BEGINNING, sources.END))
    assert batches[0].schema.names == EVENTS.names
    found = _frame(batches)
    assert found["event_time"].dt.strftime("%d %H").tolist() == ["05 10", "05 11", "05 23"]
    assert found["user_id"].isna().tolist() == [False, True, False]
    assert found["quantity"].tolist()[1:] == [2, 1]


def test_a_window_cuts_events_and_the_catalogue_is_as_of_its_end(shop: Path) -> None:
    source, until = Canonical(shop), datetime(2026, 1, 5, 12, tzinfo=UTC)
    assert _frame(source.events(datetime(2026, 1, 5, 11, tzinfo=UTC), until))["event_id"].tolist() == ["e2"]
    assert _frame(source.items(until))["item_id"].tolist() == ["i1"]
    whole = _frame(source.items(sources.END))
    assert whole["tags"].map(lambda tags: None if tags is None else list(tags)).tolist() == [["red", "big"], None]
    assert whole["available"].tolist() == [True, False]
    assert list(source.users(until)) == []


def test_a_simulated_shop_comes_through_unchanged(tiny_shop: Path) -> None:
    found = _frame(Canonical(tiny_shop).events(sources.BEGINNING, sources.END))
    written = pd.concat([pd.read_parquet(part) for part in sorted((tiny_shop / "events").iterdir())], ignore_index=True)
    pd.testing.assert_frame_equal(found, written, check_dtype=False)
    assert Canonical(tiny_shop).last() == written["event_time"].max()


def test_the_last_time_of_csv_is_found(shop: Path) -> None:
    assert Canonical(shop).last() == datetime(2026, 1, 5, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (EVENTS_CSV.replace("session_id", "visit"), r"unknown columns \['visit'\], missing columns \['session_id'\]"),
        (EVENTS_CSV.replace("view", "stare"), r"unknown event type 'stare'"),
        (EVENTS_CSV.replace("4.5", "cheap"), "events.csv cannot be read.*cheap"),
        (EVENTS_CSV.replace("2026-01-05 11:00:00", "yesterday"), "events.csv cannot be read"),
        ("", "events.csv is empty"),
    ],
)
def test_bad_events_are_named(shop: Path, content: str, message: str) -> None:
    (shop / "events.csv").write_text(content)
    with pytest.raises(BadData, match=message):
        list(Canonical(shop).events(sources.BEGINNING, sources.END))


def test_a_missing_table_or_folder_is_named(shop: Path) -> None:
    (shop / "items.csv").unlink()
    with pytest.raises(BadData, match="has no items: expected"):
        list(Canonical(shop).items(sources.END))
    with pytest.raises(BadData, match="nowhere does not exist"):
        Canonical(shop / "nowhere")


def test_a_damaged_parquet_file_is_named(shop: Path) -> None:
    (shop / "events.csv").unlink()
    (shop / "events.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(BadData, match=r"events\.parquet cannot be read"):
        list(Canonical(shop).events(sources.BEGINNING, sources.END))
    with pytest.raises(BadData, match=r"events\.parquet cannot be read"):
        Canonical(shop).last()


def test_not_a_number_and_a_missing_time_pass_for_the_quality_gate_to_judge(shop: Path) -> None:
    table = Canonical(shop)
    rows = _frame(table.events(sources.BEGINNING, sources.END))
    rows.loc[0, "value"] = float("nan")
    rows.loc[1, "event_time"] = pd.NaT
    (shop / "events.csv").unlink()
    typed = pa.Table.from_pandas(rows, preserve_index=False)
    pyarrow.parquet.write_table(typed, shop / "events.parquet")
    found = _frame(Canonical(shop).events(datetime(2026, 1, 5, tzinfo=UTC), sources.END))
    assert found["event_time"].isna().tolist() == [False, True, False]
