"""PUT /api/v1/items and DELETE /api/v1/items/{item_id}: the catalogue, as it changes between two releases.

What is answered with 202 is on the disk, where the next `ingest` finds it, and in the online store, where every process
that serves finds it within seconds. The log comes first: a crash between the two leaves a request without an answer,
which is repeated, and no item that a rebuild would forget. A batch is taken whole or not at all.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from feature_repo import arms, changes, online, validity
from feature_repo import events as schema
from recsys import bus
from recsys.errors import Retryable
from recsys.settings import Settings
from serving.api import auth, problems, rows
from serving.api.contract import Id
from serving.api.problems import Problem, documented

router = APIRouter(prefix="/api/v1", tags=["catalogue"])

TOPIC = "items"
RETRY_AFTER = 1
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=rows.TEXT)]
# What is narrower or wider than its type; the quality gate asks for the same of titles, categories and prices.
OWN: Mapping[str, Any] = {
    "item_id": Annotated[Id, Field(min_length=1)],
    "title": Words,
    "category": Words,
    "description": Annotated[str, Field(max_length=10_000)],
    "price": Annotated[float, Field(gt=0, le=validity.MAX_VALUE, allow_inf_nan=False)],
    "created_at": Annotated[rows.Time, Field(ge=rows.EARLIEST)],
}
EXAMPLE: dict[str, Any] = {
    "item_id": "85123B",
    "title": "Cream hanging heart T-light holder",
    "category": "Home > Candles",
    "price": 2.95,
    "currency": "GBP",
    "created_at": "2024-03-01T09:00:00Z",
    "available": True,
}


CatalogueItem = rows.model("CatalogueItem", "One item of the catalogue, whole.", schema.ITEMS, own=OWN, example=EXAMPLE)


class CatalogueItems(BaseModel):
    """Several items, taken whole or not at all."""

    model_config = ConfigDict(extra="forbid", strict=True)
    items: list[CatalogueItem] = Field(min_length=1)  # type: ignore[valid-type]


class Taken(BaseModel):
    """What became of the items."""

    accepted: int = Field(description="items whose change is on the disk, and seen by all that serve within seconds")


@dataclass
class Taker:
    """Brings changes to the disk and to the online store."""

    settings: Settings
    log: bus.Log
    store: online.AsyncClient
    # One request after the other, so that log and store agree on which of two changes of an item is the last.
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def take(self, changed: Mapping[str, changes.Item | None]) -> Taken:
        """Take the new content of items, None for those that are deleted. Raises Problem 503."""
        async with self._turn:
            now = datetime.now(UTC)
            records = [{"item_id": item, "item": row, "received_at": now} for item, row in changed.items()]
            try:
                await asyncio.wrap_future(self.log.append([orjson.dumps(record) for record in records]))
                await arms.run_async(self.store, changes.put(changed))
            except Retryable as error:
                detail = f"the change is not seen by all that serve: {error}; send it again, which does no harm"
                raise Problem(503, "items-not-taken", detail, retry_after=RETRY_AFTER) from error
        return Taken(accepted=len(changed))


def _items(body: bytes, settings: Settings) -> dict[str, changes.Item]:
    """The items of a body by id. Raises Problem 400 or 422 that names the place."""
    try:
        found: Sequence[Any] = CatalogueItems.model_validate_json(body).items
    except ValidationError as error:
        raise problems.invalid(error.errors(include_url=False), where="#") from error
    if len(found) > settings.api.max_batch:
        detail = f"at most {settings.api.max_batch} items in one request, got {len(found)}; split the batch"
        raise Problem(422, "batch-too-large", detail)
    seen = Counter(item.item_id for item in found)
    latest = datetime.now(UTC) + timedelta(seconds=settings.api.clock_skew_seconds)
    wrong = [
        {"pointer": f"#/items/{place}/{column}", "detail": detail, "value": str(getattr(item, column))}
        for place, item in enumerate(found)
        for column, fault, detail in (
            ("item_id", seen[item.item_id] > 1, "comes more than once; send the last state of an item alone"),
            ("created_at", item.created_at > latest, "in the future; send an item once it is in the catalogue"),
            (
                "price",
                (item.price or 0) > validity.max_price(item.currency),
                f"is above {validity.max_price(item.currency):,.0f}; name the currency if it has small units",
            ),
        )
        if fault
    ]
    if wrong:
        first = wrong[0]
        raise Problem(422, "rule-broken", f"{first['pointer']}: {first['value']} {first['detail']}", errors=wrong)
    return {item.item_id: item.model_dump() | {"created_at": item.created_at.astimezone(UTC)} for item in found}


REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/CatalogueItems"},
            "examples": {"one": {"summary": "one item", "value": {"items": [EXAMPLE]}}},
        }
    },
}


@router.put(
    "/items",
    status_code=202,
    response_model=Taken,
    summary="Add items, or change them",
    responses=documented(400, 401, 403, 413, 422, 429, 500, 503),
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def put(request: Request, client: Annotated[auth.Client, Depends(auth.may_change)]) -> Response:
    """Take up to 1,000 items, each whole: a new one, or another title, price or availability of a known one.

    A new item is embedded from its content and can be recommended within seconds, without training; what changed is
    shown as it is now. Repeating a request changes nothing. 503 means that it has to be repeated.
    """
    taker: Taker = request.app.state.parts.items
    return _answer(await taker.take(_items(await request.body(), taker.settings)))


@router.delete(
    "/items/{item_id:path}",
    status_code=202,
    response_model=Taken,
    summary="Take an item out",
    responses=documented(400, 401, 403, 422, 429, 500, 503),
)
async def delete(
    request: Request,
    client: Annotated[auth.Client, Depends(auth.may_change)],
    item_id: Annotated[Id, Path(min_length=1)],
) -> Response:
    """Take an item out of every page within seconds, and out of the next release. An unknown one is no error, so that
    repeating a request does no harm."""
    taker: Taker = request.app.state.parts.items
    return _answer(await taker.take({item_id: None}))


def _answer(taken: Taken) -> Response:
    return Response(orjson.dumps(taken.model_dump()), 202, media_type="application/json")
