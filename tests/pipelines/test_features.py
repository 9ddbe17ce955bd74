"""Features of a tiny shop, by eye, and of random ones against a naive count."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from feature_repo import events as schema
from pipelines import datasets, feature_rows, features, item_features, turns, user_features, windows
from pipelines.datasets import RunId
from recsys.settings import Settings, Storage

pytestmark = pytest.mark.spark
LAST = date(2026, 3, 29)  # clocks change in most of Europe on this day
DAY = (LAST - feature_rows.EPOCH).days
SPAN = feature_rows.Span(DAY - 29, DAY, True)
END = datetime(2026, 3, 30, tzinfo=UTC)
ITEMS = {"mug": ("Home > Mugs", "Acme", 4.0), "cup": ("Home > Cups", "Acme", 2.0), "car": ("Toys", None, None)}


def shop(spark: SparkSession, rows: Sequence[tuple[Any, ...]]) -> tuple[DataFrame, DataFrame]:
    """Events (who, item, kind, time, value, quantity) and the items; a name with "s-" is an anonymous session."""
    found = [
        dict.fromkeys(schema.EVENTS.names)
        | {"event_id": f"e{number:04}", "user_id": None if who.startswith("s-") else who, "item_id": item}
        | {"session_id": who if who.startswith("s-") else f"{who}-{when:%m%d}", "event": kind, "event_time": when}
        | dict(zip(("value", "quantity"), more, strict=False))
        for number, (who, item, kind, when, *more) in enumerate(rows)
    ]
    created = datetime(2026, 1, 1, tzinfo=UTC)
    goods = [
        dict.fromkeys(schema.ITEMS.names)
        | {"item_id": item, "title": item, "category": category, "brand": brand, "price": price}
        | {"created_at": created, "available": True}
        for item, (category, brand, price) in ITEMS.items()
    ]
    return (
        spark.createDataFrame(pa.Table.from_pylist(found, schema.EVENTS.arrow())),
        spark.createDataFrame(pa.Table.from_pylist(goods, schema.ITEMS.arrow())),
    )


def by_key(frame: DataFrame, key: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows by (entity, days before the last day)."""
    return {(row[key], DAY - row["day"]): row.asDict() for row in frame.collect()}


def ended(events: DataFrame, items: DataFrame) -> DataFrame:
    return turns.turned(events.where(F.unix_seconds("event_time") < SPAN.end), items)


def activity(spark: SparkSession, rows: Sequence[tuple[Any, ...]]) -> dict[tuple[str, int], dict[str, Any]]:
    events, items = shop(spark, rows)
    found = feature_rows.prepare(events, items, SPAN)
    return by_key(user_features.user_activity(found, user_features.active_days(found, SPAN)), "user_id")


def stats(spark: SparkSession, rows: Sequence[tuple[Any, ...]]) -> dict[tuple[str, int], dict[str, Any]]:
    events, items = shop(spark, rows)
    found = feature_rows.prepare(events, items, SPAN)
    bought = feature_rows.purchases(found)
    return by_key(item_features.item_stats(found, ended(events, items), bought, items, SPAN), "item_id")


def ago(days: float) -> datetime:
    """A moment before the end of the last day."""
    return END - timedelta(days=days)


def test_a_users_windows_and_totals(spark: SparkSession) -> None:
    rows = activity(
        spark,
        [
            ("ann", "mug", "purchase", ago(50.5), 4.0, 1),
            ("ann", "mug", "view", ago(6.5)),
            ("ann", "mug", "purchase", ago(6.4), 5.0, 3),
            ("ann", "cup", "view", ago(0.9)),
            ("ann", "cup", "view", ago(0.9)),
            ("ann", "car", "view", ago(0.1)),
            ("ann", "car", "skip", ago(0.1)),
            ("ann", "car", "impression", ago(0.1)),
        ],
    )
    # The purchase of 50 days ago lies before the first day: the user's last row from before the span.
    assert sorted(rows) == [("ann", 0), ("ann", 6), ("ann", 50)]
    now = rows["ann", 0]
    assert (now["view_1d"], now["view_7d"], now["view_30d"], now["skip_1d"]) == (3, 4, 4, 1)
    assert (now["purchase_1d"], now["purchase_7d"], now["purchase_30d"], now["orders_total"]) == (0, 1, 1, 2)
    assert now["spend_30d"] == 15.0
    assert now["mean_price_30d"] == pytest.approx((4 + 5 + 2 + 2) / 4)
    assert (now["distinct_items_30d"], now["distinct_categories_30d"]) == (3, 3)
    assert (now["sessions_30d"], now["active_days_30d"], now["events_total"]) == (2, 2, 6)
    assert now["first_event_time"] == ago(50.5).timestamp()
    assert now["activity_time"] == END.timestamp()
    assert now["event_timestamp"].replace(tzinfo=UTC) == END
    then = rows["ann", 6]
    assert (then["view_1d"], then["orders_total"], then["distinct_items_30d"], then["events_total"]) == (1, 2, 1, 3)


