"""The application: routes, parts and what surrounds them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware

from recsys.settings import Settings
from serving.api import (
    auth,
    background,
    events,
    explain,
    items,
    middleware,
    onboarding,
    parts,
    problems,
    recommendations,
    replay,
    tokens,
)
from serving.api.demo import routes as demo
from serving.api.metrics import Metrics
from serving.api.problems import Problem

DESCRIPTION = """
Recommendations for shoppers, and the events that they are learnt from.

Every request needs an API key, as `X-API-Key` or as a bearer, or a user's token (JWT) as a bearer. The first start
leaves a key for this machine in `run/demo_key` under the storage root. Errors are `application/problem+json`
(RFC 9457) and say what to do.
"""

# FastAPI's own spans hold the address, and with it who asked; and it asks at each request whether anybody wants them.
UNTRACED = {"tracing": False, "metrics": False, "logs": False}


def create(settings: Settings) -> FastAPI:
    """The ASGI application of one process."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        made = parts.build(settings, metrics)
        app.state.parts = made
        await made.changed.poll(made.watcher)
        await made.watcher.refresh()
        await made.watcher.stand()
        tasks = [
            asyncio.create_task(background.every(seconds, work, what, metrics))
            for seconds, work, what in made.background
        ]
        try:
            yield
        finally:
            await background.ended(tasks)
            await made.close()

    # The pages of /docs come with their scripts: a browser behind a firewall shows them too.
    app = FastAPIOffline(title="recsys", version="1", description=DESCRIPTION, lifespan=lifespan, telemetry=UNTRACED)
    app.state.keys, app.state.tokens = auth.Keys(settings), tokens.Tokens(settings.api)
    problems.install(app)
    app.include_router(recommendations.router)
    app.include_router(events.router)
    app.include_router(items.router)
    app.include_router(onboarding.router)
    app.include_router(explain.router)
    app.include_router(replay.router)
    if settings.demo_url:
        app.include_router(demo.router)
    _health(app, metrics)
    _describe(app)
    app.add_middleware(middleware.Envelope, metrics=metrics, max_body_bytes=settings.api.max_body_bytes)
    if settings.api.cors_origins:
        _share(app, settings.api.cors_origins)
    return app


def _share(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of other origins read answers. Outermost, because a browser keeps an answer without the headers to
    itself, errors included; without credentials, because the API knows no cookies."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=[
            *("Authorization", "Content-Type", "X-API-Key", "X-Deadline-Ms", "X-Last-Item"),
            *("X-Correlation-ID", "X-Request-ID"),
        ],
        expose_headers=[
            *("RateLimit", "RateLimit-Policy", "Retry-After", "Server-Timing", "X-Correlation-ID", "X-Request-ID"),
        ],
    )


def _health(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/health/live", tags=["health"], summary="The process answers")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", tags=["health"], summary="A release is loaded", responses=problems.documented(503))
    async def ready(request: Request) -> dict[str, str | int]:
        current = request.app.state.parts.watcher.current
        if current is None:
            raise Problem(503, "no-release", "no release is live yet; run the daily pipeline", retry_after=5)
        return {
            "status": "ready",
            "release_id": current.release_id,
            "colour": current.release.colour,
            "data_as_of": current.release.as_of,
            "data_age_seconds": max(int(time.time() - current.as_of), 0),
        }

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=Response)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _describe(app: FastAPI) -> None:
    """Add models to the OpenAPI document that no route declares: the problem, which has a media type of its own, and
    the events and items, whose routes read their bodies themselves, for speed and to name the place of a fault."""
    schemas = app.openapi()["components"]["schemas"]
    for model in (problems.Details, events.Event, events.Batch, items.CatalogueItem, items.CatalogueItems):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schema.pop("$defs", None)
        schemas[model.__name__] = schema
