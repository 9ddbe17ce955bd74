"""RetailRocket: properties as of a moment, category paths, and what is refused."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from pipelines import sources
from pipelines.sources.retailrocket import RetailRocket
from recsys.errors import BadData

NOON = 1433160000000  # 2015-06-01 12:00 UTC
DAY = 86_400_000


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    events = [
        f"{NOON},257597,view,355908,",
        f"{NOON + 1000},257597,addtocart,355908,",
        f"{NOON + DAY},257597,transaction,355908,4000",
        f"{NOON + DAY},111016,view,5,",
    ]
    (tmp_path / "events.csv").write_text("timestamp,visitorid,event,itemid,transactionid\n" + "\n".join(events) + "\n")
    header = "timestamp,itemid,property,value\n"
    first = [
        f"{NOON - DAY},355908,categoryid,1016",
        f"{NOON - DAY},355908,790,n12.500",
        f"{NOON - DAY},355908,888,66 n9.0",
    ]
    second = [f"{NOON + DAY // 2},355908,790,n10.000", f"{NOON - DAY},355908,available,1"]
    (tmp_path / "item_properties_part1.csv").write_text(header + "\n".join(first) + "\n")
    (tmp_path / "item_properties_part2.csv").write_text(header + "\n".join(second) + "\n")
    (tmp_path / "category_tree.csv").write_text("categoryid,parentid\n1016,213\n213,\n")
    return tmp_path


def _events(source: RetailRocket, until: datetime = sources.END) -> pd.DataFrame:
    return pd.concat([batch.to_pandas() for batch in source.events(sources.BEGINNING, until)], ignore_index=True)


def test_events_become_canonical(shop: Path) -> None:
    found = _events(RetailRocket(shop))
    assert found["event"].tolist() == ["view", "add_to_cart", "purchase", "view"]
    assert found["event_id"][2] == f"rr-{NOON + DAY}-257597-355908-transaction-4000"
    assert found["value"].tolist()[1:3] == [10.0, 10.0]
    assert found["value"].isna().tolist() == [True, False, False, True]
    assert found["session_id"].tolist()[1:3] == ["257597-20150601", "257597-20150602"]
    assert found["event_time"][0] == datetime(2015, 6, 1, 12, tzinfo=UTC)


def test_the_latest_property_before_the_moment_counts(shop: Path) -> None:
    source = RetailRocket(shop)
    early = next(iter(source.items(datetime(2015, 6, 1, 18, tzinfo=UTC)))).to_pandas()
    assert early[["item_id", "category", "price", "available"]].values.tolist() == [
        ["355908", "Category 213 > Category 1016", 12.5, True]
    ]
    late = next(iter(source.items(sources.END))).to_pandas()
    assert late["price"].tolist()[0] == 10.0
    assert late["category"].tolist()[1] == "Unknown"  # item 5 has no properties
    assert late["created_at"][0] == datetime(2015, 5, 31, 12, tzinfo=UTC)


def test_users_are_visitors_since_their_first_event(shop: Path) -> None:
    source = RetailRocket(shop)
    users = next(iter(source.users(datetime(2015, 6, 2, tzinfo=UTC)))).to_pandas()
    assert users["user_id"].tolist() == ["257597"]
    assert source.last() == datetime(2015, 6, 2, 12, tzinfo=UTC)


def test_an_unknown_event_type_is_named(shop: Path) -> None:
    with (shop / "events.csv").open("a") as log:
        log.write(f"{NOON},1,stare,2,\n")
    with pytest.raises(BadData, match=r"unknown event types \['stare'\]"):
        _events(RetailRocket(shop))


def test_a_circle_in_the_tree_is_refused(shop: Path) -> None:
    (shop / "category_tree.csv").write_text("categoryid,parentid\n1016,213\n213,1016\n")
    with pytest.raises(BadData, match="category 1016 is its own ancestor: 1016 > 213 > 1016"):
        list(RetailRocket(shop).items(sources.END))


def test_a_circle_that_no_item_is_in_harms_nobody(shop: Path) -> None:
    (shop / "category_tree.csv").write_text("categoryid,parentid\n1016,213\n213,\n8,9\n9,8\n")
    assert "Category 213 > Category 1016" in _categories(shop)


def test_a_deep_tree_is_no_circle(shop: Path) -> None:
    levels = "".join(f"{k + 1},{k}\n" for k in range(25))
    (shop / "category_tree.csv").write_text(f"categoryid,parentid\n1016,25\n{levels}0,\n")
    path = " > ".join(f"Category {k}" for k in [*range(26), 1016])
    assert path in _categories(shop)


def _categories(shop: Path) -> set[str]:
    return {row["category"] for batch in RetailRocket(shop).items(sources.END) for row in batch.to_pylist()}


@pytest.mark.parametrize("name", ["events.csv", "category_tree.csv"])
def test_a_missing_file_is_named(shop: Path, name: str) -> None:
    (shop / name).unlink()
    with pytest.raises(BadData, match=name):
        RetailRocket(shop)


def test_missing_properties_and_wrong_columns_are_named(shop: Path) -> None:
    (shop / "item_properties_part2.csv").write_text("timestamp,item,property,value\n")
    with pytest.raises(BadData, match=r"missing columns \['itemid'\], unknown columns \['item'\]"):
        RetailRocket(shop)
    for part in shop.glob("item_properties*"):
        part.unlink()
    with pytest.raises(BadData, match="item_properties"):
        RetailRocket(shop)
