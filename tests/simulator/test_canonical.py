"""What the simulator writes: the canonical schema, plausible rows, the same bytes for the same seed."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
from pydantic import ValidationError

from feature_repo import events as schema
from recsys.errors import UsageError
from simulator import canonical
from simulator.world import Plan

SMALL = Plan(users=120, items=80, events=3_000, days=4, seed=7)


def _read(folder: Path) -> pa.Table:
    return pyarrow.dataset.dataset(folder, format="parquet").to_table()


@pytest.fixture(scope="module")
def events(tiny_shop: Path) -> pd.DataFrame:
    return _read(tiny_shop / "events").to_pandas()


@pytest.mark.parametrize(
    ("name", "table"), [("events", schema.EVENTS), ("items", schema.ITEMS), ("users", schema.USERS)]
)
def test_tables_have_exactly_the_schema(tiny_shop: Path, name: str, table: schema.Table) -> None:
    found = _read(tiny_shop / name)
    assert found.schema.equals(table.arrow())
    for column in table.columns:
        assert not column.required or found.column(column.name).null_count == 0, column.name


def test_the_counts_are_what_was_asked_for(tiny_shop: Path, events: pd.DataFrame) -> None:
    meta = json.loads((tiny_shop / "meta.json").read_text())
    assert meta["events"] == len(events)
    assert len(events) == pytest.approx(15_000, rel=0.1)
    assert (events["event"] == "impression").mean() == pytest.approx(0.65, abs=0.06)
    assert set(events["event"]) <= set(schema.EVENT_TYPES)


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, plan in (("a", SMALL), ("b", SMALL), ("c", SMALL.model_copy(update={"seed": 8}))):
        canonical.write(plan, tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.parquet"))
    assert len(files) == 2 * SMALL.days + 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert _read(tmp_path / "a" / "events") != _read(tmp_path / "c" / "events")


def test_times_are_sorted_unique_ids_and_inside_the_days(events: pd.DataFrame) -> None:
    assert events["event_time"].is_monotonic_increasing
    assert events["event_id"].is_unique
    assert events["event_time"].min() >= datetime(2026, 1, 5, tzinfo=UTC)
    assert events["event_time"].max() < datetime(2026, 1, 17, tzinfo=UTC)


def test_a_fifth_of_the_visits_is_anonymous(events: pd.DataFrame) -> None:
    sessions = events.groupby("session_id")["user_id"].agg(lambda users: users.isna().all())
    assert sessions.mean() == pytest.approx(0.2, abs=0.05)
    assert (events.groupby("session_id")["user_id"].nunique() <= 1).all()


def test_what_follows_an_impression_keeps_its_request_and_position(events: pd.DataFrame) -> None:
    key = ["request_id", "item_id", "position"]
    shown = events[events["event"] == "impression"]
    assert shown[key].notna().all(axis=None)
    followed = events[events["event"].isin(["click", "skip", "add_to_cart", "purchase"]) & events["request_id"].notna()]
    joined = followed.merge(shown[[*key, "event_time"]], on=key, how="left", suffixes=("", "_shown"))
    assert joined["event_time_shown"].notna().all()
    assert (joined["event_time"] > joined["event_time_shown"]).all()


def test_value_is_the_price_on_carts_and_purchases_only(tiny_shop: Path, events: pd.DataFrame) -> None:
    prices = _read(tiny_shop / "items").to_pandas().set_index("item_id")["price"]
    paid = events["event"].isin(["add_to_cart", "purchase"])
    assert (events.loc[paid, "value"] == events.loc[paid, "item_id"].map(prices)).all()
    assert (events.loc[paid, "quantity"] >= 1).all()
    assert events.loc[~paid, ["value", "quantity"]].isna().all(axis=None)


def test_nothing_happens_before_a_shopper_signs_up(tiny_shop: Path, events: pd.DataFrame) -> None:
    signup = _read(tiny_shop / "users").to_pandas().set_index("user_id")["signup_date"]
    known = events.dropna(subset=["user_id"])
    assert (known["event_time"] >= known["user_id"].map(signup)).all()


def test_bots_stand_out(tiny_shop: Path, events: pd.DataFrame) -> None:
    truth = pd.read_parquet(tiny_shop / "truth" / "users.parquet")
    bots = set(truth.loc[truth["bot"] != "", "user_id"])
    visits = events.dropna(subset=["user_id"]).groupby("session_id")
    gaps = visits["event_time"].agg(lambda times: times.diff().dt.total_seconds().round(3).nunique())
    steady = gaps[(gaps == 1) & (visits.size() >= 20)].index
    owner = visits["user_id"].first()
    assert bots
    assert set(owner[steady]) == bots  # only machines keep time
    assert set(owner[owner.isin(bots)].index) == set(steady)


def test_the_truth_names_every_session(tiny_shop: Path, events: pd.DataFrame) -> None:
    sessions = _read(tiny_shop / "truth" / "sessions").to_pandas()
    assert set(events["session_id"]) == set(sessions["session_id"])
    known = events.dropna(subset=["user_id"]).drop_duplicates("session_id").set_index("session_id")["user_id"]
    truth = sessions.drop_duplicates("session_id").set_index("session_id")["user_id"]
    assert (truth[known.index] == known).all()


def test_latent_vectors_have_length_one(tiny_shop: Path) -> None:
    vectors = np.stack(pd.read_parquet(tiny_shop / "truth" / "items.parquet")["vector"].tolist())
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(UsageError, match="holds something that is not a simulated shop"):
        canonical.write(SMALL, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_plan_refuses_nonsense() -> None:
    with pytest.raises(ValidationError):
        Plan(users=3)
    assert Plan(start=date(2026, 1, 5)).day(1) == date(2026, 1, 6)
