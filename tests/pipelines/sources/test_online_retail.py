"""Online Retail: what is dropped and why, on lines that a reader can check by eye; and the publisher's formats."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from pipelines import sources
from pipelines.sources import online_retail
from pipelines.sources.online_retail import OnlineRetail
from recsys.errors import BadData
from recsys.settings import Settings

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "online_retail_II_2009_2010.parquet"
HEADER = ["Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country"]
UK = "United Kingdom"
LINES: list[list[Any]] = [
    ["489434", "85048", "GLASS BALL LIGHTS", 12, "2009-12-01 07:45:00", 6.95, 13085.0, UK],
    ["489434", "85048", "GLASS BALL LIGHTS", 12, "2009-12-01 07:45:00", 6.95, 13085.0, UK],  # exact duplicate
    ["489434", "85048", "GLASS BALL LIGHTS", 2, "2009-12-01 07:45:00", 6.95, 13085.0, UK],  # kept: other quantity
    ["489435", "22041", "RECORD FRAME", 6, "2009-12-02 08:00:00", 2.10, None, "France"],  # anonymous
    ["489436", "POST", "POSTAGE", 1, "2009-12-02 08:05:00", 18.0, 13085.0, UK],
    ["489437", "85048", "GLASS BALL LIGHTS", -3, "2009-12-02 09:00:00", 6.95, None, UK],
    ["489438", "85123a", "WHITE HEART HOLDER", 6, "2009-12-02 10:00:00", 0.0, 13086.0, UK],
    ["489439", "85123A", "WHITE HEART HOLDER", 6, "2009-12-03 10:00:00", 2.55, 13086.0, UK],  # taken back below
    ["489440", "85123A", "WHITE HEART HOLDER", 6, "2009-12-04 10:00:00", 2.95, 13086.0, UK],  # and this
    ["C489441", "85123A", "WHITE HEART HOLDER", -6, "2009-12-05 10:00:00", 2.95, 13086.0, UK],  # takes the 4th's
    ["C489442", "85123A", "WHITE HEART HOLDER", -5, "2009-12-06 10:00:00", 2.95, 13086.0, UK],  # of nobody
    ["A506401", "B", "Adjust bad debt", 1, "2009-12-06 12:00:00", -53594.36, None, UK],
    ["489443", "21755", None, 1, "2009-12-07 10:00:00", 5.95, 13087.0, "EIRE"],  # no description
]

Make = Callable[[str], Path]


def _frame() -> pd.DataFrame:
    return pd.DataFrame(LINES, columns=HEADER)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes LINES in a format, returns the file."""

    def write(kind: str) -> Path:
        path = tmp_path / f"retail.{kind}"
        if kind == "parquet":
            _frame().to_parquet(path)
        elif kind == "csv":
            _frame().to_csv(path, index=False)
        else:
            _workbook(path)
        return path

    return write


def _workbook(path: Path) -> None:
    """Two sheets that overlap, as the publisher's do."""
    book = openpyxl.Workbook()
    first, second = book.active, book.create_sheet("Year 2010-2011")
    assert first is not None
    first.title = "Year 2009-2010"
    rows = [[*row[:4], datetime.fromisoformat(row[4]), *row[5:]] for row in LINES]
    for sheet, part in ((first, rows), (second, rows[6:])):
        sheet.append(HEADER)
        for row in part:
            sheet.append(row)
    book.save(path)


def _events(source: OnlineRetail, since: datetime = sources.BEGINNING, until: datetime = sources.END) -> pd.DataFrame:
    return pd.concat([batch.to_pandas() for batch in source.events(since, until)], ignore_index=True)


