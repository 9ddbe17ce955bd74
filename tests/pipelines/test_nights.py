"""Nights of a shop on the real stages: whatever fails, the lake ends as one full load would leave it."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import nights
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from pipelines import datasets, ingest
from recsys import bus
from recsys.errors import NothingToDo
from recsys.settings import Settings, Storage

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("interpreted")]

FIRST = date(2026, 3, 2)
CLOSED = (4, 5)
LAST = 8
ROWS = 6  # an open day
HEADER = "event_id,user_id,session_id,item_id,event,event_time\n"
REFUNDED = ("e1-0", 6)  # taken back by a refund of the seventh day
WRONG_CLOCKS = ("x1,,s,mug,view,2099-01-01T00:00:00Z\n", "x2,,s,mug,view,1999-01-01T00:00:00Z\n")
RETAIL = Path(__file__).parents[2].parent / "shared" / "data" / "online_retail_II_2009_2010.parquet"


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def at(number: int, hour: int = 12) -> str:
    return datetime.combine(day(number), time(hour), tzinfo=UTC).isoformat()


# What the API receives: day of receipt, id, day of the event.
RECEIVED = [
    (0, "a0", 0),
    (2, "a2", 2),
    (3, "a2", 2),  # sent twice
    (6, "late", 2),  # of an app that was offline
    (6, "e1-1", 6),  # an event of the file, sent again with another time
    (7, "e6-2", 3),  # the same, of an earlier day than the published one
    (7, "closed", 5),  # on a day on which the shop was closed
    (8, "too-late", -40),
]


class Shop:
    """A shop whose export grows night by night, with all that goes wrong in one."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(storage=Storage(root=str(root / "var")))
        self.folder = root / "shop"
        self.folder.mkdir()
        (self.folder / "items.csv").write_text(
            "item_id,title,category,created_at,available\nmug,Mug,Home,2026-01-01,true\n"
        )
        self._received = 0

    def until(self, number: int) -> str:
        """Bring the export and the bus to the end of a day; returns the source."""
        events = [
            f"e{on}-{n},u{n},s{on},mug,view,{at(on, n)}\n"
            for on in range(number + 1)
            for n in range(ROWS)
            if on not in CLOSED and not (f"e{on}-{n}" == REFUNDED[0] and number >= REFUNDED[1])
        ]
        (self.folder / "events.csv").write_text(HEADER + "".join([*events, *WRONG_CLOCKS]))
        for received, event_id, on in RECEIVED[self._received :]:
            if received <= number:
                self._receive(received, event_id, on)
                self._received += 1
        return f"canonical:{self.folder}"

    def _receive(self, received: int, event_id: str, on: int) -> None:
        """A closed segment; those of even days are older than the bus keeps them, and move to the lake."""
        moment = datetime.combine(day(received), time(13), tzinfo=UTC)
        opened = moment if received % 2 == 0 else datetime.now(UTC)
        folder = bus.folder(Path(self.settings.storage.root), "events")
        folder.mkdir(parents=True, exist_ok=True)
        line = {"event_id": event_id, "session_id": "api", "item_id": "mug", "event": "view", "event_time": at(on)}
        name = f"{int(opened.timestamp() * 1e9):020d}-77-{self._received:08x}.jsonl"
        (folder / name).write_text(json.dumps(line | {"ingested_at": moment.isoformat()}) + "\n")


class PowerCut(Exception):
    pass


@contextmanager
def power_cut(moves: int) -> Iterator[None]:
    """The machine goes off when so many days of events have been moved to their place."""
    swap, moved = datasets.swap, 0

    def cut(work: Path, target: Path) -> None:
        nonlocal moved
        if target.parent.name == "events" and target.parent.parent.name == "lake":
            if moved == moves:
                raise PowerCut
            moved += 1
        swap(work, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "swap", cut)
        yield


