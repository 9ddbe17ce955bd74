"""The durable log: what was acknowledged is there, whole, in order, after any crash."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys import bus
from recsys.errors import UsageError


def records(root: Path, topic: str) -> list[dict[str, object]]:
    return [record for segment in bus.closed(root, topic) for record in bus.read(segment)]


def line(number: int) -> bytes:
    return json.dumps({"n": number}).encode()


def test_what_was_appended_is_read_in_order(tmp_path: Path) -> None:
    with bus.Log(tmp_path, "events") as log:
        log.append([line(1), line(2)]).result(5)
        log.append([line(3)]).result(5)
    assert records(tmp_path, "events") == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_an_acknowledged_line_is_in_the_file_before_the_segment_closes(tmp_path: Path) -> None:
    with bus.Log(tmp_path, "events") as log:
        log.append([line(1)]).result(5)
        [segment] = (tmp_path / "bus" / "events").glob("*.jsonl.open")
        assert segment.read_bytes() == b'{"n": 1}\n'
        assert bus.closed(tmp_path, "events") == []


def test_a_full_segment_is_closed_and_the_next_one_opened(tmp_path: Path) -> None:
    with bus.Log(tmp_path, "events", segment_bytes=20) as log:
        for number in range(6):
            log.append([line(number)]).result(5)
    assert len(bus.closed(tmp_path, "events")) == 2
    assert [r["n"] for r in records(tmp_path, "events")] == [0, 1, 2, 3, 4, 5]


def test_a_quiet_segment_is_closed_when_it_is_old(tmp_path: Path) -> None:
    with bus.Log(tmp_path, "events", segment_seconds=0.05) as log:
        log.append([line(1)]).result(5)
        deadline = time.monotonic() + 5
        while not bus.closed(tmp_path, "events") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert records(tmp_path, "events") == [{"n": 1}]


def test_an_unused_log_leaves_no_file(tmp_path: Path) -> None:
    bus.Log(tmp_path, "events").close()
    assert list((tmp_path / "bus" / "events").iterdir()) == []


@pytest.mark.parametrize("bad", [b"", b"[1]", b'{"a":\n1}', b"plain"])
def test_a_line_that_is_no_json_object_is_refused(tmp_path: Path, bad: bytes) -> None:
    with bus.Log(tmp_path, "events") as log, pytest.raises(ValueError, match="one JSON object"):
        log.append([bad])


@pytest.mark.parametrize("name", ["", "Events", "../up", "a/b"])
def test_a_topic_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="topic"):
        bus.folder(tmp_path, name)


def test_too_much_waiting_is_refused_and_the_log_goes_on(tmp_path: Path) -> None:
    with bus.Log(tmp_path, "events", pending_bytes=30) as log:
        with pytest.raises(bus.Full, match="try again"):
            log.append([line(n) for n in range(10)])
        log.append([line(1)]).result(5)
    assert records(tmp_path, "events") == [{"n": 1}]


def test_a_closed_log_refuses(tmp_path: Path) -> None:
    log = bus.Log(tmp_path, "events")
    log.close()
    with pytest.raises(RuntimeError, match="closed"):
        log.append([line(1)])


def test_a_failing_disk_fails_the_batch_and_only_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fdatasync
    failing = threading.Event()

    def fdatasync(descriptor: int) -> None:
        if failing.is_set():
            raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with bus.Log(tmp_path, "events") as log:
        log.append([line(1)]).result(5)
        failing.set()
        with pytest.raises(bus.Unwritable, match="No space left"):
            log.append([line(2)]).result(5)
        failing.clear()
        log.append([line(3)]).result(5)
    assert [r["n"] for r in records(tmp_path, "events")] == [1, 3]


def test_recovery_cuts_a_torn_line_and_keeps_it_for_people(tmp_path: Path) -> None:
    folder = bus.folder(tmp_path, "events")
    folder.mkdir(parents=True)
    (folder / "1.jsonl.open").write_bytes(b'{"n": 1}\n{"n": 2')
    bus.Log(tmp_path, "events").close()
    assert records(tmp_path, "events") == [{"n": 1}]
    assert (folder / "1.torn").read_bytes() == b'{"n": 2'


def test_recovery_leaves_the_segment_of_a_living_writer_alone(tmp_path: Path) -> None:
    with bus.Log(tmp_path, "events") as log:
        log.append([line(1)]).result(5)
        assert bus.recover(tmp_path, "events") == []
        log.append([line(2)]).result(5)
    assert [r["n"] for r in records(tmp_path, "events")] == [1, 2]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(count=st.integers(1, 8), cut=st.integers(0, 200), zeros=st.integers(0, 16))
def test_recovery_keeps_every_whole_line_before_the_tear(
    tmp_path_factory: pytest.TempPathFactory, count: int, cut: int, zeros: int
) -> None:
    root = tmp_path_factory.mktemp("bus")
    folder = bus.folder(root, "events")
    folder.mkdir(parents=True)
    content = b"".join(line(n) + b"\n" for n in range(count))
    kept = content[: min(cut, len(content))]
    (folder / "1.jsonl.open").write_bytes(kept + b"\0" * zeros)
    bus.recover(root, "events")
    assert [r["n"] for r in records(root, "events")] == list(range(kept.count(b"\n")))


WRITER = """
import sys
from pathlib import Path
from recsys import bus
log = bus.Log(Path(sys.argv[1]), "events", segment_bytes=2000)
number = 0
while True:
    log.append([f'{{"writer": "{sys.argv[2]}", "n": {number}}}'.encode()]).result()
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