def test_an_items_statistics(spark: SparkSession) -> None:
    rows = stats(
        spark,
        [
            ("ann", "mug", "purchase", ago(14.5), 4.0, 1),
            ("ann", "mug", "purchase", ago(0.5), 4.0, 1),
            ("ann", "mug", "purchase", ago(0.5), 4.0, 1),
            ("bob", "mug", "purchase", ago(0.5), 4.0, 1),
            ("bob", "mug", "rate", ago(0.25), 5.0),
            ("ann", "mug", "rate", ago(0.25), 2.0),
            ("s-1", "mug", "click", ago(0.25)),
            ("s-1", "cup", "click", ago(0.25)),
        ],
    )
    now = rows["mug", 0]
    assert (now["purchase_1d"], now["purchase_30d"], now["click_7d"], now["users_30d"]) == (3, 4, 1, 3)
    assert now["mean_rating"] == 3.5
    assert now["repeat_rate"] == 0.5  # ann bought again on another day; two lines of one day are one purchase
    points = [(4, 14.5), (4, 0.5), (4, 0.5), (4, 0.5), (2, 0.25), (2, 0.25), (1, 0.25)]
    expected = sum(weight * 2 ** (-age / 14) for weight, age in points)
    assert now["popularity"] == pytest.approx(expected, rel=1e-5)
    assert now["popularity_fast"] == pytest.approx(sum(w * 2 ** (-age / 2) for w, age in points), rel=1e-5)
    cup = rows["cup", 0]["popularity"]
    assert now["popularity_share"] == pytest.approx(expected / (expected + cup), rel=1e-5)
    assert now["brand_popularity"] == pytest.approx((expected + cup) / 2, rel=1e-5)
    assert now["item_last_event_time"] == ago(0.25).timestamp()
    # Nobody touched the car: zeros, on the last day and on all others.
    assert {rows["car", days]["popularity"] for days in range(30)} == {0.0}
    assert rows["car", 0]["item_first_event_time"] == 0
    # Ten days after its purchase it had cooled down, without an event of its own.
    assert rows["mug", 4]["popularity"] == pytest.approx(4 * 2 ** (-10.5 / 14), rel=1e-5)


def test_rates_lean_towards_those_of_all_items(spark: SparkSession) -> None:
    mug = [("ann", "mug", "view", ago(1 + k / 100)) for k in range(20)]
    carts = [("ann", "mug", "add_to_cart", ago(0.5), 4.0, 1)] * 10
    cup = [("bob", "cup", "view", ago(2 + k / 100)) for k in range(20)]
    now = stats(spark, [*mug, *carts, *cup])
    usual = 10 / 40
    assert now["mug", 0]["cart_rate_30d"] == pytest.approx((10 + 20 * usual) / (20 + 20))
    assert now["cup", 0]["cart_rate_30d"] == pytest.approx((0 + 20 * usual) / (20 + 20))
    assert now["car", 0]["cart_rate_30d"] == pytest.approx(usual)
    assert now["mug", 0]["ctr_30d"] == 0.0  # nothing was ever shown


def test_neither_the_future_nor_the_same_day_changes_a_feature(spark: SparkSession) -> None:
    past = [("ann", "mug", "view", ago(2.5)), ("ann", "cup", "purchase", ago(1.5), 2.0, 1)]
    today = [("ann", "car", "purchase", ago(0.5), 9.0, 9), ("bob", "mug", "purchase", ago(0.4), 9.0, 1)]
    future = [("ann", "car", "purchase", END, 9.0, 9), ("ann", "mug", "view", END + timedelta(hours=3))]
    for table in (activity, stats):
        before, after, leaked = (table(spark, rows) for rows in (past, past + today, past + future))
        assert leaked == before
        earlier = {key: row for key, row in after.items() if key[1] > 0}
        assert earlier == {key: row for key, row in before.items() if key[1] > 0}


