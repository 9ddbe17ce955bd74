"""What the OpenAPI document promises holds for requests that Schemathesis makes up, good ones and bad ones."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from recsys.settings import Settings

pytestmark = pytest.mark.services

OPERATIONS = [
    (GenerationMode.POSITIVE, "GET", "/api/v1/recommendations"),
    (GenerationMode.NEGATIVE, "GET", "/api/v1/recommendations"),
    (GenerationMode.POSITIVE, "POST", "/api/v1/events"),
    (GenerationMode.NEGATIVE, "POST", "/api/v1/events"),
    (GenerationMode.POSITIVE, "PUT", "/api/v1/users/{user_id}/preferences"),
    (GenerationMode.NEGATIVE, "PUT", "/api/v1/users/{user_id}/preferences"),
    (GenerationMode.POSITIVE, "GET", "/api/v1/explain/{request_id}"),
    (GenerationMode.POSITIVE, "GET", "/api/v1/replay/{request_id}"),
    (GenerationMode.POSITIVE, "PUT", "/api/v1/items"),
    (GenerationMode.NEGATIVE, "PUT", "/api/v1/items"),
    (GenerationMode.POSITIVE, "DELETE", "/api/v1/items/{item_id}"),
    (GenerationMode.POSITIVE, "GET", "/health/live"),
    (GenerationMode.POSITIVE, "GET", "/health/ready"),
]
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


@pytest.fixture
def ask(online_settings: Settings, shop: Any) -> Iterator[Any]:
    """Sends a request to the API and waits for the answer, from a test that is no coroutine, as Hypothesis wants it."""
    settings = shop.patient(online_settings)
    shop.publish(settings)
    shop.fill(settings.redis_url)
    running = shop.running(settings)
    with asyncio.Runner() as runner:
        world = runner.run(running.__aenter__())

        def send(request: requests.PreparedRequest) -> httpx.Response:
            headers = {**request.headers, "X-API-Key": world.key}
            return runner.run(world.http.request(request.method, request.url, headers=headers, content=request.body))

        send.document = world.app.openapi()
        yield send
        runner.run(running.__aexit__(None, None, None))


@pytest.mark.parametrize(("mode", "method", "path"), OPERATIONS)
def test_the_document_holds(ask: Any, mode: GenerationMode, method: str, path: str) -> None:
    operation = schemathesis.openapi.from_dict(ask.document)[path][method]

    @limits(max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(mode))
    def check(case: schemathesis.Case) -> None:
        request = requests.Request(**case.as_transport_kwargs(base_url="http://api")).prepare()
        case.validate_response(ask(request), checks=CHECKS)

    check()