def test_killed_writers_lose_nothing_that_they_acknowledged(tmp_path: Path) -> None:
    names = ["a", "b"]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    time.sleep(1.5)
    acknowledged = {}
    for name, writer in zip(names, writers, strict=True):
        writer.send_signal(signal.SIGKILL)
        output, _ = writer.communicate(timeout=10)
        acknowledged[name] = [int(n) for n in output.splitlines()]
    bus.recover(tmp_path, "events")
    found = records(tmp_path, "events")
    for name in names:
        written = [r["n"] for r in found if r["writer"] == name]
        assert acknowledged[name]
        assert written[: len(acknowledged[name])] == acknowledged[name]
        assert len(written) - len(acknowledged[name]) in (0, 1)  # at most the one in flight


def test_concurrent_callers_share_flushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes = []

    def fdatasync(descriptor: int) -> None:
        flushes.append(descriptor)
        time.sleep(0.02)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with bus.Log(tmp_path, "events") as log:
        futures = [log.append([line(n)]) for n in range(200)]
        for future in futures:
            future.result(5)
    assert len(flushes) <= 4
    assert [r["n"] for r in records(tmp_path, "events")] == list(range(200))


DAY = timedelta(days=1)


def plant(root: Path, days_ago: float, content: bytes = b'{"n": 0}\n', ending: str = ".jsonl") -> Path:
    """A segment that somebody opened some days ago."""
    opened = datetime.now(UTC) - timedelta(days=days_ago)
    path = bus.folder(root, "decisions") / f"{int(opened.timestamp() * 1e9):020d}-77-0a1b2c3d{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_old_segments_are_deleted_at_the_start_and_all_else_is_kept(tmp_path: Path) -> None:
    old, young = plant(tmp_path, 7.1), plant(tmp_path, 6.9)
    torn = plant(tmp_path, 30, b'{"n"', ".torn")
    foreign = bus.folder(tmp_path, "decisions") / "0001.jsonl"
    foreign.write_bytes(b"{}\n")
    bus.Log(tmp_path, "decisions", retention=7 * DAY).close()
    assert not old.exists()
    assert young.exists()
    assert torn.exists()
    assert foreign.exists(), "nobody knows how old it is"


def test_a_log_without_a_retention_deletes_nothing(tmp_path: Path) -> None:
    old = plant(tmp_path, 400)
    bus.Log(tmp_path, "decisions").close()
    assert old.exists()


def test_a_running_log_deletes_what_has_become_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "PRUNE_SECONDS", 0.0)
    with bus.Log(tmp_path, "decisions", segment_bytes=1, retention=7 * DAY) as log:
        log.append([line(1)]).result(5)
        old = plant(tmp_path, 8)
        log.append([line(2)]).result(5)
    assert not old.exists()
    assert [r["n"] for r in records(tmp_path, "decisions")] == [1, 2]


def test_the_segment_that_is_being_written_is_never_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "PRUNE_SECONDS", 0.0)
    with bus.Log(tmp_path, "decisions", retention=timedelta(0)) as log:
        log.append([line(1)]).result(5)
        log.append([line(2)]).result(5)
        [segment] = bus.folder(tmp_path, "decisions").iterdir()
        assert segment.read_bytes() == line(1) + b"\n" + line(2) + b"\n"


def test_a_folder_that_refuses_a_deletion_stops_no_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = plant(tmp_path, 8)

    def refuse(segments: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(bus, "delete", refuse)
    with bus.Log(tmp_path, "decisions", retention=7 * DAY) as log:
        log.append([line(1)]).result(5)
    assert [r["n"] for r in records(tmp_path, "decisions")] == [0, 1]
    assert old.exists()


def test_the_segments_before_a_moment_are_those_opened_before_it(tmp_path: Path) -> None:
    first, second = plant(tmp_path, 9), plant(tmp_path, 8)
    plant(tmp_path, 1)
    assert bus.opened_before(tmp_path, "decisions", datetime.now(UTC) - 7 * DAY) == [first, second]
    assert bus.opened_before(tmp_path, "nothing", datetime.now(UTC)) == []


def test_segments_are_joined_in_their_order(tmp_path: Path) -> None:
    parts = [tmp_path / f"{n}.jsonl" for n in range(3)]
    for n, part in enumerate(parts):
        part.write_text(f'{{"n": {n}}}\n')
    bus.join(parts)
    assert [path.name for path in tmp_path.iterdir()] == ["0.jsonl"]
    assert [record["n"] for record in bus.read(parts[0])] == [0, 1, 2]
    bus.join(parts[:1])
    bus.join([])
    assert [record["n"] for record in bus.read(parts[0])] == [0, 1, 2]
