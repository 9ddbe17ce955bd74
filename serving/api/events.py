"""POST /api/v1/events: one event, or {"events": […]}; on the disk before the answer.

A batch is taken whole or not at all.
"""

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from feature_repo import events as schema
from feature_repo import validity
from recsys.settings import Settings
from serving.api import auth, problems, rows
from serving.api.auth import Client
from serving.api.intake import Line, Receipt, Receiver
from serving.api.problems import Problem, documented

router = APIRouter(prefix="/api/v1", tags=["events"])

TOPIC = "events"
BY_SERVER = "ingested_at"
EARLIEST = datetime(validity.OLDEST.year, 1, 1, tzinfo=UTC)
EXAMPLE: dict[str, Any] = {
    "event_id": "0191f3a2-5f0c",
    "user_id": "17850",
    "session_id": "s-42",
    "item_id": "85123A",
    "event": "purchase",
    "value": 2.55,
    "quantity": 6,
    "event_time": "2024-02-29T12:00:00Z",
}


class EventName:
    """The type of an event: one that is known when it comes, as a process reads the shop's own types at its start."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(_known, handler(source))

    def __get_pydantic_json_schema__(
        self, schema_: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema_) | {"enum": list(schema.EVENT_TYPES)}


def _known(name: str) -> str:
    if name not in schema.EVENT_TYPES:
        raise PydanticCustomError("literal_error", "{detail}", {"detail": schema.unknown_type(name)})
    return name


# The numbers that the quality gate takes.
OWN: dict[str, Any] = {"event": Annotated[str, EventName()]} | {
    name: Annotated[rows.TYPES[column.type], Field(ge=bounds.low, le=bounds.high)]
    for name, bounds in validity.EVENT_BOUNDS.items()
    for column in schema.EVENTS.columns
    if column.name == name
}
Event = rows.model(
    "Event",
    "One thing that a visitor did.",
    schema.EVENTS,
    own=OWN,
    example=EXAMPLE,
    ours={BY_SERVER},
)


class Batch(BaseModel):
    """Several events, taken whole or not at all."""

    model_config = ConfigDict(extra="forbid", strict=True)
    events: list[Event] = Field(min_length=1)  # type: ignore[valid-type]


def _events(body: bytes, settings: Settings, client: Client) -> Sequence[BaseModel]:
    """The events of a body. Raises Problem 400, 403 or 422 that names the place."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, "malformed", f"the body is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise Problem(400, "malformed", 'the body must be one event, or {"events": [event, …]}')
    many = "events" in raw
    if many and isinstance(raw["events"], list) and len(raw["events"]) > settings.api.max_batch:
        detail = f"at most {settings.api.max_batch} events in one request, got {len(raw['events'])}; split the batch"
        raise Problem(422, "batch-too-large", detail)
    try:
        found = Batch.model_validate_json(body).events if many else [Event.model_validate_json(body)]
    except ValidationError as error:
        raise problems.invalid(error.errors(include_url=False), where="#") from error
    _check_filled(found, many)
    _check_times(found, many, settings)
    return _of_user(found, many, client) if client.user_id else found


def _of_user(found: Sequence[Any], many: bool, client: Client) -> Sequence[BaseModel]:
    """The events in the name of the one user of a token; one without a user is theirs."""
    others = [place for place, event in enumerate(found) if not client.may_name(event.user_id)]
    if others:
        places = [f"#/events/{place}/user_id" if many else "#/user_id" for place in others]
        raise auth.other_user(places[0], errors=[{"pointer": place, "detail": "another user"} for place in places])
    return [event.model_copy(update={"user_id": client.user_id}) for event in found]


def _check_filled(found: Sequence[Any], many: bool) -> None:
    """Raise Problem 422 where an event leaves out what its type needs."""
    wrong = []
    for place, event in enumerate(found):
        if lacking := validity.missing(dict(event)):
            column, detail = lacking
            wrong.append({"pointer": f"#/events/{place}/{column}" if many else f"#/{column}", "detail": detail})
    if wrong:
        raise Problem(422, "rule-broken", f"{wrong[0]['pointer']} is required: {wrong[0]['detail']}", errors=wrong)


def _check_times(found: Sequence[Any], many: bool, settings: Settings) -> None:
    skew = settings.api.clock_skew_seconds
    latest = datetime.now(UTC) + timedelta(seconds=skew)
    wrong = [
        {
            "pointer": f"#/events/{place}/event_time" if many else "#/event_time",
            "detail": f"{_time_fault(event.event_time, skew)}; check the sender's clock",
            "value": event.event_time.isoformat(),
        }
        for place, event in enumerate(found)
        if not EARLIEST <= event.event_time <= latest
    ]
    if wrong:
        first = wrong[0]
        detail = f"{first['pointer']}: {first['value']} is {first['detail']}"
        raise Problem(422, "time-out-of-range", detail, errors=wrong)


def _time_fault(moment: datetime, skew: int) -> str:
    return f"before {EARLIEST:%Y}" if moment < EARLIEST else f"more than {skew} s in the future"


def _line(event: BaseModel, received: str) -> Line:
    """The log line: the event as sent, absent fields left out, times in UTC, and when it was received."""
    sent: dict[str, Any] = {name: value for name, value in event if value is not None}
    sent["event_time"] = sent["event_time"].astimezone(UTC).isoformat().replace("+00:00", "Z")
    body = orjson.dumps(sent, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.blake2b(body, digest_size=16).digest()
    seconds = event.event_time.timestamp()  # type: ignore[attr-defined]
    return Line(sent["event_id"], digest, orjson.dumps(sent | {BY_SERVER: received}), sent | {"event_time": seconds})


REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"oneOf": [{"$ref": "#/components/schemas/Event"}, {"$ref": "#/components/schemas/Batch"}]},
            "examples": {
                "one": {"summary": "one event", "value": EXAMPLE},
                "batch": {"summary": "several, taken whole or not at all", "value": {"events": [EXAMPLE]}},
            },
        }
    },
}


@router.post(
    "/events",
    status_code=202,
    response_model=Receipt,
    summary="Tell what visitors did",
    responses=documented(400, 401, 403, 409, 413, 422, 429, 500, 503),
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def receive(request: Request, client: Annotated[Client, Depends(auth.may_write)]) -> Response:
    """Take one event or a batch; 202 means that every one of them is on the disk and will not be lost.

    Repeat a request that failed or was not answered, with the same `event_id`: an event that is here already counts
    as a duplicate and does no harm. The same id with another body is a conflict (409) and nothing of the request is
    taken. `event_time` needs a time zone and may be at most five minutes in the future.
    """
    receiver: Receiver = request.app.state.parts.receiver
    receipt = await take(_events(await request.body(), receiver.settings, client), receiver)
    return Response(orjson.dumps(receipt.model_dump()), 202, media_type="application/json")


async def take(found: Sequence[BaseModel], receiver: Receiver) -> Receipt:
    """Bring checked events to the disk, received now; raises what `Receiver.take` raises."""
    received = datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")
    return await receiver.take([_line(event, received) for event in found])