DROPPED = {
    "cancellation": 3,
    "non_product_code": 1,
    "non_positive_quantity": 1,
    "non_positive_price": 1,
    "no_time": 0,
    "exact_duplicate": 1,
    "cancelled_purchase": 1,
}
KEPT = ["or-489434-85048-0", "or-489434-85048-1", "or-489435-22041-0", "or-489439-85123A-0", "or-489443-21755-0"]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_every_line_is_kept_or_counted_under_its_first_reason(make: Make, tmp_path: Path, kind: str) -> None:
    source = OnlineRetail(make(kind), tmp_path)
    found = _events(source)
    assert found["event_id"].tolist() == KEPT
    assert dict(source.dropped) == DROPPED
    assert found["event"].unique().tolist() == ["purchase"]
    assert found["user_id"].tolist()[:2] == ["13085", "13085"]
    assert found["user_id"].isna().tolist() == [False, False, True, False, False]
    assert found["session_id"].tolist()[0] == "489434"
    assert found.loc[0, ["value", "quantity", "region"]].tolist() == [6.95, 12, UK]
    assert found.loc[0, "event_time"] == datetime(2009, 12, 1, 7, 45, tzinfo=UTC)


def test_the_two_sheets_of_the_workbook_are_one_input_and_their_overlap_is_dropped(make: Make, tmp_path: Path) -> None:
    path = make("xlsx")
    source = OnlineRetail(path, tmp_path / "work")
    assert _events(source)["event_id"].tolist() == KEPT
    assert source.dropped["exact_duplicate"] == 1 + 3
    assert source.dropped["cancellation"] == 3 + 3  # a cancellation is counted wherever it stands
    converted = list((tmp_path / "work").glob("*.parquet"))
    assert len(converted) == 1
    stamp = converted[0].stat().st_mtime_ns
    assert OnlineRetail(path, tmp_path / "work").last() == datetime(2009, 12, 7, 10, tzinfo=UTC)
    assert converted[0].stat().st_mtime_ns == stamp  # parsed once


def test_a_cancellation_from_the_future_takes_nothing_back(make: Make, tmp_path: Path) -> None:
    source = OnlineRetail(make("parquet"), tmp_path)
    day_before = datetime(2009, 12, 5, tzinfo=UTC)
    assert "or-489440-85123A-0" in _events(source, until=day_before)["event_id"].tolist()
    assert source.dropped["cancelled_purchase"] == 0


def test_since_and_until_cut_the_events_but_the_catalogue_is_whole(make: Make, tmp_path: Path) -> None:
    source = OnlineRetail(make("parquet"), tmp_path)
    until = datetime(2009, 12, 4, tzinfo=UTC)
    assert _events(source, datetime(2009, 12, 2, tzinfo=UTC), until)["session_id"].tolist() == ["489435", "489439"]
    items = next(iter(source.items(until))).to_pandas()
    assert items["item_id"].tolist() == ["22041", "85048", "85123A"]


def test_items_have_a_title_a_category_and_the_median_price(make: Make, tmp_path: Path) -> None:
    source = OnlineRetail(make("parquet"), tmp_path)
    items = next(iter(source.items(sources.END))).to_pandas().set_index("item_id")
    assert items.loc["85048", ["title", "price", "currency"]].tolist() == ["Glass Ball Lights", 6.95, "GBP"]
    assert items.loc["85048", "category"] == "Home Decor > Lighting"
    assert items.loc["21755", "title"] == "Item 21755"
    assert items.loc["85123A", "price"] == 2.55  # the other purchase was taken back
    users = next(iter(source.users(sources.END))).to_pandas().set_index("user_id")
    assert users["region"].to_dict() == {"13085": UK, "13086": UK, "13087": "EIRE"}
    assert users.loc["13086", "signup_date"] == datetime(2009, 12, 3, 10, tzinfo=UTC)


def test_buckets_do_not_change_the_result(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_retail, "BUCKET_LINES", 4)
    source = OnlineRetail(make("csv"), tmp_path)
    assert sorted(_events(source)["event_id"]) == sorted(KEPT)
    assert dict(source.dropped) == DROPPED


