"""Events: validated, on the disk before the answer, known again, and never lost."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from feature_repo import events as schema
from recsys import bus
from recsys.settings import Settings, child_environment
from serving.api import auth, events

pytestmark = pytest.mark.services

EVENT = {
    "event_id": "e1",
    "user_id": "ann",
    "session_id": "s1",
    "item_id": "i5",
    "event": "purchase",
    "value": 2.5,
    "quantity": 3,
    "event_time": "2024-02-29T12:00:00Z",
}
KNOWN = {"unknown_items": 0, "unknown_item_ids": []}


async def post(world: Any, body: Any) -> httpx.Response:
    return await world.http.post("/api/v1/events", json=body)


def logged(root: str | Path) -> list[dict[str, Any]]:
    """Every event in the log, closed segments and open ones."""
    segments = sorted((Path(root) / "bus" / "events").glob("*.jsonl*"))
    return [json.loads(line) for segment in segments for line in segment.read_bytes().splitlines()]


async def test_an_event_is_on_the_disk_before_the_answer(world: Any) -> None:
    answer = await post(world, EVENT)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "duplicates": 0, "duplicate_ids": [], **KNOWN})
    [line] = logged(world.settings.storage.root)
    received = datetime.fromisoformat(line.pop("ingested_at"))
    assert abs((datetime.now(UTC) - received).total_seconds()) < 60
    assert line == EVENT


async def test_a_batch_is_taken_in_its_order(world: Any) -> None:
    about = {"search": {"query": "mugs"}}
    kinds = enumerate(schema.EVENT_TYPES)
    batch = [EVENT | {"event_id": f"e{n}", "event": kind} | about.get(kind, {}) for n, kind in kinds]
    answer = await post(world, {"events": batch})
    assert (answer.status_code, answer.json()["accepted"]) == (202, len(schema.EVENT_TYPES))
    assert [line["event"] for line in logged(world.settings.storage.root)] == list(schema.EVENT_TYPES)


async def test_the_shops_own_types_are_taken_and_documented(own_events: None, world: Any) -> None:
    assert (await post(world, EVENT | {"event": "play_trailer"})).status_code == 202
    refused = await post(world, EVENT | {"event_id": "e2", "event": "play_trailers"})
    assert refused.status_code == 400
    assert "did you mean 'play_trailer'?" in refused.json()["detail"]
    document = (await world.http.get("/openapi.json")).json()
    enum = document["components"]["schemas"]["Event"]["properties"]["event"]["enum"]
    assert enum == [*schema.EventType, "play_trailer", "report"]


async def test_a_repeated_event_is_no_second_event(world: Any) -> None:
    await post(world, EVENT)
    reordered = dict(reversed(EVENT.items())) | {"event_time": "2024-02-29T13:00:00+01:00"}  # the same moment
    answer = await post(world, {"events": [reordered, EVENT, EVENT | {"event_id": "e2"}]})
    assert answer.json() == {"accepted": 1, "duplicates": 2, "duplicate_ids": ["e1"], **KNOWN}
    assert [line["event_id"] for line in logged(world.settings.storage.root)] == ["e1", "e2"]


async def test_another_process_knows_the_event_too(world: Any, shop: Any) -> None:
    await post(world, EVENT)
    async with shop.running(world.settings, predictors=False) as other:
        assert (await post(other, EVENT)).json()["duplicates"] == 1
        assert (await post(other, EVENT | {"quantity": 4})).status_code == 409


async def test_the_same_id_with_another_body_is_a_conflict_and_nothing_is_taken(world: Any) -> None:
    await post(world, EVENT)
    answer = await post(world, {"events": [EVENT | {"event_id": "e2"}, EVENT | {"item_id": "i6"}]})
    assert answer.status_code == 409
    assert answer.json()["event_id"] == "e1"
    assert [line["event_id"] for line in logged(world.settings.storage.root)] == ["e1"]


async def test_two_requests_at_once_with_one_id_are_one_event(world: Any) -> None:
    answers = await asyncio.gather(*(post(world, EVENT) for _ in range(10)))
    assert [answer.status_code for answer in answers] == [202] * 10
    assert sum(answer.json()["accepted"] for answer in answers) == 1
    assert len(logged(world.settings.storage.root)) == 1


async def test_without_redis_events_are_still_taken_and_repeats_still_known(settings: Settings, shop: Any) -> None:
    async with shop.running(settings) as world:  # nothing listens where Redis should be
        assert (await post(world, EVENT)).status_code == 202
        assert (await post(world, EVENT)).json()["duplicates"] == 1
        assert (await post(world, EVENT | {"value": 9.0})).status_code == 409
    assert len(logged(settings.storage.root)) == 1


async def test_a_redis_that_hangs_holds_up_the_first_events_only(settings: Settings, shop: Any) -> None:
    with socket.create_server(("127.0.0.1", settings.network.redis)):  # takes connections, and never answers
        async with shop.running(settings) as world:
            started = time.perf_counter()
            for n in range(30):
                assert (await post(world, EVENT | {"event_id": f"e{n}"})).json()["accepted"] == 1
            assert time.perf_counter() - started < 5  # two asks of 0.25 s each would make 15
            assert (await post(world, EVENT | {"event_id": "e29"})).json()["duplicates"] == 1
            assert await world.metric('recsys_api_falls_total{stage="event_index",why="late"}') >= 5
    assert len(logged(settings.storage.root)) == 30


async def test_a_full_disk_is_503_with_retry_after_and_the_retry_is_taken(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", full)
        answer = await post(world, EVENT)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "No space left" in answer.json()["detail"]
    assert (await post(world, EVENT)).json()["accepted"] == 1
    assert len(logged(world.settings.storage.root)) == 1


async def test_an_unknown_item_is_taken_and_counted(world: Any) -> None:
    """i1 is sold out, which is known; "gone" was left out of the release, "told" the API heard of a moment ago."""
    shop = {"title": "Told", "category": "Toys > big", "created_at": "2024-02-29T12:00:00Z", "available": True}
    put = await world.http.put("/api/v1/items", json={"items": [{"item_id": "told", **shop}]})
    assert put.status_code == 202
    assert (await world.http.delete("/api/v1/items/deleted")).status_code == 202
    ids = ["ghost", "i1", "gone", "told", "deleted", "ghost", "spirit", "i8"]
    batch = [EVENT | {"event_id": f"u{n}", "item_id": item} for n, item in enumerate(ids)]
    told = (await world.http.post("/api/v1/events", json={"events": batch})).json()
    assert (told["accepted"], told["unknown_items"], told["unknown_item_ids"]) == (8, 3, ["ghost", "spirit"])
    again = (await world.http.post("/api/v1/events", json={"events": batch})).json()
    assert (again["duplicates"], again["unknown_items"]) == (8, 3)
    assert "recsys_api_unknown_item_events_total 3.0" in (await world.http.get("/metrics")).text


async def test_before_the_first_release_no_item_is_called_unknown(online_settings: Settings, shop: Any) -> None:
    async with shop.running(online_settings) as world:
        answer = await post(world, EVENT | {"item_id": "ghost"})
        assert answer.json() == {"accepted": 1, "duplicates": 0, "duplicate_ids": [], **KNOWN}


async def test_a_receipt_names_some_of_many_unknown_items(world: Any) -> None:
    batch = [EVENT | {"event_id": f"m{n}", "item_id": f"ghost-{n:02}"} for n in range(30)]
    told = (await world.http.post("/api/v1/events", json={"events": batch})).json()
    assert told["unknown_items"] == 30
    assert told["unknown_item_ids"] == [f"ghost-{n:02}" for n in range(20)]


@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({"event": "watch_complete"}, 400, "#/event"),
        ({"timestamp": "2024-02-29T12:00:00Z"}, 400, "#/timestamp"),
        ({"event_id": None}, 400, "#/event_id"),
        ({"event_id": ""}, 422, "#/event_id"),
        ({"item_id": 5}, 400, "#/item_id"),
        ({"quantity": 1.5}, 400, "#/quantity"),
        ({"quantity": 2**40}, 422, "#/quantity"),
        ({"quantity": 2**64}, 422, "#/quantity"),
        ({"event_id": 2**64}, 400, "#/event_id"),
        ({"value": "2.50"}, 400, "#/value"),
        ({"event_time": "yesterday"}, 400, "#/event_time"),
        ({"event_time": 1709208000}, 400, "#/event_time"),
        ({"event_time": "2024-02-29T12:00:00"}, 400, "#/event_time"),  # no time zone
        ({"event_time": "1709208000"}, 400, "#/event_time"),
        ({"event_time": "2024-02-30T12:00:00Z"}, 400, "#/event_time"),
        ({"event_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}, 422, "#/event_time"),
        ({"ingested_at": "2024-02-29T12:00:00Z"}, 400, "#/ingested_at"),
    ],
)
async def test_a_bad_event_is_refused_at_its_place(
    world: Any, change: dict[str, Any], status: int, pointer: str
) -> None:
    answer = await post(world, EVENT | change)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["pointer"] == pointer
    in_batch = await post(world, {"events": [EVENT, EVENT | {"event_id": "e2"} | change]})
    assert in_batch.status_code == status
    assert in_batch.json()["errors"][0]["pointer"] == pointer.replace("#", "#/events/1")
    assert logged(world.settings.storage.root) == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b"[]", 400, "one event"),
        (b"{}", 400, "event_id"),
        (b'{"events": []}', 422, "events"),
        (b'{"events": {}}', 400, "events"),
        (b'{"events": [], "more": 1}', 400, "more"),
        (b'{"events": [' + b",".join([b"1"] * 1001) + b"]}", 422, "at most 1000 events"),
        (b'"' + b"x" * (5 << 20) + b'"', 413, "split it"),
    ],
)
async def test_a_bad_body_is_told_what_to_do(world: Any, body: bytes, status: int, words: str) -> None:
    answer = await world.http.post("/api/v1/events", content=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


async def test_a_body_that_hides_its_length_is_stopped_too(world: Any) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 100_000

    answer = await world.http.post("/api/v1/events", content=endless())
    assert answer.status_code == 413


def test_the_model_has_the_columns_of_the_schema_but_the_receipt_time() -> None:
    assert [*events.Event.model_fields, "ingested_at"] == schema.EVENTS.names


@pytest.fixture
def killable(online_settings: Settings) -> Iterator[Any]:
    """Start the API as a process of its own, as often as the test likes."""
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        environment = child_environment(online_settings, RECSYS_SERVICES__REDIS_URL=online_settings.redis_url)
        process = subprocess.Popen([sys.executable, "-m", "serving.api"], env=environment)
        processes.append(process)
        for _ in range(600):
            try:
                httpx.get(f"{online_settings.api_url}/health/live")
                return process
            except httpx.TransportError:
                assert process.poll() is None
                time.sleep(0.05)
        raise TimeoutError("the API did not start within 30 s")

    yield start
    for process in processes:
        process.kill()
        process.wait(10)


async def send(settings: Settings, worker: int, acknowledged: list[dict[str, Any]]) -> None:
    """Send events until the API dies; remember what it acknowledged."""
    key = auth.demo_key_file(settings).read_text()
    async with httpx.AsyncClient(base_url=settings.api_url, headers={"X-API-Key": key}) as client:
        for number in range(100_000):
            batch = [EVENT | {"event_id": f"{worker}-{number}-{n}", "quantity": number + 1} for n in range(3)]
            try:
                answer = await client.post("/api/v1/events", json={"events": batch})
            except httpx.TransportError:
                return
            assert answer.status_code == 202
            acknowledged.extend(batch)


async def test_kill_minus_nine_under_load_loses_nothing_acknowledged(online_settings: Settings, killable: Any) -> None:
    process = killable()
    acknowledged: list[dict[str, Any]] = []
    senders = [asyncio.create_task(send(online_settings, worker, acknowledged)) for worker in range(6)]
    while len(acknowledged) < 300:
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    await asyncio.gather(*senders)
    restarted = killable()  # recovers the segment of the dead one
    root = Path(online_settings.storage.root)
    found = {r.pop("event_id"): r for segment in bus.closed(root, "events") for r in bus.read(segment)}
    for event in acknowledged:
        line = found[event["event_id"]]
        assert {name: value for name, value in line.items() if name != "ingested_at"} | {
            "event_id": event["event_id"]
        } == event
    key = auth.demo_key_file(online_settings).read_text()
    answer = httpx.post(f"{online_settings.api_url}/api/v1/events", json=acknowledged[-1], headers={"X-API-Key": key})
    # A retry is known again or, where Redis was too slow to say so, logged twice; never refused, never lost.
    assert answer.status_code == 202
    assert answer.json()["accepted"] + answer.json()["duplicates"] == 1
    restarted.terminate()
    assert restarted.wait(15) in (0, -signal.SIGTERM)  # uvicorn ends by the signal that it was sent, after its work
    assert list(bus.folder(root, "events").glob("*.open")) == []


@pytest.mark.parametrize(
    ("time", "words"),
    [("0001-01-01T00:00:00+01:00", "before 1990"), ("2999-01-01T00:00:00Z", "in the future")],
)
async def test_a_clock_that_is_wrong_is_told_so(world: Any, time: str, words: str) -> None:
    body = {"event_id": "e1", "session_id": "s", "item_id": "i1", "event": "view", "event_time": time}
    answer = await world.http.post("/api/v1/events", json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:recsys:problem:time-out-of-range")
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"quantity": 0}, "#/quantity"),
        ({"quantity": -1}, "#/quantity"),
        ({"quantity": 100_001}, "#/quantity"),
        ({"value": -0.01}, "#/value"),
        ({"value": 1e300}, "#/value"),
        ({"duration_sec": -1.0}, "#/duration_sec"),
        ({"position": -1}, "#/position"),
        ({"event_time": "1970-01-02T00:00:00Z"}, "#/event_time"),
        ({"user_id": ""}, "#/user_id"),
        ({"user_id": "  "}, "#/user_id"),
        ({"user_id": "u1 "}, "#/user_id"),
        ({"item_id": " "}, "#/item_id"),
        ({"session_id": "\t"}, "#/session_id"),
        ({"item_id": None}, "#/item_id"),
        ({"event": "search"}, "#/query"),
        ({"event": "undo", "item_id": None}, "#/item_id"),
    ],
    ids=str,
)
async def test_what_the_gate_would_put_aside_is_refused(world: Any, wrong: dict[str, Any], pointer: str) -> None:
    sent = {name: value for name, value in (EVENT | {"event_id": "odd"} | wrong).items() if value is not None}
    answer = await post(world, sent)
    assert answer.status_code in (400, 422)
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_a_misspelt_type_is_told_its_nearest(world: Any) -> None:
    answer = await post(world, EVENT | {"event": "puchase"})
    assert "did you mean 'purchase'?" in answer.json()["detail"]
    assert "EventType" not in answer.text
