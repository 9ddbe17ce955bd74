"""Decayed scores and co-visitation on tables small enough to check by eye.

Scores: a purchase weighs 4, a cart 3, a view 1. With a half-life of 1 day an event of a day ago counts half.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from feature_repo import events as schema
from pipelines import datasets, stage, trending
from recsys.errors import BadData, Exit
from recsys.settings import Settings

pytestmark = pytest.mark.spark

DAY = date(2026, 3, 10)
AS_OF = datasets.end_of(DAY)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def ago(days: float) -> datetime:
    return AS_OF - timedelta(days=days)


def event(
    item: str,
    kind: str = "view",
    days: float = 1,
    user: str | None = "ann",
    session: str = "s1",
    region: str | None = None,
) -> dict[str, Any]:
    return {
        "event_id": f"{item}-{kind}-{days}-{user}-{session}",
        "item_id": item,
        "event": kind,
        "event_time": ago(days),
        "user_id": user,
        "session_id": session,
        "region": region,
    }


def item(name: str, category: str = "Home > Mugs", **columns: Any) -> dict[str, Any]:
    whole = {"item_id": name, "title": name, "category": category, "created_at": LONG_AGO, "available": True}
    return whole | {"regions": []} | columns


def frame(spark: SparkSession, table: schema.Table, rows: Sequence[dict[str, Any]]) -> DataFrame:
    columns = [tuple(row.get(c.name) for c in table.columns) for row in rows]
    return spark.createDataFrame(columns, table.ddl())


def lists(
    spark: SparkSession,
    events: Sequence[dict[str, Any]],
    items: Sequence[dict[str, Any]],
    users: Sequence[dict[str, Any]] = (),
    **options: Any,
) -> dict[tuple[str, str], list[tuple[str, float]]]:
    """(scope, key) → [(item_id, score)] by rank."""
    said, goods = frame(spark, schema.EVENTS, events), frame(spark, schema.ITEMS, items)
    found = trending.trending(
        said,
        trending.taken_back(said, goods, AS_OF),
        goods,
        frame(spark, schema.USERS, users),
        AS_OF,
        **{"half_life_days": 1, **options},
    ).collect()
    answer: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for row in sorted(found, key=lambda r: r["rank"]):
        answer.setdefault((row["scope"], row["key"]), []).append((row["item_id"], row["score"]))
    return answer


def neighbours(
    spark: SparkSession, events: Sequence[dict[str, Any]], items: Sequence[dict[str, Any]], **options: Any
) -> dict[tuple[str, str], list[tuple[str, float, int]]]:
    """(kind, item_id) → [(other_id, lift, support)] by rank."""
    of_baskets = {name: options.pop(name) for name in ("basket_days", "basket_cap") if name in options}
    said, goods = frame(spark, schema.EVENTS, events), frame(spark, schema.ITEMS, items)
    found = trending.covisitation(
        trending.baskets_of(said, trending.taken_back(said, goods, AS_OF), AS_OF, **of_baskets),
        goods,
        **{"min_support": 1, "shrinkage": 0, **options},
    ).collect()
    answer: dict[tuple[str, str], list[tuple[str, float, int]]] = {}
    for row in sorted(found, key=lambda r: r["rank"]):
        entry = (row["other_id"], pytest.approx(row["lift"]), row["support"])
        answer.setdefault((row["kind"], row["item_id"]), []).append(entry)
    return answer


MUG, CUP, BOWL = item("mug"), item("cup"), item("bowl", "Home > Bowls")


def test_a_score_is_the_weight_halved_per_half_life(spark: SparkSession) -> None:
    events = [event("mug", "purchase", 1), event("mug", "view", 2), event("cup", "view", 1)]
    # The mug has a purchase of one half-life ago and a view of two; the cup a view of one.
    assert lists(spark, events, [MUG, CUP])["global", ""] == [("mug", 2.25), ("cup", 0.5)]


def test_impressions_and_skips_say_nothing(spark: SparkSession) -> None:
    assert lists(spark, [event("mug", "impression"), event("mug", "skip")], [MUG]) == {}


def test_what_was_taken_back_is_no_yes(spark: SparkSession) -> None:
    bought = [event("mug", "purchase", 2), event("cup", "purchase", 2), event("cup", "view", 1, "bob")]
    back = [
        event("mug", "return", 1),
        event("cup", "add_to_cart", 1.5, "bob"),
        event("cup", "remove_from_cart", 1, "bob"),
    ]
    assert lists(spark, bought + back, [MUG, CUP])["global", ""] == [("cup", 1.5)]
    assert neighbours(spark, bought + back, [MUG, CUP]) == {}
    assert set(neighbours(spark, [*bought, *back, event("mug", "purchase", 0.5)], [MUG, CUP])) == {
        ("bought", "mug"), ("bought", "cup")
    }  # fmt: skip
    left = event("", "unsubscribe", 1) | {"item_id": None, "category": "Home"}
    search = event("", "search", 1) | {"item_id": None}
    assert lists(spark, [*bought, left, search], [MUG, CUP])["global", ""] == [("cup", 0.5)]


def test_a_no_lowers_but_one_visitor_buries_nothing(spark: SparkSession) -> None:
    liked = [event("mug", "purchase", 1, f"u{n}") for n in range(20)] + [event("cup", "view", 1)]
    angry = [event(name, "dislike", 1 + n / 100, "bob") for name in ("mug", "cup") for n in range(50)]
    found = dict(lists(spark, liked + angry, [MUG, CUP])["global", ""])
    # P = 40 and 0.5, and of bob's fifty noes to each the newest alone: N = 2.
    assert found == {"mug": pytest.approx(40 * 40 / 42), "cup": pytest.approx(0.5 * 0.5 / 2.5)}
    undone = [event(name, "undo", 0.5, "bob") for name in ("mug", "cup")]
    assert lists(spark, liked + angry + undone, [MUG, CUP]) == lists(spark, liked, [MUG, CUP])
    many = [event("cup", "dislike", 1, f"u{n}") for n in range(20)]
    assert 0 < dict(lists(spark, liked + many, [MUG, CUP])["global", ""])["cup"] < 0.01


def test_the_types_of_the_shop_count_by_weight_and_polarity(spark: SparkSession, own_events: None) -> None:
    told = [event("mug", "play_trailer"), event("cup", "view", 1), event("cup", "report", 1, "bob")]
    found = dict(lists(spark, told, [MUG, CUP])["global", ""])
    assert found == {"mug": pytest.approx(0.25), "cup": pytest.approx(0.5 * 0.5 / 1.5)}


def test_each_scope_has_its_own_list(spark: SparkSession) -> None:
    events = [
        event("mug", "purchase", 1, "ann", region="DE"),
        event("bowl", "view", 1, "bob"),  # the region of the event is unknown: that of bob's profile counts
        event("cup", "view", 1, None, region="FR"),
    ]
    users = [
        {"user_id": "ann", "age_group": "25-34", "region": "FR"},
        {"user_id": "bob", "age_group": "35-44", "region": "DE"},
    ]
    assert lists(spark, events, [MUG, CUP, BOWL], users) == {
        ("global", ""): [("mug", 2.0), ("bowl", 0.5), ("cup", 0.5)],
        ("region", "DE"): [("mug", 2.0), ("bowl", 0.5)],
        ("region", "FR"): [("cup", 0.5)],
        ("category", "Home > Mugs"): [("mug", 2.0), ("cup", 0.5)],
        ("category", "Home > Bowls"): [("bowl", 0.5)],
        ("top_category", "Home"): [("mug", 2.0), ("bowl", 0.5), ("cup", 0.5)],
        ("age_region", "25-34|DE"): [("mug", 2.0)],
        ("age_region", "35-44|DE"): [("bowl", 0.5)],
    }


def test_unavailable_and_unknown_items_are_absent(spark: SparkSession) -> None:
    events = [event("gone", "purchase"), event("ghost", "purchase"), event("mug")]
    found = lists(spark, events, [MUG, item("gone", available=False)])
    assert found["global", ""] == [("mug", 0.5)]


def test_a_region_lists_only_what_may_be_shown_there(spark: SparkSession) -> None:
    events = [event("mug", region="FR"), event("cup", region="FR")]
    found = lists(spark, events, [item("mug", regions=["DE"]), item("cup", regions=["DE", "FR"])])
    assert found["region", "FR"] == [("cup", 0.5)]
    assert [name for name, _ in found["global", ""]] == ["cup", "mug"]


def test_new_items_are_listed_before_anybody_acted_on_them(spark: SparkSession) -> None:
    items = [MUG, item("young", created_at=ago(3)), item("fresh", created_at=ago(1)), item("later", created_at=ago(-1))]
    found = lists(spark, [event("mug"), event("fresh", days=1)], items, new_days=7)
    assert found["new", ""] == [("fresh", 0.5), ("young", 0.0)]


def test_ties_go_to_the_smaller_id_and_the_list_ends(spark: SparkSession) -> None:
    events = [event(name) for name in ("cup", "bowl", "mug")]
    found = lists(spark, events, [MUG, CUP, BOWL], per_key=2)
    assert found["global", ""] == [("bowl", 0.5), ("cup", 0.5)]


def test_an_event_outside_the_window_changes_nothing(spark: SparkSession) -> None:
    events = [event("mug", "purchase", 1, session="s"), event("cup", "purchase", 1, session="s")]
    planted = [event(name, "purchase", days, session="s") for name in ("cup", "bowl") for days in (0, -0.5, 60.01)]
    items = [MUG, CUP, BOWL]
    assert lists(spark, events + planted, items) == lists(spark, events, items)
    assert neighbours(spark, events + planted, items) == neighbours(spark, events, items)


def test_lift_by_hand(spark: SparkSession) -> None:
    # Four baskets: {mug, cup}, {mug, cup}, {mug}, {bowl}.  n(mug) = 3, n(cup) = 2, n(mug, cup) = 2.
    bought = [("ann", "mug"), ("ann", "cup"), ("bob", "mug"), ("bob", "cup"), ("cid", "mug"), ("dan", "bowl")]
    events = [event(name, "purchase", 1, user, session=user) for user, name in bought]
    found = neighbours(spark, events, [MUG, CUP, BOWL])
    lift = 4 * 2 / (3 * 2)
    assert found == {("bought", "mug"): [("cup", lift, 2)], ("bought", "cup"): [("mug", lift, 2)]}
    shrunk = neighbours(spark, events, [MUG, CUP, BOWL], shrinkage=2)
    assert shrunk["bought", "mug"] == [("cup", lift * 2 / (2 + 2), 2)]
    assert neighbours(spark, events, [MUG, CUP, BOWL], min_support=3) == {}


def test_bought_joins_the_visits_of_a_user_and_viewed_does_not(spark: SparkSession) -> None:
    bought = [event("mug", "purchase", 2, session="one"), event("cup", "purchase", 1, session="two")]
    viewed = [event("mug", "view", 2, session="one"), event("bowl", "view", 1, session="two")]
    assert set(neighbours(spark, bought + viewed, [MUG, CUP, BOWL])) == {("bought", "mug"), ("bought", "cup")}
    # A stretch of one day separates them, and an anonymous buyer is known by the session only.
    assert neighbours(spark, bought, [MUG, CUP], basket_days=1) == {}
    assert neighbours(spark, [e | {"user_id": None} for e in bought], [MUG, CUP]) == {}


def test_an_unavailable_neighbour_is_absent_but_keeps_its_own(spark: SparkSession) -> None:
    events = [event("mug"), event("gone")]
    found = neighbours(spark, events, [MUG, item("gone", available=False)])
    assert set(found) == {("viewed", "gone")}


def test_a_giant_session_counts_with_its_latest_items_only(spark: SparkSession) -> None:
    names = [f"i{number:05}" for number in range(3000)]
    robot = [event(name, "view", days=1 + number / 10_000, session="robot") for number, name in enumerate(names)]
    found = neighbours(spark, robot, [item(name) for name in names], basket_cap=20)
    assert set(found) == {("viewed", name) for name in names[:20]}


@hypothesis_settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.lists(
        st.tuples(
            st.sampled_from(["mug", "cup", "bowl", "gone"]),
            st.sampled_from([*schema.EVENT_TYPES]),
            st.integers(1, 50),
            st.sampled_from(["s1", "s2"]),
        ),
        max_size=12,
    )
)
def test_whatever_happens(spark: SparkSession, chosen: list[tuple[str, str, int, str]]) -> None:
    """Lists are sorted, hold available items only, and do not depend on the order of the events."""
    events = [event(name, kind, days, session=session) for name, kind, days, session in chosen]
    items = [MUG, CUP, BOWL, item("gone", available=False)]
    found = lists(spark, events, items)
    for entries in found.values():
        assert entries == sorted(entries, key=lambda entry: (-entry[1], entry[0]))
        assert "gone" not in [name for name, _ in entries]
    assert found == lists(spark, events[::-1], items)


def publish(settings: Settings, events: dict[date, list[dict[str, Any]]], items: list[dict[str, Any]]) -> None:
    lake = datasets.lake(settings)
    for day, rows in events.items():
        lake.write(datasets.EVENTS, day, pa.Table.from_pylist(rows, schema=schema.EVENTS.arrow()))
    lake.write(datasets.ITEMS, DAY, pa.Table.from_pylist(items, schema=schema.ITEMS.arrow()))
    lake.write(datasets.USERS, DAY, pa.Table.from_pylist([], schema=schema.USERS.arrow()))


def test_the_stage_writes_the_day_and_a_re_run_the_same(settings: Settings, spark: SparkSession) -> None:
    tomorrow = [event("bowl", "purchase", -0.5)]
    publish(
        settings,
        {DAY: [event("mug", days=0.5), event("cup", days=0.5)], DAY + timedelta(1): tomorrow},
        [MUG, CUP, BOWL],
    )
    params = trending.Params(day=DAY, run="r1", min_support=1)
    result = trending.main(params, settings)
    assert result == {
        "days": 1,
        "lists": {"category": 2, "global": 2, "top_category": 2},
        "pairs": {"viewed": 2},
    }
    lake = datasets.lake(settings)
    written = lake.read(datasets.TRENDING, DAY)
    assert written.column_names == ["scope", "key", "rank", "item_id", "score"]
    assert lake.read(datasets.COVISITATION, DAY).column_names == [
        "item_id", "kind", "rank", "other_id", "lift", "support"
    ]  # fmt: skip
    assert trending.main(params, settings) == result
    assert lake.read(datasets.TRENDING, DAY).equals(written)


def test_the_stage_names_what_is_missing(
    settings: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadData, match="run ingest and quality"):
        trending.main(trending.Params(day=DAY, run="r1"), settings)
    monkeypatch.setenv("RECSYS_STORAGE__ROOT", settings.storage.root)
    assert stage.run("trending", ["--day", str(DAY), "--run", "r1"]) is Exit.BAD_DATA


def test_a_day_written_before_a_column_existed_is_read(settings: Settings, spark: SparkSession) -> None:
    yesterday = DAY - timedelta(1)
    publish(settings, {yesterday: [event("mug", days=1.5)], DAY: [event("cup", days=0.5)]}, [MUG, CUP])
    lake = datasets.lake(settings)
    lake.write(datasets.EVENTS, yesterday, lake.read(datasets.EVENTS, yesterday).drop_columns(["category", "brand"]))
    lake.write(datasets.EVENTS, DAY, lake.read(datasets.EVENTS, DAY).drop_columns(["query"]))
    trending.main(trending.Params(day=DAY, run="r1"), settings)
    rows = lake.read(datasets.TRENDING, DAY).filter(pc.field("scope") == "global")
    assert rows["item_id"].to_pylist() == ["cup", "mug"]