def run(shop: Shop, kind: str, now: int, target: int, moves: int) -> None:
    source = shop.until(now)
    if kind == "intraday":
        with suppress(NothingToDo, datasets.BadData):  # before the first night, there is no catalogue
            nights.intraday(shop.settings, day(now))
    elif kind == "refused":  # the gate, MLflow, the machine: nothing after ingest
        with suppress(NothingToDo):
            ingest.main(ingest.Params(day=day(target), run=f"refused-{now}", source=source), shop.settings)
    elif kind == "cut":
        with suppress(PowerCut), power_cut(moves):
            nights.night(shop.settings, source, day(target))
    else:
        nights.night(shop.settings, source, day(target))


@pytest.fixture(scope="module")
def full(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[date, pa.Table]:
    """The lake after one full load."""
    shop = Shop(tmp_path_factory.mktemp("full"))
    assert nights.night(shop.settings, shop.until(LAST), day(LAST))
    return nights.rows(shop.settings)


def test_one_full_load_is_what_it_should_be(full: dict[date, pa.Table]) -> None:
    expected = {day(on): {f"e{on}-{n}" for n in range(ROWS)} if on not in CLOSED else set() for on in range(LAST + 1)}
    expected[day(0)] |= {"a0"}
    expected[day(1)] -= {"e1-0"}
    expected[day(2)] |= {"a2", "late"}
    expected[day(3)] |= {"e6-2"}
    expected[day(6)] -= {"e6-2"}
    expected[day(5)] |= {"closed"}
    assert {on: set(table["event_id"].to_pylist()) for on, table in full.items()} == expected


steps = st.tuples(
    st.sampled_from(["night", "cut", "refused", "intraday"]), st.integers(0, LAST), st.integers(0, 2), st.integers(0, 3)
)


@hypothesis_settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink a failure takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(schedule=st.lists(steps, min_size=2, max_size=4))
def test_whatever_nights_fail_the_lake_ends_as_one_full_load(
    full: dict[date, pa.Table], schedule: list[tuple[str, int, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(Path(folder))
        for kind, now, back, moves in sorted(schedule, key=lambda step: step[1]):
            run(shop, kind, now, max(now - back, 0), moves)
        source = shop.until(LAST)
        assert nights.night(shop.settings, source, day(LAST))
        assert nights.not_whole(shop.settings) == []
        same(nights.rows(shop.settings), full)


def same(found: dict[date, pa.Table], expected: dict[date, pa.Table]) -> None:
    """The same days with the same rows."""
    assert {day: set(table["event_id"].to_pylist()) for day, table in found.items()} == {
        day: set(table["event_id"].to_pylist()) for day, table in expected.items()
    }
    assert [day for day in expected if not found[day].equals(expected[day])] == []


def test_a_night_after_a_half_loaded_day_takes_it_up(full: dict[date, pa.Table], tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    nights.night(shop.settings, shop.until(1), day(1))
    shop.until(2)
    assert nights.intraday(shop.settings, day(2))
    assert nights.counts(shop.settings)[day(2)] == 1
    assert nights.not_whole(shop.settings) == [day(2)]
    nights.night(shop.settings, shop.until(3), day(3))
    assert nights.counts(shop.settings)[day(2)] == ROWS + 1
    assert nights.not_whole(shop.settings) == []


def _retail(settings: Settings, *days: date) -> None:
    for one in days:
        nights.night(settings, f"online_retail:{RETAIL}", one)


@pytest.mark.skipif(not RETAIL.exists(), reason=f"no Online Retail II at {RETAIL}; its publisher has it (README)")
def test_online_retail_over_christmas_ends_night_by_night_as_one_full_load(
    settings: Settings, tmp_path: Path, spark: SparkSession
) -> None:
    """Closed from 24 December to 3 January; a quarter of December's volume behind it; refunds of earlier days."""
    last = date(2010, 1, 6)
    _retail(
        settings, *(date(2009, 12, day) for day in (20, 22, 23, 24, 26)), *(date(2010, 1, day) for day in (3, 4, 5))
    )
    assert nights.counts(settings)[date(2009, 12, 25)] == 0
    _retail(settings, last)
    other: Any = settings.model_copy(update={"storage": Storage(root=str(tmp_path / "full"))})
    _retail(other, last)
    assert len(nights.rows(other)) == 37
    assert nights.not_whole(settings) == []
    same(nights.rows(settings), nights.rows(other))