def test_histories_end_where_their_day_ends(spark: SparkSession) -> None:
    events, items = shop(
        spark,
        [
            ("ann", "cup", "purchase", ago(1.5), 2.0, 1),
            ("ann", "mug", "view", ago(2.5)),
            ("ann", "car", "skip", ago(0.6)),
            ("ann", "car", "click", ago(0.5)),
            ("s-1", "mug", "view", ago(0.5)),
            ("s-2", "mug", "view", ago(9.5)),
        ],
    )
    found = feature_rows.prepare(events, items, SPAN)
    visits = user_features.sequences(found, ended(events, items))
    rows = by_key(user_features.user_history(visits, user_features.active_days(found, SPAN)), "user_id")
    assert {days: row["history_items"] for (_, days), row in rows.items()} == {
        2: ["mug"],
        1: ["mug", "cup"],
        0: ["mug", "cup", "car"],
    }
    assert rows["ann", 0]["history_times"] == [int(ago(d).timestamp()) for d in (2.5, 1.5, 0.5)]
    sessions = by_key(user_features.session_history(visits, SPAN), "session_id")
    assert {key: row["history_events"] for key, row in sessions.items()} == {("s-1", 0): ["view"]}


def test_categories_by_decayed_weight(spark: SparkSession) -> None:
    rows = [("ann", "cup", "view", ago(30.5)), ("ann", "mug", "view", ago(0.5)), ("ann", "car", "view", ago(0.5))]
    events, items = shop(spark, [*rows, ("ann", "car", "view", ago(0.5))])
    found = feature_rows.prepare(events, items, SPAN)
    now = by_key(
        user_features.user_categories(found, ended(events, items), items, user_features.active_days(found, SPAN), SPAN),
        "user_id",
    )["ann", 0]
    assert now["categories"] == ["Toys", "Home > Mugs", "Home > Cups"]
    assert now["category_weights"] == pytest.approx([2 / 3.5, 1 / 3.5, 0.5 / 3.5], rel=1e-5)
    assert now["top_categories"] == ["Toys", "Home"]
    assert now["brands"] == ["Acme"]
    assert now["brand_weights"] == [1.0]


def test_rolling_windows_agree_with_a_naive_count(spark: SparkSession) -> None:
    rng = np.random.default_rng(7)
    ages, who, what = rng.integers(0, 60, 400) + 0.5, rng.integers(0, 5, 400), rng.integers(0, 3, 400)
    item = np.array(list(ITEMS))[what]
    rows = [(f"u{u}", str(i), "view", ago(age)) for u, i, age in zip(who, item, ages, strict=True)]
    for (user, days), row in activity(spark, rows).items():
        age = ages - days
        own = np.array([f"u{u}" == user for u in who])
        for window in (1, 7, 30):
            assert row[f"view_{window}d"] == np.sum(own & (age > 0) & (age < window))
        month = own & (age > 0) & (age < 30)
        assert row["distinct_items_30d"] == len(set(what[month]))
        assert row["active_days_30d"] == row["sessions_30d"] == len(set(ages[month]))
        assert row["events_total"] == np.sum(own & (age > 0))


def test_repeats_are_purchases_on_a_later_day(spark: SparkSession) -> None:
    buy = [("ann", "mug", "purchase", ago(d)) for d in (9, 9, 5, 1)] + [("bob", "cup", "purchase", ago(2))]
    events, items = shop(spark, buy)
    assert item_features.repeat_share(feature_rows.purchases(feature_rows.prepare(events, items, SPAN))) == 0.5
    none = feature_rows.prepare(events.where("event = 'view'"), items, SPAN)
    assert item_features.repeat_share(feature_rows.purchases(none)) == 0.0


def test_days_are_utc(spark: SparkSession) -> None:
    moments = [datetime(2026, 3, 29, 23, 59, 59, tzinfo=UTC), datetime(2026, 3, 30, tzinfo=UTC)]
    frame = spark.createDataFrame([(m,) for m in moments], "moment timestamp")
    found = [row[0] for row in frame.select(windows.day_number(frame["moment"])).collect()]
    assert found == [DAY, DAY + 1]


