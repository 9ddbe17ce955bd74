"""What surrounds the routes: health, metrics, the OpenAPI document, errors, and how light the process is."""

import subprocess
import sys
import time
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from recsys.settings import Api, Settings
from serving.api.breaker import Breaker


@pytest.mark.services
async def test_ready_names_the_release(world: Any) -> None:
    ready = (await world.http.get("/health/ready")).json()
    age = ready.pop("data_age_seconds")
    as_of = "2024-03-01T00:00:00+00:00"
    assert ready == {"status": "ready", "release_id": "r1", "colour": "blue", "data_as_of": as_of}
    assert abs(time.time() - datetime.fromisoformat(as_of).timestamp() - age) < 60
    gauge = next(
        line
        for line in (await world.http.get("/metrics")).text.splitlines()
        if line.startswith("recsys_api_release_data_timestamp_seconds")
    )
    assert float(gauge.split()[1]) == datetime.fromisoformat(as_of).timestamp()


@pytest.mark.services
@pytest.mark.usefixtures("nothing_to_explore")
async def test_metrics_count_what_happened_and_name_nobody(world: Any) -> None:
    await world.page(user_id="ann", count=3)
    await world.get(surface="category")
    text = (await world.http.get("/metrics")).text
    for line in (
        'recsys_api_requests_total{route="/api/v1/recommendations",status="200"} 1.0',
        'recsys_api_requests_total{route="/api/v1/recommendations",status="400"} 1.0',
        'recsys_api_pages_total{rung="ranked",surface="home"} 1.0',
        'recsys_api_items_total{source="personal",surface="home"} 3.0',
        'recsys_api_stage_seconds_count{stage="ranking"} 1.0',
        'recsys_api_filtered_items_total{rule="seen"} 3.0',
        'recsys_api_release{release="r1"} 1.0',
    ):
        assert line in text
    assert "ann" not in text


@pytest.mark.services
async def test_an_unexpected_error_is_a_problem_and_tells_nothing_of_the_inside(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.app.state.parts.funnel, "slate", lambda *_: 1 / 0)
    answer = await world.get(user_id="ann")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "division" not in answer.text
    assert await world.metric('recsys_api_errors_total{kind="ZeroDivisionError"}') == 1


@pytest.mark.services
async def test_the_openapi_document_describes_both_endpoints_and_their_errors(world: Any) -> None:
    document = (await world.http.get("/openapi.json")).json()
    get = document["paths"]["/api/v1/recommendations"]["get"]
    assert {p["name"] for p in get["parameters"]} >= {"surface", "user_id", "item_id", "count", "cursor", "x-last-item"}
    assert {"200", "400", "401", "403", "404", "410", "422", "503"} <= set(get["responses"])
    assert list(get["responses"]["404"]["content"]) == ["application/problem+json"]
    assert document["components"]["schemas"]["Event"]["required"][0] == "event_id"
    assert "Batch" in document["components"]["schemas"]
    page = (await world.http.get("/docs")).text
    assert "static-offline-docs/swagger-ui" in page  # a browser behind a firewall can show it


@pytest.mark.services
async def test_no_other_origin_may_read_answers(world: Any) -> None:
    answer = await world.get(headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.services
async def test_a_listed_origin_may_read_answers_errors_included(online_settings: Settings, shop: Any) -> None:
    origin = "https://shop.example"
    api = online_settings.api.model_copy(update={"cors_origins": (origin,)})
    shop.publish(online_settings)
    async with shop.running(online_settings.model_copy(update={"api": api})) as world:
        for parameters, status in (({}, 200), ({"surface": "category"}, 400)):
            answer = await world.get(headers={"Origin": origin}, **parameters)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, origin)
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}
        for asking, status in ((origin, 200), ("https://elsewhere.example", 400)):
            answer = await world.http.options("/api/v1/events", headers={"Origin": asking} | asked)
            assert answer.status_code == status
            assert ("access-control-allow-origin" in answer.headers) == (status == 200)


@pytest.mark.services
async def test_a_browser_may_call_every_public_route(online_settings: Settings, shop: Any) -> None:
    """A page of another origin asks first, with a preflight."""
    origin = "https://shop.example"
    api = online_settings.api.model_copy(update={"cors_origins": (origin,)})
    shop.publish(online_settings)
    async with shop.running(online_settings.model_copy(update={"api": api})) as world:
        paths = (await world.http.get("/openapi.json")).json()["paths"]
        routes = [(path, verb.upper()) for path, verbs in paths.items() for verb in verbs]
        assert {verb for _, verb in routes} == {"GET", "POST", "PUT", "DELETE"}
        for path, verb in routes:
            asked = {
                "Origin": origin,
                "Access-Control-Request-Method": verb,
                "Access-Control-Request-Headers": "authorization,x-api-key,x-last-item,x-request-id,content-type",
            }
            answer = await world.http.options(path, headers=asked)
            assert answer.status_code == 200, (path, verb, answer.text)
            assert verb in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize("origin", ["*", "shop.example", "https://shop.example/", "https://*.example"])
def test_an_origin_is_one_as_browsers_send_it(origin: str) -> None:
    with pytest.raises(ValidationError):
        Api(cors_origins=(origin,))


def test_the_process_imports_no_engine() -> None:
    script = "import sys, serving.api.app; print([m for m in sys.modules if m in " + repr(
        ["tensorflow", "pyspark", "feast", "scann", "mlflow", "pandas", "kserve"]
    )
    found = subprocess.run([sys.executable, "-c", script + "])"], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_breaker_opens_after_failures_in_a_row_and_tries_again_after_a_pause() -> None:
    now = [0.0]
    breaker = Breaker("ranking", limit=2, pause=1.0, clock=lambda: now[0])
    breaker.failed("down")
    breaker.succeeded()
    breaker.failed("down")
    assert breaker.allows()
    breaker.failed("down")
    assert not breaker.allows()
    now[0] = 1.0
    assert breaker.allows()  # the trial
    assert not breaker.allows()  # and nobody else meanwhile
    breaker.succeeded()
    assert breaker.allows()
