"""Ingestion: which days form a batch, what is merged in, and that a re-run replaces only itself."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import pytest

from feature_repo.events import EVENTS
from pipelines import batch, datasets, ingest, published, stage
from pipelines.datasets import RunId
from recsys import bus
from recsys.errors import BadData, Exit, NothingToDo, UsageError
from recsys.settings import Settings, child_environment

RUN = RunId("r1")
LAST = date(2026, 1, 16)
LINES = 4_000_000  # some 280 MB as text, 400 MB as uncompressed parquet
MEMORY = 110  # MB that Arrow may hold at a time; a fraction of either
PEAK = """
import sys
import pyarrow as pa
from pipelines import ingest
from recsys import settings
ingest.main(ingest.Params(day="2026-01-16", run="r1", source=sys.argv[1]), settings.load())
sys.stdout.write(str(pa.default_memory_pool().max_memory()))
"""


def _ingest(settings: Settings, shop: Path, day: date = LAST, **options: object) -> stage.Result:
    params = ingest.Params.model_validate({"day": day, "run": RUN, "source": f"canonical:{shop}", **options})
    return ingest.main(params, settings)


def days(result: stage.Result) -> tuple[int, str, str]:
    """How many days a batch has, its first and its last."""
    return result["days"], result["first_day"], result["last_day"]


def _publish(settings: Settings, result: stage.Result, *not_whole: date) -> None:
    """What the quality gate would do with a batch in which every row is good, but for some days."""
    lake = datasets.lake(settings)
    events = _staged(settings)
    days = events.column("event_time").cast(pa.date32())
    for day, digest in batch.Batch.read(settings, RUN).made_of.items():
        with lake.replacing(datasets.EVENTS, day) as folder:
            rows = events.filter(pc.equal(days, day))
            pyarrow.parquet.write_table(rows, folder / "part-0.parquet")
            published.write(folder, published.Day(day not in not_whole, rows.num_rows, digest))


def _staged(settings: Settings, name: str = "events") -> pa.Table:
    return datasets.lake(settings).read(datasets.STAGED[name], RUN)


def test_an_empty_lake_takes_everything_up_to_the_day(settings: Settings, tiny_shop: Path) -> None:
    result = _ingest(settings, tiny_shop, date(2026, 1, 8))
    assert days(result) == (4, "2026-01-05", "2026-01-08")
    staged = _staged(settings)
    assert staged.num_rows == result["rows"]["events"] == sum(result["event_types"].values())
    assert staged.schema.names == EVENTS.names
    assert staged.column("ingested_at").null_count == 0
    json.dumps(result)


def test_the_next_batch_begins_after_the_last_published_day(settings: Settings, tiny_shop: Path) -> None:
    _publish(settings, _ingest(settings, tiny_shop, date(2026, 1, 6)))
    assert days(_ingest(settings, tiny_shop, date(2026, 1, 8))) == (2, "2026-01-07", "2026-01-08")


def test_a_published_day_is_ingested_alone(settings: Settings, tiny_shop: Path) -> None:
    _publish(settings, _ingest(settings, tiny_shop, date(2026, 1, 7)))
    assert days(_ingest(settings, tiny_shop, date(2026, 1, 6))) == (1, "2026-01-06", "2026-01-06")


def test_days_that_are_not_whole_are_taken_up_wherever_they_are(settings: Settings, tiny_shop: Path) -> None:
    _publish(settings, _ingest(settings, tiny_shop, date(2026, 1, 8)), date(2026, 1, 6))
    _ingest(settings, tiny_shop, date(2026, 1, 9))
    assert [day.day for day in batch.Batch.read(settings, RUN).made_of] == [6, 9]


def test_a_lake_of_an_earlier_version_is_read_anew(settings: Settings, tiny_shop: Path) -> None:
    datasets.lake(settings).write(datasets.EVENTS, date(2026, 1, 7), EVENTS.arrow().empty_table())
    assert days(_ingest(settings, tiny_shop, date(2026, 1, 8))) == (4, "2026-01-05", "2026-01-08")


def test_since_says_otherwise(settings: Settings, tiny_shop: Path) -> None:
    found = _ingest(settings, tiny_shop, date(2026, 1, 8), since=date(2026, 1, 8))
    assert days(found) == (1, "2026-01-08", "2026-01-08")
    with pytest.raises(UsageError, match="--since 2026-01-09 is after --day 2026-01-08"):
        _ingest(settings, tiny_shop, date(2026, 1, 8), since=date(2026, 1, 9))


def test_the_catalogue_is_whole_and_knows_no_future(settings: Settings, tiny_shop: Path) -> None:
    result = _ingest(settings, tiny_shop, date(2026, 1, 7))
    items = _staged(settings, "items")
    assert items.num_rows == result["rows"]["items"] < 200
    assert max(items.column("created_at").to_pylist()) < datetime(2026, 1, 8, tzinfo=UTC)
    users = _staged(settings, "users")
    assert max(users.column("signup_date").to_pylist()) < datetime(2026, 1, 8, tzinfo=UTC)


def test_a_rerun_replaces_only_itself(settings: Settings, tiny_shop: Path) -> None:
    first = _ingest(settings, tiny_shop)
    other = datasets.lake(settings).write(datasets.STAGED_EVENTS, RunId("r2"), EVENTS.arrow().empty_table())
    again = _ingest(settings, tiny_shop)
    assert first == again
    assert _staged(settings).num_rows == again["rows"]["events"]
    assert other.exists()


API = {"session_id": "s", "item_id": "i", "event": "view"}


def _receive(settings: Settings, *lines: dict[str, object]) -> None:
    with bus.Log(Path(settings.storage.root), "events") as log:
        log.append([json.dumps(line).encode() for line in lines]).result(10)


def test_events_of_the_api_are_merged_and_refused_lines_kept(settings: Settings, tiny_shop: Path) -> None:
    _publish(settings, _ingest(settings, tiny_shop, date(2026, 1, 7)))
    times = [{"event_id": f"api-{day}", "event_time": f"2026-01-{day:02}T12:00:00Z"} for day in (6, 8, 30)]
    _receive(settings, *(API | time for time in times), API | {"event": "stare"})
    result = _ingest(settings, tiny_shop, date(2026, 1, 8))
    mine = {e["event_id"]: e for e in _staged(settings).to_pylist() if e["event_id"].startswith("api")}
    assert set(mine) == {"api-6", "api-8"}, "and so the published day of the first one is read again, and no other"
    assert [day.day for day in batch.Batch.read(settings, RUN).made_of] == [6, 8]
    assert all(e["ingested_at"] is not None for e in mine.values())
    assert result["dropped"] == {"bad_bus_line": 1}
    aside = datasets.run_folder(settings, RUN) / "ingest" / "refused_bus_lines.jsonl"
    assert json.loads(json.loads(aside.read_text())["line"])["event"] == "stare"


def test_what_the_api_received_a_month_late_is_set_aside_on_the_day_it_came(
    settings: Settings, tiny_shop: Path
) -> None:
    late = API | {"event_id": "late", "event_time": "2025-12-08T12:00:00Z", "ingested_at": "2026-01-08T12:00:00Z"}
    almost = late | {"event_id": "almost", "event_time": "2025-12-09T12:00:01Z"}
    ahead = late | {"event_id": "ahead", "event_time": "2026-01-09T13:00:00Z"}
    _receive(settings, late, almost, ahead)
    assert _ingest(settings, tiny_shop, date(2026, 1, 7))["strays"] == {}
    assert _ingest(settings, tiny_shop, date(2026, 1, 8))["strays"] == {"late": 1, "future": 1}
    strays = datasets.lake(settings).read(datasets.STAGED_STRAYS, RUN)
    assert dict(zip(strays["event_id"].to_pylist(), strays["reason"].to_pylist(), strict=True)) == {
        "late": "late",
        "ahead": "future",
    }
    assert "almost" in _staged(settings)["event_id"].to_pylist()


def test_a_run_of_the_api_alone_has_nothing_to_do_where_nothing_came(settings: Settings, tiny_shop: Path) -> None:
    with pytest.raises(NothingToDo, match="the API has received nothing new of 2026-01-08"):
        _ingest(settings, tiny_shop, date(2026, 1, 8), source="bus")
    _publish(settings, _ingest(settings, tiny_shop, date(2026, 1, 7)))
    lake = datasets.lake(settings)
    for name in ("items", "users"):
        lake.write(datasets.CLEAN[name], date(2026, 1, 7), _staged(settings, name))
    _receive(settings, API | {"event_id": "a", "event_time": "2026-01-08T12:00:00Z"})
    _publish(settings, _ingest(settings, tiny_shop, date(2026, 1, 8), source="bus"), date(2026, 1, 8))
    with pytest.raises(NothingToDo):
        _ingest(settings, tiny_shop, date(2026, 1, 8), source="bus")
    _receive(settings, API | {"event_id": "b", "event_time": "2026-01-08T12:01:00Z"})
    assert _ingest(settings, tiny_shop, date(2026, 1, 8), source="bus")["rows"]["events"] == 2
    night = _ingest(settings, tiny_shop, date(2026, 1, 8))
    assert (night["days"], night["rows"]["events"] > 100) == (1, True)
    _publish(settings, night)
    with pytest.raises(NothingToDo, match="is published as a whole"):
        _ingest(settings, tiny_shop, date(2026, 1, 8), source="bus")


def test_a_day_that_has_an_event_of_the_batch_as_well_is_read_again(settings: Settings, tiny_shop: Path) -> None:
    _publish(settings, _ingest(settings, tiny_shop, date(2026, 1, 7)))
    known = datasets.lake(settings).read(datasets.EVENTS, date(2026, 1, 6))["event_id"][0].as_py()
    _receive(settings, API | {"event_id": known, "event_time": "2026-01-08T12:00:00Z"})
    _ingest(settings, tiny_shop, date(2026, 1, 8))
    assert [day.day for day in batch.Batch.read(settings, RUN).made_of] == [6, 8]
    assert _staged(settings)["event_id"].to_pylist().count(known) == 2, "for the gate to choose from"


def test_what_shoppers_do_after_the_day_is_not_in_its_fingerprint(settings: Settings, tiny_shop: Path) -> None:
    """Or nothing would be kept from an earlier run where the shop is open while somebody tries an idea."""
    row = {"session_id": "s", "item_id": "i", "event": "view"}

    def shopped(day: int) -> str:
        event = row | {"event_id": f"api-{day}", "event_time": f"2026-01-{day:02}T12:00:00Z"}
        with bus.Log(Path(settings.storage.root), "events") as log:
            log.append([json.dumps(event).encode()]).result(10)
        return str(_ingest(settings, tiny_shop, date(2026, 1, 8))["fingerprint"])

    untouched = str(_ingest(settings, tiny_shop, date(2026, 1, 8))["fingerprint"])
    assert shopped(day=9) == untouched
    assert shopped(day=8) != untouched


def test_what_the_bus_need_not_keep_moves_to_the_lake_and_is_ingested_all_the_same(
    settings: Settings, tiny_shop: Path
) -> None:
    """Nobody has run a pipeline since the event came, two months ago: it is not lost."""
    row = {
        "event_id": "api-1",
        "session_id": "s",
        "item_id": "i",
        "event": "view",
        "event_time": "2026-01-08T12:00:00Z",
    }
    folder = bus.folder(Path(settings.storage.root), "events")
    folder.mkdir(parents=True)
    opened = int(datetime(2026, 1, 8, 12, tzinfo=UTC).timestamp() * 1e9)
    segment = folder / f"{opened:020d}-77-0a1b2c3d.jsonl"
    segment.write_text(json.dumps(row) + "\n")
    result = _ingest(settings, tiny_shop, date(2026, 1, 8))
    assert result["retired_segments"] == 1
    assert not segment.exists()
    assert [e["event_id"] for e in _staged(settings).to_pylist()].count("api-1") == 1
    _publish(settings, result)
    again = _ingest(settings, tiny_shop, date(2026, 1, 8))
    assert [e["event_id"] for e in _staged(settings).to_pylist()].count("api-1") == 1, "and a re-run has it, too"
    assert again["retired_segments"] == 0


def test_items_of_the_api_are_in_the_catalogue_of_the_next_run(settings: Settings, tiny_shop: Path) -> None:
    known = _ingest(settings, tiny_shop)
    [first, second, *_] = _staged(settings, "items").to_pylist()
    told = [first | {"price": 123.0}, first | {"item_id": "new", "title": "New"}]
    received = {"received_at": "2026-01-16T12:00:00Z"}
    lines = [{"item_id": row["item_id"], "item": row} | received for row in told]
    lines.append({"item_id": second["item_id"], "item": None} | received)
    with bus.Log(Path(settings.storage.root), "items") as log:
        log.append([json.dumps(line, default=lambda moment: moment.isoformat()).encode() for line in lines]).result(10)
    result = _ingest(settings, tiny_shop)
    rows = {row["item_id"]: row for row in _staged(settings, "items").to_pylist()}
    assert rows["new"] == told[1]
    assert rows[first["item_id"]] == told[0]
    assert rows[second["item_id"]] == second | {"available": False}
    assert result["rows"]["items"] == len(rows) == known["rows"]["items"] + 1
    assert (known["changed_items"], result["changed_items"]) == (0, 3)
    assert result["fingerprint"] != known["fingerprint"], "so that what was made of the old catalogue is not reused"


def test_the_bus_alone_needs_a_published_catalogue(settings: Settings, tiny_shop: Path) -> None:
    _receive(settings, API | {"event_id": "a", "event_time": "2026-01-16T12:00:00Z"})
    with pytest.raises(BadData, match="no items have been published yet"):
        _ingest(settings, tiny_shop, source="bus")
    lake = datasets.lake(settings)
    for name in ("items", "users"):
        lake.write(datasets.CLEAN[name], LAST, pyarrow.parquet.read_table(tiny_shop / name / "part-0.parquet"))
    result = _ingest(settings, tiny_shop, source="bus")
    assert result["rows"] == {"events": 1, "items": 200, "users": 300}
    assert _staged(settings).schema.names == EVENTS.names


def test_files_are_of_bounded_size(settings: Settings, tiny_shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "FILE_ROWS", 3000)
    rows = _ingest(settings, tiny_shop)["rows"]["events"]
    parts = sorted(datasets.lake(settings).path(datasets.STAGED_EVENTS, RUN).glob("*.parquet"))
    sizes = [pyarrow.parquet.read_metadata(part).num_rows for part in parts]
    assert sum(sizes) == rows
    assert len(sizes) >= 3


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(text)
    assert ingest.fingerprint([tmp_path / "a"]) == ingest.fingerprint([tmp_path / "b"])
    assert ingest.fingerprint([tmp_path / "a"]) != ingest.fingerprint([tmp_path / "c"])


def test_nothing_new_is_nothing_to_do_and_says_where_the_data_end(settings: Settings, tiny_shop: Path) -> None:
    _publish(settings, _ingest(settings, tiny_shop))
    shutil.rmtree(datasets.lake(settings).path(datasets.STAGED_EVENTS, RUN))
    with pytest.raises(NothingToDo, match=r"nothing new up to 2026-01-20; its last day is 2026-01-16: the shop was cl"):
        _ingest(settings, tiny_shop, date(2026, 1, 20))
    assert not datasets.lake(settings).path(datasets.STAGED_EVENTS, RUN).exists()


def test_a_scheduler_is_told_that_there_is_nothing_to_do(
    settings: Settings, tiny_shop: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RECSYS_STORAGE__ROOT", settings.storage.root)
    _publish(settings, _ingest(settings, tiny_shop))
    caplog.set_level("INFO")
    assert stage.run("ingest", ["--day", "2026-01-17", "--run", "r2"]) is Exit.SKIP
    assert "ingest: nothing to do: canonical:" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def _shop(folder: Path, times: Sequence[str], items: str = "i1,Mug,Home,2026-01-01,true\n", users: str = "") -> Path:
    """A canonical shop with an event at each time, which may be empty."""
    folder.mkdir(exist_ok=True)
    head = "event_id,session_id,item_id,event,event_time\n"
    rows = [f"e{time or number},s,i1,view,{time}\n" for number, time in enumerate(times)]
    (folder / "events.csv").write_text(head + "".join(rows))
    (folder / "items.csv").write_text("item_id,title,category,created_at,available\n" + items)
    if users:
        (folder / "users.csv").write_text("user_id,signup_date\n" + users)
    return folder


MONTH = [f"2026-02-{1 + number // 20:02}T{number % 20:02}:00:00Z" for number in range(400)]


def test_wrong_clocks_are_staged_with_their_reason_every_night_and_published_on_none(
    settings: Settings, tmp_path: Path
) -> None:
    wrong = ["2099-01-01", "1970-01-01", "2027-03-05", "", "2003-05-06"]
    shop = _shop(tmp_path / "shop", [*MONTH, *wrong])
    for day in (date(2026, 2, 10), date(2026, 2, 20)):
        result = _ingest(settings, shop, day)
        assert days(result)[2] == str(day)
        assert result["strays"] == {"future": 2, "too_old": 2, "missing_event_time": 1}
        _publish(settings, result)
    assert datasets.lake(settings).days(datasets.EVENTS)[0] == date(2026, 2, 1)
    with pytest.raises(NothingToDo):
        _ingest(settings, shop, date(2026, 2, 27))


def test_where_all_is_left_out_the_message_says_why(settings: Settings, tmp_path: Path) -> None:
    shop = _shop(tmp_path / "shop", [*MONTH, "2001-01-01"])
    with pytest.raises(
        BadData, match=r"no events up to 2002-01-01; its last day is 2026-02-20; left out.*: too_old 1;"
    ):
        _ingest(settings, shop, date(2002, 1, 1))


def test_a_wrong_clock_of_an_item_or_a_user_is_staged_for_the_gate(settings: Settings, tmp_path: Path) -> None:
    items = "i1,Mug,Home,2026-01-01,true\ni2,Cup,Home,2099-01-01,true\ni3,Jug,Home,2026-02-19,true\n"
    shop = _shop(tmp_path / "shop", MONTH, items, "ann,2026-01-01\nbob,2099-01-01\neve,2026-02-19\n")
    _ingest(settings, shop, date(2026, 2, 15))
    assert _staged(settings, "items")["item_id"].to_pylist() == ["i1", "i2"], "the jug is simply of later"
    assert _staged(settings, "users")["user_id"].to_pylist() == ["ann", "bob"]


def test_a_closed_day_is_a_whole_day_with_nothing(settings: Settings, tmp_path: Path) -> None:
    shop = _shop(tmp_path / "shop", [time for time in MONTH if not "2026-02-05" <= time < "2026-02-08"])
    _publish(settings, _ingest(settings, shop, date(2026, 2, 4)))
    for day in (5, 6, 7):
        result = _ingest(settings, shop, date(2026, 2, day))
        assert (result["closed_days"], result["rows"]["events"]) == (1, 0)
        _publish(settings, result)
    assert len(datasets.lake(settings).days(datasets.EVENTS)) == 7


def test_a_day_that_the_source_has_not_reached_is_not_whole_whatever_the_api_has(
    settings: Settings, tmp_path: Path
) -> None:
    shop = _shop(tmp_path / "shop", MONTH[:200])
    _publish(settings, _ingest(settings, shop, date(2026, 2, 10)))
    _receive(settings, API | {"event_id": "a", "event_time": "2026-02-11T12:00:00Z"})
    result = _ingest(settings, shop, date(2026, 2, 11))
    assert (result["rows"]["events"], result["not_whole"]) == (1, ["2026-02-11"])
    _publish(settings, result, date(2026, 2, 11))
    with pytest.raises(NothingToDo):
        _ingest(settings, shop, date(2026, 2, 12))
    late_export = _shop(tmp_path / "shop", MONTH[:240])
    result = _ingest(settings, late_export, date(2026, 2, 12))
    assert (days(result), result["not_whole"]) == ((2, "2026-02-11", "2026-02-12"), [])


def test_a_source_that_forgets_old_days_unpublishes_nothing(settings: Settings, tmp_path: Path) -> None:
    _publish(settings, _ingest(settings, _shop(tmp_path / "shop", MONTH), date(2026, 2, 10)))
    kept = MONTH[4 * 20 + 7 :]  # a rolling export, cut in the middle of a day
    _ingest(settings, _shop(tmp_path / "shop", kept), date(2026, 2, 11))
    assert [day.day for day in batch.Batch.read(settings, RUN).made_of] == [11]


def test_a_source_that_ended_four_weeks_ago_has_nothing_to_judge_on(settings: Settings, tiny_shop: Path) -> None:
    with pytest.raises(BadData, match=r"no events from 2026-01-17 to 2026-02-13; its last day is 2026-01-16; choose"):
        _ingest(settings, tiny_shop, date(2026, 2, 13))


def test_one_that_ended_a_day_later_has(settings: Settings, tiny_shop: Path) -> None:
    assert days(_ingest(settings, tiny_shop, date(2026, 2, 12)))[2] == "2026-01-16"


def test_a_lake_takes_the_data_of_one_shop_only(settings: Settings, tiny_shop: Path) -> None:
    _ingest(settings, tiny_shop)
    with pytest.raises(BadData, match="holds the data of 'canonical', not of 'movielens'; `recsys use movielens`"):
        _ingest(settings, tiny_shop, source=f"movielens:{tiny_shop}")


def test_a_run_that_is_told_no_source_takes_that_of_the_run_before(
    settings: Settings, tiny_shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_shop.parent)
    first = _ingest(settings, tiny_shop, source=f"canonical:{tiny_shop.name}")
    monkeypatch.chdir("/")
    result = _ingest(settings, tiny_shop, source="")
    assert first["source"] == result["source"] == f"canonical:{tiny_shop}"
    assert days(result)[2] == str(LAST)


def test_the_first_run_that_is_told_no_source_wants_the_simulated_shop(settings: Settings, tiny_shop: Path) -> None:
    with pytest.raises(UsageError, match="there is no simulated shop yet"):
        _ingest(settings, tiny_shop, source="")


def test_a_source_that_cannot_be_opened_claims_no_lake(settings: Settings, tiny_shop: Path) -> None:
    with pytest.raises(BadData):
        _ingest(settings, tiny_shop, source=f"movielens:{tiny_shop}")
    assert _ingest(settings, tiny_shop)["rows"]["events"]


def _large(shop: Path, kind: str) -> int:
    """A shop of LINES events that differ little, which are quick to write; the size of its events in MB."""
    rows = 100_000
    events = pa.table(
        {
            "event_id": [f"event-{n:012}" for n in range(rows)],
            "session_id": [f"session-{n:08}" for n in range(rows)],
            "item_id": ["item-00000001"] * rows,
            "event": ["view"] * rows,
            "event_time": ["2026-01-05T10:00:00"] * rows,
        }
    )
    path = shop / f"events.{kind}"
    if kind == "csv":
        pyarrow.csv.write_csv(events, shop / "part.csv")
        header, _, body = (shop / "part.csv").read_bytes().partition(b"\n")
        with path.open("wb") as stream:
            stream.write(header + b"\n")
            stream.writelines([body] * (LINES // rows))
    else:
        with pyarrow.parquet.ParquetWriter(path, events.schema, compression="none", use_dictionary=False) as writer:
            for _ in range(LINES // rows):
                writer.write_table(events)
    (shop / "items.csv").write_text("item_id,title,category,created_at,available\ni1,Mug,Home,2026-01-01,true\n")
    return path.stat().st_size >> 20


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_memory_does_not_follow_the_size_of_the_input(settings: Settings, tmp_path: Path, kind: str) -> None:
    shop = tmp_path / "large"
    shop.mkdir()
    assert _large(shop, kind) > 2 * MEMORY
    done = subprocess.run(
        [sys.executable, "-c", PEAK, f"canonical:{shop}"],
        env=child_environment(settings),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) >> 20 < MEMORY