def test_the_views_that_the_stage_names_are_those_that_it_writes(spark: SparkSession, settings: Settings) -> None:
    """By their names a run finds out whether it must make them again."""
    lake = datasets.lake(settings)
    for before in (1, 0):
        events, items = shop(spark, [("ann", "mug", "view", ago(before + 0.5))])
        lake.write(datasets.EVENTS, LAST - timedelta(days=before), events.toArrow())
    lake.write(datasets.ITEMS, LAST, items.toArrow())
    lake.write(datasets.USERS, LAST, pa.Table.from_pylist([{"user_id": "ann"}], schema.USERS.arrow()))
    result = features.main(features.Params(day=LAST, run=RunId("r"), history_days=2), settings)
    assert set(result["rows"]) == {*features.VIEWS, "sequences"}
    assert {path.name for path in lake.folder(features.ITEM_STATS).parent.iterdir()} == set(features.VIEWS)


def test_events_about_no_item_are_the_users_and_no_items(spark: SparkSession) -> None:
    """A search, leaving a category and taking that back count as a visit; there is no item "nothing"."""
    viewed = [("ann", "mug", "view", ago(1.5))]
    silent = [("ann", None, kind, ago(0.5)) for kind in schema.ITEM_OPTIONAL]
    now = activity(spark, viewed + silent)["ann", 0]
    assert (now["sessions_30d"], now["active_days_30d"], now["events_total"]) == (2, 2, 1)
    assert stats(spark, viewed + silent) == stats(spark, viewed)


def test_a_lake_whose_older_days_lack_the_newer_columns_is_read(spark: SparkSession, settings: Settings) -> None:
    lake = datasets.lake(settings)
    newer = ["query", "category", "brand"]
    for before in (1, 0):
        events, items = shop(spark, [("ann", "mug", "view", ago(before + 0.5))])
        lake.write(datasets.EVENTS, LAST - timedelta(days=before), events.drop(*newer * before).toArrow())
    lake.write(datasets.ITEMS, LAST, items.toArrow())
    lake.write(datasets.USERS, LAST, pa.Table.from_pylist([{"user_id": "ann"}], schema.USERS.arrow()))
    features.main(features.Params(day=LAST, run=RunId("r"), history_days=2), settings)
    assert lake.read(datasets.SEQUENCES, LAST)["items"].to_pylist() == [["mug", "mug"]]
    read = lake.read_days(datasets.EVENTS, [LAST - timedelta(days=1), LAST], ["item_id", *newer])
    assert read.to_pylist() == [{"item_id": "mug"} | dict.fromkeys(newer)] * 2


STORY = [
    ("ann", "mug", "purchase", ago(3.5), 4.0, 1),
    ("ann", "cup", "click", ago(3.5)),
    ("ann", "mug", "return", ago(2.5)),
    ("ann", "cup", "skip", ago(1.5)),
    ("ann", "cup", "undo", ago(0.5)),
]


def views(spark: SparkSession, rows: Sequence[tuple[Any, ...]]) -> dict[str, dict[int, Any]]:
    """By days before the last: what is known of ann's history, of her categories and of the items' popularity."""
    events, items = shop(spark, rows)
    found, gone = feature_rows.prepare(events, items, SPAN), ended(events, items)
    emit = user_features.active_days(found, SPAN)
    history = by_key(user_features.user_history(user_features.sequences(found, gone), emit), "user_id")
    categories = by_key(user_features.user_categories(found, gone, items, emit, SPAN), "user_id")
    known = by_key(item_features.item_stats(found, gone, feature_rows.purchases(found), items, SPAN), "item_id")
    return {
        "history": {day: row["history_items"] for (_, day), row in history.items()},
        "categories": {day: sorted(row["categories"]) for (_, day), row in categories.items()},
        "mug": {day: row["popularity"] for (item, day), row in known.items() if item == "mug"},
        "cup": {day: row["popularity"] for (item, day), row in known.items() if item == "cup"},
    }


def test_a_no_is_known_from_its_day_on_and_not_before(spark: SparkSession) -> None:
    found = views(spark, STORY)
    assert found["history"] == {3: ["mug", "cup"], 2: ["cup"], 1: [], 0: ["cup"]}
    assert found["categories"] == {3: ["Home > Cups", "Home > Mugs"], 2: ["Home > Cups"], 1: [], 0: ["Home > Cups"]}
    assert [round(found["mug"][day], 3) for day in (3, 2, 1, 0)] == [round(4 * 2 ** (-0.5 / 14), 3), 0, 0, 0]
    click = [2 ** (-age / 14) for age in (0.5, 1.5, 3.5)]
    assert [found["cup"][day] for day in (3, 2, 1, 0)] == pytest.approx([click[0], click[1], 0, click[2]], rel=1e-5)


