"""No log of the API holds who asked, for what, or with which key."""

import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from recsys.settings import Settings, child_environment
from serving.api import auth, followed

pytestmark = pytest.mark.services

SECRET = "secret-of-the-installation-0123456789"
USER, OTHER, SESSION, ITEM, EVENT_ID = "user-4711", "user-4712", "visit-4713", "item-4714", "event-4715"
TOKEN = jwt.encode({"sub": USER, "exp": 4_000_000_000, "scope": auth.READ}, SECRET)
EVENT = {"event_id": EVENT_ID, "user_id": USER, "session_id": SESSION, "item_id": ITEM, "event": "view"}
TIME = {"event_time": "2024-02-29T12:00:00Z"}
PRIVATE = (USER, OTHER, SESSION, ITEM, EVENT_ID, SECRET, TOKEN, *TOKEN.split("."))
ASKED = {"user_id": USER, "session_id": SESSION}
RECOMMENDATIONS, EVENTS, ITEMS = "/api/v1/recommendations", "/api/v1/events", "/api/v1/items"

# Status, method, path, query, body, headers.
CALLS: list[tuple[int, str, str, dict[str, str], Any, dict[str, str]]] = [
    (200, "GET", RECOMMENDATIONS, ASKED, None, {"X-Last-Item": ITEM}),
    (200, "GET", RECOMMENDATIONS, {}, None, {"Authorization": f"Bearer {TOKEN}", "X-API-Key": ""}),
    (202, "POST", EVENTS, {}, EVENT | TIME, {}),
    (202, "POST", EVENTS, {}, EVENT | TIME, {}),
    (400, "PUT", ITEMS, {}, {"items": [{"item_id": ITEM}]}, {}),
    (202, "DELETE", f"{ITEMS}/{ITEM}", {}, None, {}),
    (409, "POST", EVENTS, {}, EVENT | TIME | {"quantity": 2}, {}),
    (400, "GET", RECOMMENDATIONS, {USER: USER}, None, {}),
    (400, "GET", RECOMMENDATIONS, ASKED | {"cursor": SESSION}, None, {}),
    (400, "POST", EVENTS, {}, EVENT | {"event_time": USER}, {}),
    (401, "GET", RECOMMENDATIONS, ASKED, None, {"X-API-Key": SECRET}),
    (401, "GET", RECOMMENDATIONS, ASKED, None, {"Authorization": f"Bearer {TOKEN}x", "X-API-Key": ""}),
    (403, "GET", RECOMMENDATIONS, {"user_id": OTHER}, None, {"Authorization": f"Bearer {TOKEN}", "X-API-Key": ""}),
    (403, "POST", EVENTS, {}, EVENT, {"Authorization": f"Bearer {TOKEN}", "X-API-Key": ""}),
    (404, "GET", RECOMMENDATIONS, ASKED | {"surface": "similar", "item_id": ITEM}, None, {}),
    (404, "GET", f"/users/{USER}", {}, None, {}),
    (405, "DELETE", EVENTS, ASKED, None, {}),
    (422, "GET", RECOMMENDATIONS, ASKED | {"count": "101"}, None, {}),
    (422, "POST", EVENTS, {}, EVENT | {"event_time": "2999-01-01T00:00:00Z"}, {}),
]


async def send(client: httpx.AsyncClient) -> None:
    for status, method, path, query, body, headers in CALLS:
        answer = await client.request(method, path, params=query, json=body, headers=headers)
        assert answer.status_code == status, (method, path, answer.text)


@pytest.fixture
async def world(online_settings: Settings, shop: Any, tmp_path: Path) -> AsyncIterator[Any]:
    (tmp_path / "secret").write_text(SECRET)
    patient = shop.patient(online_settings)
    api = patient.api.model_copy(update={"jwt_secret_file": str(tmp_path / "secret")})
    settings = patient.model_copy(update={"api": api})
    shop.publish(settings)
    async with shop.running(settings) as made:
        yield made


async def test_nothing_that_a_caller_sends_is_logged(
    world: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for theirs in ("httpx", "httpcore", "grpc"):  # the test's own client and predictors
        caplog.set_level(logging.CRITICAL, theirs)
    caplog.set_level(logging.DEBUG)
    await send(world.http)

    def confused(request: Any) -> Any:
        raise ValueError(f"what is {request.user_id}?")

    world.retrieval.answer = world.ranking.answer = confused
    assert (await world.get(**ASKED)).status_code == 200  # the predictor's words come back with its status

    async def broken(*_: Any) -> Any:
        raise KeyError(USER)

    with monkeypatch.context() as inside:
        inside.setattr(world.app.state.parts.funnel, "slate", broken)
        inside.setattr(world.app.state.parts.receiver, "take", broken)
        assert (await world.get(**ASKED)).status_code == 500
        assert (await world.http.post(EVENTS, json=EVENT | TIME)).status_code == 500
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)
    Path(world.settings.api.jwt_secret_file).write_text(SECRET[:20])
    auth.keys_file(world.settings).write_text(f'{{"{SECRET}"')
    await send(world.http)
    assert "KeyError" in caplog.text  # what happened is there
    assert "no keys file" in caplog.text
    for private in (*PRIVATE, world.key, SECRET[:20]):
        assert private not in caplog.text


async def test_spans_of_the_framework_hold_nobody_because_there_are_none(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(told))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    trace.get_tracer("test").start_span("a span").end()
    assert (await world.get(**ASKED)).status_code == 200
    assert [span.name for span in told.get_finished_spans()] == ["a span"]


def test_the_process_logs_no_addresses(online_settings: Settings, shop: Any, tmp_path: Path) -> None:
    """With uvicorn as `serving.api` sets it up; a handshake of websockets is what it logs whole if it is let."""
    shop.publish(online_settings)
    environment = child_environment(online_settings, RECSYS_SERVICES__REDIS_URL=online_settings.redis_url)
    log = tmp_path / "api.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "serving.api"], env=environment, stdout=out, stderr=out)
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
        "Sec-WebSocket-Version": "13",
    }
    try:
        until = time.monotonic() + 30
        while b"Uvicorn running" not in log.read_bytes():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        key = auth.demo_key_file(online_settings).read_text()
        with httpx.Client(base_url=online_settings.api_url, headers={"X-API-Key": key}) as client:
            assert client.get(RECOMMENDATIONS, params=ASKED).status_code == 200
            client.get(RECOMMENDATIONS, params=ASKED, headers=handshake)
    finally:
        process.terminate()
        process.wait(15)
    for private in (*PRIVATE, key):
        assert private not in log.read_text()
