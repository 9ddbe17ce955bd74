"""What every request gets: an id, the caller's own echoed, a size limit, its time in a header and in the metrics."""

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api import problems
from serving.api.metrics import Metrics
from serving.api.problems import Problem

log = logging.getLogger(__name__)
CORRELATION = re.compile(r"[A-Za-z0-9._:=/+-]{1,128}")  # what gateways and tracers send; no addresses
UNEXPECTED = Problem(500, "internal", "an error of the server, now in its log; the same request may be repeated")


def new_id() -> str:
    """The id of a request: ours alone, since pages and outcomes are kept by it, and nobody can guess it."""
    return secrets.token_hex(16)


class Envelope:
    """Around all that answers, plain ASGI: one wrapped `send`, nothing buffered."""

    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int) -> None:
        self._app, self._metrics, self._limit = app, metrics, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-correlation-id") or headers.get("x-request-id", "")
        scope["request_id"] = new_id()
        scope["correlation_id"] = given if CORRELATION.fullmatch(given) else ""
        scope["started"] = started = time.perf_counter()
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._stamp(scope, message, started)
            await send(message)

        try:
            if int(headers.get("content-length", "0")) > self._limit:
                await self._too_large().response(scope["request_id"])(scope, receive, answer)
            else:
                await self._app(scope, self._limited(receive), answer)
        except Exception as error:  # noqa: BLE001 - the edge of the process
            trail = problems.trail(error)
            log.error("request %s (correlation %r): unexpected %s", scope["request_id"], scope["correlation_id"], trail)
            self._metrics.errors.labels(type(error).__name__).inc()
            if status is None:
                await UNEXPECTED.response(scope["request_id"])(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, status or 500).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _stamp(self, scope: Scope, message: Message, started: float) -> None:
        headers = MutableHeaders(scope=message)
        headers["X-Request-ID"] = scope["request_id"]
        if scope["correlation_id"]:
            headers["X-Correlation-ID"] = scope["correlation_id"]
        total = f"total;dur={1000 * (time.perf_counter() - started):.1f}"
        trace = scope.get("trace")
        stages = trace.server_timing() if trace else ""
        headers["Server-Timing"] = f"{stages}, {total}" if stages else total
        headers.update(scope.get("quota", {}))
        for stage, spent in trace.timings.items() if trace else ():
            self._metrics.stage.labels(stage).observe(spent / 1000)

    def _limited(self, receive: Receive) -> Receive:
        """Count a body that does not say its length."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> Problem:
        return Problem(413, "body-too-large", f"a body may have at most {self._limit} bytes; split it")
