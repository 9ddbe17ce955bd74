"""The quality gate on small batches with planted faults: quarantined rows and their reasons, and stopped runs."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from staged_batch import (
    DAY,
    GOOD,
    ITEMS,
    NOON,
    RUN,
    USERS,
    Row,
    event,
    item,
    loose,
    quarantined,
    run,
    stage_batch,
)

from feature_repo import events as schema
from pipelines import acceptance, datasets, published, stage
from recsys.errors import BadData, Exit, NothingToDo
from recsys.settings import Settings

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("interpreted")]


def test_a_good_batch_is_published_by_day(settings: Settings, spark: SparkSession) -> None:
    early = [event(number, event_time=NOON - timedelta(days=2, seconds=-number)) for number in range(100, 103)]
    stage_batch(settings, [*GOOD, *early])
    result = run(settings)
    lake = datasets.lake(settings)
    assert lake.days(datasets.EVENTS) == [DAY - timedelta(days=2), DAY]
    assert published.read(lake)[DAY] == published.Day(True, 40, str(DAY), (), RUN)
    assert lake.read(datasets.EVENTS, DAY).column_names == schema.EVENTS.names
    assert lake.read(datasets.EVENTS, DAY).num_rows == 40
    assert lake.read(datasets.EVENTS, DAY - timedelta(days=2))["event_id"].to_pylist() == ["e0100", "e0101", "e0102"]
    assert lake.read(datasets.ITEMS, DAY)["item_id"].to_pylist() == ["cup", "mug"]
    assert lake.read(datasets.USERS, DAY)["user_id"].to_pylist() == ["ann"]
    assert quarantined(settings, "events") == {}
    assert result["rows"] == {"events": 43, "items": 2, "users": 1}
    assert (result["days"], result["first_day"], result["last_day"]) == (2, DAY - timedelta(days=2), DAY)


def test_a_re_run_of_the_day_replaces_only_itself(settings: Settings, spark: SparkSession) -> None:
    early = [event(number, event_time=NOON - timedelta(days=1)) for number in range(100, 140)]
    stage_batch(settings, [*GOOD, *early])
    run(settings)
    lake = datasets.lake(settings)
    before, yesterday = lake.read(datasets.EVENTS, DAY), lake.path(datasets.EVENTS, DAY - timedelta(days=1))
    untouched = yesterday.stat().st_mtime_ns
    stage_batch(settings, GOOD)
    run(settings)
    assert lake.read(datasets.EVENTS, DAY).equals(before)
    assert yesterday.stat().st_mtime_ns == untouched


# Each planted row, and the reason that it must have.
PLANTED: Mapping[str, tuple[Row, str]] = {
    "no user is fine": (event(1, user_id=None), ""),
    "unknown user is fine": (event(2, user_id="stranger"), ""),
    "no session": (event(3, session_id=None), "missing_session_id"),
    "blank item": (event(4, item_id=" "), "missing_item_id; unknown_item"),
    "no time": (event(5, event_time=None), "missing_event_time"),
    "unknown type": (event(6, event="teleport"), "unknown_event_type"),
    "unknown item": (event(7, item_id="ghost"), "unknown_item"),
    "item in quarantine": (event(8, item_id="untitled"), "unknown_item"),
    "negative value": (event(9, value=-1.0), "bad_value"),
    "value not a number": (event(10, value=float("nan")), "bad_value"),
    "huge value": (event(11, value=1e300), "bad_value"),
    "nothing bought": (event(12, quantity=0), "bad_quantity"),
    "too much bought": (event(13, quantity=2_000_000_000), "bad_quantity"),
    "negative position": (event(14, position=-1), "bad_position"),
    "negative duration": (event(15, duration_sec=-0.5), "bad_duration_sec"),
    "before the web": (event(16, event_time=datetime(1970, 1, 1, tzinfo=UTC)), "too_old"),
    "the next midnight": (event(17, event_time=datasets.end_of(DAY)), "future"),
    "two faults": (event(18, value=-1.0, quantity=-1), "bad_value; bad_quantity"),
    "last moment": (event(19, event_time=datasets.end_of(DAY) - timedelta(microseconds=1)), ""),
}
BAD_ITEMS: Mapping[str, tuple[Row, str]] = {
    "blank title": (item("untitled", title="  "), "missing_title"),
    "no category": (item("homeless", category=None), "missing_category"),
    "free": (item("free", price=0.0), "bad_price"),
    "price not a number": (item("odd", price=float("nan")), "bad_price"),
    "of tomorrow": (item("tomorrow", created_at=datasets.end_of(DAY)), "not_yet_created"),
    "no price is fine": (item("unpriced", price=None), ""),
}


def test_bad_rows_go_to_quarantine_with_all_their_reasons(settings: Settings, spark: SparkSession) -> None:
    rows = [row for row, _ in PLANTED.values()]
    items = [*ITEMS, *(row for row, _ in BAD_ITEMS.values())]
    stage_batch(settings, [*(event(number) for number in range(100, 160)), *rows], items)
    result = run(settings, max_quarantined=0.5, handful=30)
    expected = {row["event_id"]: reason for row, reason in PLANTED.values() if reason}
    assert quarantined(settings, "events") == expected
    assert quarantined(settings, "items") == {row["item_id"]: reason for row, reason in BAD_ITEMS.values() if reason}
    published = datasets.lake(settings).read(datasets.EVENTS, DAY)["event_id"].to_pylist()
    assert set(published) == {f"e{number:04}" for number in (1, 2, 19, *range(100, 160))}
    assert result["quarantined"]["events"]["bad_value"] == 4
    assert result["noted"]["events"] == {"unknown_user": 1, "quarantined": len(expected)}
    assert result["noted"]["items"] == {"quarantined": 4}  # the item of tomorrow is no fault
    report = (datasets.run_folder(settings, RUN) / "quality" / "report.html").read_text()
    assert "The batch is good" in report
    assert "<code>teleport</code>" in report


def test_of_rows_with_one_id_the_first_arrived_is_kept(settings: Settings, spark: SparkSession) -> None:
    later = NOON + timedelta(hours=2)
    copies = [
        event(1, ingested_at=later),  # the same event, delivered twice
        event(2, ingested_at=later, value=1.0),  # the same id, another body
    ]
    stage_batch(settings, [*copies, *GOOD], [*ITEMS, item("mug"), item("cup", title="Another cup")], [*USERS, *USERS])
    run(settings)
    rows = datasets.lake(settings).read(datasets.QUARANTINE_EVENTS, RUN).to_pylist()
    assert {(r["event_id"], r["ingested_at"], r["reason"]) for r in rows} == {
        ("e0001", later, "identical_duplicate"),
        ("e0002", later, "conflicting_duplicate"),
    }
    assert quarantined(settings, "items") == {"mug": "identical_duplicate", "cup": "conflicting_duplicate"}
    assert quarantined(settings, "users") == {"ann": "identical_duplicate"}
    assert datasets.lake(settings).read(datasets.EVENTS, DAY).num_rows == 40


def publish(settings: Settings, day: date, rows: Sequence[Row], whole: bool = True) -> None:
    with datasets.lake(settings).replacing(datasets.EVENTS, day) as folder:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema.EVENTS.arrow()), folder / "part-0.parquet")
        published.write(folder, published.Day(whole, len(rows), f"published {day}"))


def publish_history(settings: Settings, rows_per_day: int, days: int = 3) -> None:
    for back in range(1, days + 1):
        day = DAY - timedelta(days=back)
        publish(
            settings, day, [event(number, event_time=NOON - timedelta(days=back)) for number in range(rows_per_day)]
        )


def test_wrong_clocks_go_to_quarantine_with_their_reason(settings: Settings, spark: SparkSession) -> None:
    """They are those of the whole source, every night: 30 among 10,000 rows do not stop a night of 40."""
    publish_history(settings, 40)
    reasons = ["late"] * 20 + ["future"] * 30 + ["too_old", "missing_event_time"]
    strays = [
        event(number, event_time=None if reason == "missing_event_time" else NOON, reason=reason, item_id="nowhere")
        for number, reason in enumerate(reasons, start=500)
    ]
    stage_batch(settings, GOOD, strays=strays, rows_read=10_000)
    result = run(settings)
    assert quarantined(settings, "events") == {row["event_id"]: row["reason"] for row in strays}
    assert result["quarantined"]["events"] == {"late": 20, "future": 30, "too_old": 1, "missing_event_time": 1}
    assert datasets.lake(settings).read(datasets.EVENTS, DAY).num_rows == 40
    stage_batch(settings, GOOD, strays=strays, rows_read=1_000)
    with pytest.raises(BadData, match=r"events\.future"):
        run(settings)


def many(count: int, spoil: Callable[[int], Row]) -> list[Row]:
    return [event(number, **spoil(number)) for number in range(count)]


def without(column: str) -> pa.Table:
    return pa.Table.from_pylist(GOOD, schema=loose(schema.EVENTS)).drop_columns([column])


def with_text_quantity() -> pa.Table:
    table = pa.Table.from_pylist(GOOD, schema=loose(schema.EVENTS))
    place = table.schema.get_field_index("quantity")
    return table.set_column(place, "quantity", table["quantity"].cast(pa.string()))


# Each bad batch, and the expectation that must stop it.
BAD_BATCHES: Mapping[str, tuple[Callable[[], Sequence[Row] | pa.Table], str]] = {
    "empty": (list, "events.volume"),
    "missing column": (lambda: without("session_id"), "events.columns: observed missing: session_id"),
    "unknown column": (
        lambda: without("surface").append_column("shelf", pa.array(["a"] * 40)),
        "unexpected: shelf",
    ),
    "wrong type": (with_text_quantity, "events.type_of_quantity: observed StringType"),
    "a client's new event type": (
        lambda: many(100, lambda n: {"event": "buy2"} if n < 20 else {}),
        "unknown_event_type",
    ),
    "a clock ahead": (lambda: many(100, lambda n: {"event_time": NOON + timedelta(days=n % 2)}), "events.future"),
    "loaded twice": (lambda: GOOD * 2, "events.identical_duplicate: observed 50.00% (40 of 80)"),
    "ids used again": (lambda: [*GOOD, *many(40, lambda n: {"value": 1.0})], "events.conflicting_duplicate"),
    "another shop's items": (lambda: many(40, lambda n: {"item_id": f"x{n}"}), "events.unknown_item"),
    "sessions lost": (lambda: many(40, lambda n: {"session_id": None}), "events.missing_session_id"),
    "many small faults": (
        lambda: many(200, lambda n: {"value": -1.0} if n < 9 else {"quantity": 0} if n < 18 else {}),
        "events.quarantined: observed 9.00% (18 of 200), allowed at most 5.0%",
    ),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_bad_batch_stops_the_run_and_publishes_nothing(
    settings: Settings,
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    make, expected = BAD_BATCHES[name]
    stage_batch(settings, make())
    monkeypatch.setenv("RECSYS_STORAGE__ROOT", settings.storage.root)
    assert stage.run("quality", ["--day", str(DAY), "--run", RUN]) is Exit.BAD_DATA
    assert expected in caplog.text
    lake = datasets.lake(settings)
    assert [lake.days(dataset) for dataset in datasets.CLEAN.values()] == [[], [], []]
    folder = datasets.run_folder(settings, RUN)
    assert str(folder / "quality" / "report.html") in caplog.text
    assert "nothing was published" in (folder / "quality" / "report.html").read_text()
    assert json.loads((folder / "quality" / "report.json").read_text())["passed"] is False
    assert not (folder / "quality.json").exists()


def test_a_drop_of_volume_stops_the_run(settings: Settings, spark: SparkSession) -> None:
    publish_history(settings, 200)
    stage_batch(settings, GOOD)
    with pytest.raises(BadData, match=r"events.volume: observed 40, allowed at least 50 rows.*data accept 2026-03-10"):
        run(settings)
    assert datasets.lake(settings).days(datasets.EVENTS)[-1] == DAY - timedelta(days=1)
    assert run(settings, min_volume=0.2)["passed"]


def test_a_person_accepts_a_day_and_the_report_says_who_when_and_why(settings: Settings, spark: SparkSession) -> None:
    publish_history(settings, 200)
    stage_batch(settings, [*GOOD, *(event(number, value=-1.0) for number in range(100, 120))])
    assert run(settings, accept="public holiday", accepted_by="ann <a>")["accepted"] == [str(DAY)]
    assert datasets.lake(settings).read(datasets.EVENTS, DAY).num_rows == 40, "bad rows are put aside all the same"
    assert acceptance.read(datasets.lake(settings))[DAY].who == "ann <a>"
    folder = datasets.run_folder(settings, RUN) / "quality"
    [check] = [c for c in json.loads((folder / "report.json").read_text())["checks"] if c["verdict"] == "accepted"]
    assert check["observed"] == "volume 40; bad_value 33.33% (20 of 60)"
    assert "accepted by ann &lt;a&gt; on 20" in (folder / "report.html").read_text()
    assert ": public holiday" in check["says"]


def test_an_accepted_day_is_a_level_that_later_days_are_held_against(settings: Settings, spark: SparkSession) -> None:
    """A shop that sells a tenth from now on: one person, one word, one night."""
    publish_history(settings, 200, days=10)
    publish(settings, DAY - timedelta(days=1), [event(number) for number in range(20)])
    stage_batch(settings, GOOD[:20])
    with pytest.raises(BadData, match=r"events\.volume"):
        run(settings)
    acceptance.accept(datasets.lake(settings), DAY - timedelta(days=1), "sells less")
    assert run(settings)["accepted"] == []


def test_an_earlier_day_that_is_not_good_is_held_back_and_the_others_go_on(
    settings: Settings, spark: SparkSession
) -> None:
    publish_history(settings, 200)
    low, bad, right = (DAY - timedelta(days=back) for back in (4, 5, 6))
    batch = [event(1000 + n, event_time=datasets.end_of(low) - timedelta(hours=1)) for n in range(11)]
    batch += [
        event(2000 + n, event_time=datasets.end_of(bad) - timedelta(hours=1), item_id=f"x{n // 2}" if n < 30 else "mug")
        for n in range(200)
    ]
    batch += [event(3000 + n, event_time=datasets.end_of(right) - timedelta(hours=1)) for n in range(200)]
    batch += [event(n) for n in range(100)]
    stage_batch(settings, batch)
    publish(settings, low - timedelta(days=10), [event(5000 + n) for n in range(200)])
    result = run(settings)
    assert result["held"] == [str(bad), str(low)]
    days = datasets.lake(settings).days(datasets.EVENTS)
    assert (low in days, bad in days, right in days, DAY in days) == (False, False, True, True)
    assert quarantined(settings, "events") == {}, "a row of a day that is held back has not been judged"
    report = (datasets.run_folder(settings, RUN) / "quality" / "report.html").read_text()
    assert f"at most 5.0% of the rows of {bad}" in report
    assert f"at least 50 rows on {low}" in report


def test_a_published_day_that_would_lose_most_of_its_rows_is_held_back(settings: Settings, spark: SparkSession) -> None:
    publish_history(settings, 200)
    before = DAY - timedelta(days=1)
    stage_batch(settings, [*GOOD, *GOOD[:0]], made_of={DAY: "d", before: "0:0"})
    assert run(settings, min_volume=0.1)["held"] == [str(before)]
    assert datasets.lake(settings).read(datasets.EVENTS, before).num_rows == 200


def test_a_closed_day_is_published_with_nothing_and_there_is_nothing_to_judge_on(
    settings: Settings, spark: SparkSession
) -> None:
    publish_history(settings, 200)
    stage_batch(settings, [])
    with pytest.raises(NothingToDo, match="2026-03-10 is published, but nothing happened since 2026-03-10"):
        run(settings)
    lake = datasets.lake(settings)
    assert lake.read(datasets.EVENTS, DAY).num_rows == 0
    assert published.read(lake)[DAY] == published.Day(True, 0, "0:0", (), RUN)


def test_what_the_api_has_so_far_is_no_whole_day(settings: Settings, spark: SparkSession) -> None:
    publish_history(settings, 200)
    stage_batch(settings, GOOD[:3], whole=False)
    run(settings, min_volume=0)
    assert not published.read(datasets.lake(settings))[DAY].whole


def test_an_event_of_two_days_is_published_on_the_first_and_links_them(settings: Settings, spark: SparkSession) -> None:
    before = DAY - timedelta(days=1)
    twin = event(1, event_time=NOON - timedelta(days=1), ingested_at=NOON + timedelta(days=3))
    stage_batch(settings, [*GOOD, twin])
    run(settings, max_duplicates=1)
    lake = datasets.lake(settings)
    assert "e0001" in lake.read(datasets.EVENTS, before)["event_id"].to_pylist()
    assert "e0001" not in lake.read(datasets.EVENTS, DAY)["event_id"].to_pylist()
    assert (published.read(lake)[DAY].linked, published.read(lake)[before].linked) == ((before,), ())


def test_a_day_of_wrong_clocks_only_leaves_the_lake(settings: Settings, spark: SparkSession) -> None:
    publish(settings, date(1999, 1, 1), GOOD[:1])
    stage_batch(settings, GOOD, gone=(date(1999, 1, 1),))
    run(settings)
    assert datasets.lake(settings).days(datasets.EVENTS) == [DAY]


def test_a_column_that_got_empty_stops_the_run(settings: Settings, spark: SparkSession) -> None:
    publish_history(settings, 400)  # 1,200 purchases, each with a region
    stage_batch(settings, many(200, lambda n: {"region": None} if n % 2 else {}))
    with pytest.raises(BadData, match=r"events.empty_region_of_purchase: observed 50.00% \(100 of 200\)"):
        run(settings)
    # What another type of event leaves empty is no news about purchases.
    stage_batch(settings, [*many(200, lambda n: {"event": "view", "region": None} if n % 2 else {})])
    assert run(settings)["passed"]


def test_days_published_before_a_column_existed_are_compared_with(settings: Settings, spark: SparkSession) -> None:
    publish_history(settings, 200)
    lake = datasets.lake(settings)
    for day in lake.days(datasets.EVENTS):
        lake.write(datasets.EVENTS, day, lake.read(datasets.EVENTS, day).drop_columns(["query", "category", "brand"]))
    stage_batch(settings, many(200, lambda _: {}))
    assert run(settings)["rows"]["events"] == 200


def test_an_event_about_no_item_is_published(settings: Settings, spark: SparkSession) -> None:
    silent = {"search": {"query": "mugs"}, "unsubscribe": {"category": "Home"}, "undo": {"brand": "Acme"}}
    more = [event(n, item_id=None, event=kind, **what) for n, (kind, what) in enumerate(silent.items(), 100)]
    stage_batch(settings, [*GOOD, *more, event(200, item_id=None)])
    run(settings)
    assert quarantined(settings, "events") == {"e0200": "missing_item_id"}
    found = datasets.lake(settings).read(datasets.EVENTS, DAY).filter(pc.field("event_id") >= "e0100")
    assert set(found["event"].to_pylist()) == set(silent)


def test_a_large_share_of_a_user_that_is_nobody_stops_the_batch(settings: Settings, spark: SparkSession) -> None:
    stage_batch(settings, many(300, lambda n: {"user_id": "(not set)"} if n < 15 else {}))
    assert run(settings)["noted"]["events"]["stands_for_nobody"] == 15
    stage_batch(settings, many(300, lambda n: {"user_id": "0"} if n < 60 else {}))
    with pytest.raises(BadData, match=r"stands_for_nobody: observed 20.00% .*\?nobody=ID,ID"):
        run(settings)


def test_ids_that_the_api_would_refuse_are_put_aside(settings: Settings, spark: SparkSession) -> None:
    odd = {"long": "x" * 201, "spaced": " u1", "broken": "u\x001"}
    stage_batch(settings, [*GOOD, *(event(500 + n, user_id=user) for n, user in enumerate(odd.values()))])
    run(settings)
    assert quarantined(settings, "events") == {f"e{500 + n:04}": "bad_user_id" for n in range(len(odd))}


def test_a_price_is_judged_in_its_currency(settings: Settings, spark: SparkSession) -> None:
    phone = 12_990_000.0
    items = [item("phone", price=phone, currency="VND"), item("slip", price=phone, currency="EUR")]
    sold = [event(600, item_id="phone", value=phone)]
    stage_batch(settings, [*GOOD, *sold], items=[*ITEMS, *items])
    run(settings)
    assert quarantined(settings, "items") == {"slip": "bad_price"}
    assert quarantined(settings, "events") == {}