def test_the_first_edition_names_its_columns_otherwise(tmp_path: Path) -> None:
    names = {"Invoice": "InvoiceNo", "Price": "UnitPrice", "Customer ID": "CustomerID"}
    old = _frame().rename(columns=names)
    old["InvoiceDate"] = pd.to_datetime(old["InvoiceDate"]).dt.strftime("%m/%d/%Y %H:%M")
    old.to_csv(tmp_path / "old.csv", index=False)
    assert _events(OnlineRetail(tmp_path / "old.csv", tmp_path))["event_id"].tolist() == KEPT


def test_scratch_files_are_gone_with_the_source(make: Make, tmp_path: Path) -> None:
    source = OnlineRetail(make("parquet"), tmp_path / "work")
    _events(source)
    assert list((tmp_path / "work").iterdir())
    del source
    assert not list((tmp_path / "work").iterdir())


def test_a_wrong_column_is_named(tmp_path: Path) -> None:
    _frame().rename(columns={"Price": "Cost"}).to_parquet(tmp_path / "retail.parquet")
    with pytest.raises(BadData, match=r"no column for \['price'\], unknown columns \['Cost'\]"):
        _events(OnlineRetail(tmp_path / "retail.parquet", tmp_path))


@pytest.mark.parametrize("name", ["retail.csv", "retail.parquet", "retail.xlsx"])
def test_an_empty_or_damaged_file_is_bad_data_that_names_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(BadData, match=name):
        OnlineRetail(path, tmp_path).last()
    path.write_bytes(b"PK\x03\x04 this is nothing that anybody can read" * 10)
    with pytest.raises(BadData, match=name):
        OnlineRetail(path, tmp_path).last()


def test_a_truncated_workbook_is_bad_data(make: Make, tmp_path: Path) -> None:
    path = make("xlsx")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BadData, match="not a readable xlsx workbook"):
        OnlineRetail(path, tmp_path / "work").last()
    assert not list((tmp_path / "work").iterdir())


def test_only_a_header_is_bad_data(tmp_path: Path) -> None:
    (tmp_path / "retail.csv").write_text(",".join(HEADER) + "\n")
    with pytest.raises(BadData, match="has no rows"):
        OnlineRetail(tmp_path / "retail.csv", tmp_path).last()


def test_missing_values_are_counted_not_fatal(tmp_path: Path) -> None:
    lines = _frame().head(4)
    lines.loc[0, "Price"] = float("nan")
    lines.loc[2, "InvoiceDate"] = None
    lines.to_parquet(tmp_path / "retail.parquet")
    source = OnlineRetail(tmp_path / "retail.parquet", tmp_path)
    assert _events(source)["session_id"].tolist() == ["489434", "489435"]
    assert source.dropped["non_positive_price"] == 1
    assert source.dropped["no_time"] == 1


@pytest.mark.skipif(not REAL.exists(), reason="Online Retail II is not beside the repository (../shared/data)")
def test_the_real_file_is_counted_as_the_published_split_counts_it(settings: Settings) -> None:
    facts = sources.describe(f"online_retail:{REAL}", settings)
    assert facts["dropped"] == {
        "cancellation": 10_209,
        "non_product_code": 2_353,
        "non_positive_quantity": 2_119,
        "non_positive_price": 1_534,
        "no_time": 0,
        "exact_duplicate": 6_830,
        "cancelled_purchase": 3_107,
    }
    assert facts["rows"] + sum(facts["dropped"].values()) == 525_461
    assert (facts["first_day"], facts["last_day"]) == ("2009-12-01", "2010-12-09")


def test_short_rows_and_errors_of_formulas_are_empty_cells(tmp_path: Path) -> None:
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("Data")
    line = ["489434", "85048", "MUG", 12, datetime(2009, 12, 1, 7, 45), 6.95]
    for row in (HEADER, line, [*line[:5], 7.5, "#N/A", "#REF!"], [*line[:5], 8.5, 13085, UK]):
        sheet.append(row)
    path = tmp_path / "retail.xlsx"
    book.save(path)
    found = _events(OnlineRetail(path, tmp_path / "work")).sort_values("value")
    assert found["value"].tolist() == [6.95, 7.5, 8.5]
    assert found["user_id"].fillna("").tolist() == ["", "", "13085"]
