"""Items that have left the catalogue: what of them is kept, how, and for how long."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from staged_batch import DAY, ITEMS, RUN, event, item, quarantined, run, stage_batch

from feature_repo import events as schema
from pipelines import datasets, delisted, embedding, quality
from recsys.errors import BadData
from recsys.settings import Settings

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("interpreted")]
Row = dict[str, Any]


def publish_items(settings: Settings, day: date, *rows: Row) -> None:
    table = pa.Table.from_pylist(list(rows), schema=schema.ITEMS.arrow())
    datasets.lake(settings).write(datasets.ITEMS, day, table)


def publish_events(settings: Settings, day: date, *items: str) -> None:
    rows = [
        event(number, item_id=name, event_time=datetime.combine(day, time(12), tzinfo=UTC))
        for number, name in enumerate(items)
    ]
    datasets.lake(settings).write(datasets.EVENTS, day, pa.Table.from_pylist(rows, schema=schema.EVENTS.arrow()))


def published(settings: Settings) -> dict[str, bool]:
    """Whether each item of the day's catalogue is available."""
    rows = datasets.lake(settings).read(datasets.ITEMS, DAY)
    return dict(zip(rows["item_id"].to_pylist(), rows["available"].to_pylist(), strict=True))


def bought(*items: str) -> list[Row]:
    return [event(number, item_id=name) for number, name in enumerate(items)]


def back(days: int) -> date:
    return DAY - timedelta(days=days)


def test_events_of_items_that_left_are_published_and_the_items_are_kept_unavailable(
    settings: Settings, spark: SparkSession
) -> None:
    publish_items(settings, back(1), *ITEMS, item("kettle", title="Old kettle"))
    stage_batch(settings, bought(*["mug"] * 32, *["kettle"] * 8))  # a fifth of them
    result = run(settings)
    lake = datasets.lake(settings)
    assert lake.read(datasets.EVENTS, DAY)["item_id"].to_pylist().count("kettle") == 8
    assert published(settings) == {"mug": True, "cup": True, "kettle": False}
    titles = lake.read(datasets.ITEMS, DAY, ["item_id", "title"]).to_pylist()
    assert {"item_id": "kettle", "title": "Old kettle"} in titles
    assert quarantined(settings, "events") == {}
    assert result["delisted_items"] == 1
    assert result["noted"]["events"]["unlisted_item"] == 8


def test_what_has_left_is_in_no_catalogue_that_can_be_shown(settings: Settings, spark: SparkSession) -> None:
    publish_items(settings, back(1), *ITEMS, item("kettle"))
    stage_batch(settings, bought(*["mug"] * 32, *["kettle"] * 8))
    run(settings)
    stats = pa.table({"item_id": ["mug", "cup", "kettle"], "event_timestamp": [datasets.end_of(DAY)] * 3})
    for name in (*embedding.names.ITEM_STATS, *embedding.ITEM_TIMES):
        stats = stats.append_column(name, pa.array([1.0] * 3))
    datasets.lake(settings).write(datasets.feature_view("item_stats"), DAY, stats)
    assert embedding.catalogue(datasets.lake(settings), DAY)["item_id"].to_pylist() == ["cup", "mug"]


def test_one_that_comes_back_is_as_the_source_says(settings: Settings, spark: SparkSession) -> None:
    publish_items(settings, back(1), *ITEMS, item("kettle", available=False))
    publish_events(settings, back(1), "kettle")
    stage_batch(settings, bought(*["mug"] * 40), [*ITEMS, item("kettle", price=3.0)])
    run(settings, min_volume=0)
    assert published(settings) == {"mug": True, "cup": True, "kettle": True}


@pytest.mark.parametrize(("days", "kept"), [(delisted.HORIZON_DAYS - 1, True), (delisted.HORIZON_DAYS, False)])
def test_one_that_no_event_of_a_year_names_is_let_go(
    settings: Settings, spark: SparkSession, days: int, kept: bool
) -> None:
    publish_events(settings, back(days), "kettle")
    publish_items(settings, back(1), *ITEMS, item("kettle", available=False))
    stage_batch(settings, bought(*["mug"] * 40))
    run(settings, min_volume=0)
    assert ("kettle" in published(settings)) is kept


def test_an_event_brings_one_back_out_of_the_catalogue_that_held_it_last(
    settings: Settings, spark: SparkSession
) -> None:
    publish_items(settings, back(500), *ITEMS, item("kettle", title="First"))
    publish_items(settings, back(400), *ITEMS, item("kettle", title="Last"))
    publish_items(settings, back(1), *ITEMS)
    stage_batch(settings, bought(*["mug"] * 38, "kettle", "ghost"))
    result = run(settings)
    assert published(settings) == {"mug": True, "cup": True, "kettle": False}
    rows = datasets.lake(settings).read(datasets.ITEMS, DAY).to_pylist()
    assert [row["title"] for row in rows if row["item_id"] == "kettle"] == ["Last"]
    assert quarantined(settings, "events") == {"e0039": "unknown_item"}, "no catalogue ever held it"
    assert result["unknown_items"] == {"ghost": 1}


def test_one_whose_row_is_refused_today_is_known_still(settings: Settings, spark: SparkSession) -> None:
    publish_items(settings, back(1), *ITEMS, item("kettle"))
    stage_batch(settings, bought(*["mug"] * 39, "kettle"), [*ITEMS, item("kettle", title=" ")])
    run(settings)
    assert quarantined(settings, "events") == {}
    assert published(settings)["kettle"] is False


def test_a_first_load_keeps_what_several_events_name_as_stubs(settings: Settings, spark: SparkSession) -> None:
    gone = ["old"] * 8 + ["typo"] * 2
    stage_batch(settings, bought(*["mug"] * 40, *gone))
    run(settings)
    assert published(settings) == {"mug": True, "cup": True, "old": False}
    stub = next(row for row in datasets.lake(settings).read(datasets.ITEMS, DAY).to_pylist() if row["item_id"] == "old")
    assert (stub["title"], stub["category"]) == ("old", delisted.STUB_CATEGORY)
    assert stub["created_at"] == event(40)["event_time"]
    assert set(quarantined(settings, "events").values()) == {"unknown_item"}
    assert len(quarantined(settings, "events")) == 2


def test_the_events_of_another_shop_stop_the_run_and_the_error_names_the_option(
    settings: Settings, spark: SparkSession
) -> None:
    stage_batch(settings, bought(*["mug"] * 10, *[f"x{n % 5}" for n in range(40)]))
    with pytest.raises(BadData, match=r"events.unlisted_item: observed 80.00% .* allowed .*set --max-unlisted"):
        run(settings)
    assert run(settings, max_unlisted=0.9)["delisted_items"] == 5


def test_items_kept_do_not_count_when_a_source_shrinks(settings: Settings, spark: SparkSession) -> None:
    left = [item(f"old{n}", available=False) for n in range(40)]
    publish_items(settings, back(1), *ITEMS, *left)
    publish_events(settings, back(1), *(row["item_id"] for row in left))
    batch: Sequence[Row] = bought(*["mug"] * 40)
    stage_batch(settings, batch)
    assert run(settings, min_volume=0.25)["delisted_items"] == 40
    publish_items(settings, back(1), *[item(f"new{n}") for n in range(40)])
    stage_batch(settings, batch)
    with pytest.raises(BadData, match=r"items.volume: observed 2, allowed at least 10 rows"):
        quality.main(quality.Params(day=DAY, run=RUN), settings)