def test_a_later_no_changes_no_earlier_feature(spark: SparkSession) -> None:
    """The planted future: with each further event of the story, the days before it stay as they were."""
    for known in range(2, len(STORY)):
        until = [4, 4, 3, 2, 1][known]  # days before the last on which the next event is not known yet
        before, after = views(spark, STORY[:known]), views(spark, STORY[: known + 1])
        for name in before:
            earlier = {day: value for day, value in after[name].items() if day > until - 1}
            assert earlier == {day: value for day, value in before[name].items() if day > until - 1}


def test_sequences_tell_when_an_event_stopped_to_count(spark: SparkSession) -> None:
    events, items = shop(spark, [*STORY, ("bob", "mug", "view", ago(1))])
    visits = user_features.sequences(feature_rows.prepare(events, items, SPAN), ended(events, items))
    users = spark.createDataFrame([], schema.USERS.ddl())
    found = {row["visitor_id"]: row for row in user_features.training_sequences(visits, users).collect()}
    moments = {"mug": [2.5], "cup": [1.5, 0.5]}
    expected = [[int(ago(days).timestamp()) for days in moments[item]] for item in found["ann"]["items"]]
    assert found["ann"]["turns"] == expected
    assert found["bob"]["turns"] is None


def test_one_no_to_a_category_is_to_all_its_items(spark: SparkSession) -> None:
    viewed = [(who, item, "view", ago(2)) for who, item in (("ann", "mug"), ("ann", "car"), ("bob", "mug"))]
    events, items = shop(spark, viewed)
    left = events.where("user_id = 'ann' AND item_id = 'mug'").withColumns(
        {"event_id": F.lit("e9"), "item_id": F.lit(None).cast("string"), "event": F.lit("unsubscribe")}
        | {"category": F.lit("Home"), "event_time": F.col("event_time") + F.expr("INTERVAL 1 DAY")}
    )
    rows = ended(events.unionByName(left), items).collect()
    assert [(row["visitor_id"], row["item_id"], row["event"]) for row in rows] == [("ann", "mug", "view")]


def test_what_was_made_of_events_that_were_published_anew_is_made_again(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    """A refund and a late event of an earlier day end in the same features as if they had been known from the start."""
    days = [LAST - timedelta(days=before) for before in (3, 2, 1, 0)]

    def publish(lake: datasets.Lake, day: date, *rows: tuple[Any, ...]) -> None:
        events, items = shop(spark, [(*row[:3], datasets.end_of(day) - timedelta(hours=1)) for row in rows])
        lake.write(datasets.EVENTS, day, events.toArrow())
        lake.write(datasets.ITEMS, day, items.toArrow())
        lake.write(datasets.USERS, day, pa.Table.from_pylist([{"user_id": "ann"}], schema.USERS.arrow()))

    def rows(lake: datasets.Lake, view: str) -> list[Any]:
        found = lake.read_days(datasets.feature_view(view), lake.days(datasets.feature_view(view)))
        keys = [(found.column_names[0], "ascending"), ("event_timestamp", "ascending")]
        return [row for row in found.sort_by(keys).to_pylist() if row["event_timestamp"] > datasets.end_of(days[0])]

    lake = datasets.lake(settings)
    other = settings.model_copy(update={"storage": Storage(root=str(tmp_path / "other"))})
    for day in days[:3]:
        publish(lake, day, ("ann", "mug", "purchase"), ("bob", "cup", "view"))
    features.main(features.Params(day=days[2], run=RunId("r"), history_days=3), settings)
    publish(lake, days[1], ("ann", "mug", "purchase"), ("eve", "car", "view"))
    publish(lake, days[3], ("ann", "cup", "view"))
    for day in days:
        for dataset in datasets.CLEAN.values():
            datasets.lake(other).write(dataset, day, lake.read(dataset, day))
    for told in (settings, other):
        features.main(features.Params(day=LAST, run=RunId("r"), history_days=4), told)
    for view in ("item_stats", "user_activity", "user_history", "user_categories"):
        assert rows(lake, view) == rows(datasets.lake(other), view)
