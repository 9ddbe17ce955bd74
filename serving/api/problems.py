"""THE error format: RFC 9457 problem details, for every error of the API.

400 is a request that cannot be understood (malformed, missing, of the wrong type); 422 is one that is understood
and breaks a rule (too many items, a time in the future).
"""

import logging
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from feature_repo import validity

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
# Pydantic's names of errors that leave the value understood but not allowed; all others mean that it is malformed.
BROKEN_RULES = (
    "greater_than",
    "less_than",
    "string_too",
    "too_long",
    "too_short",
    "multiple_of",
    "value_error",
)


class Details(BaseModel):
    """Body of every error (RFC 9457)."""

    type: str = Field(examples=["urn:recsys:problem:unknown-item"], description="stable name of the kind of problem")
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["no item '4711' in release daily-20240229; take ids from a recommendation"])
    instance: str = Field(examples=["urn:recsys:request:7c0ffee5"], description="the request, as in X-Request-ID")
    errors: list[dict[str, Any]] = Field(default=[], description="where the request is wrong, one entry per place")


class Problem(Exception):
    """An answer other than success: what is wrong and what to do about it."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.extra = status, kind, detail, extra
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def response(self, request_id: str) -> Response:
        body = {
            "type": f"urn:recsys:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": f"urn:recsys:request:{request_id}",
        }
        return Response(orjson.dumps(body | self.extra), self.status, self.headers, MEDIA_TYPE)


def invalid(errors: Sequence[Mapping[str, Any]], where: str = "") -> Problem:
    """The problem for what pydantic refused; names each place, what is wrong, and the value.

    Args:
        errors: as `ValidationError.errors()` gives them.
        where: JSON pointer of the validated value in the body; empty for parameters.
    """
    place = "pointer" if where else "parameter"
    places = [
        {
            place: "/".join([where, *map(str, error["loc"])] if where else _names(error)),
            "detail": _detail(error),
            **_value(error),
        }
        for error in errors
    ]
    malformed = any(not error["type"].startswith(BROKEN_RULES) for error in errors)
    first = places[0]
    sentence = f"{first[place] or 'a parameter without a name'}: {first['detail']}"
    if len(places) > 1:
        sentence += f" (and {len(places) - 1} more, see errors)"
    kind = "malformed" if malformed else "rule-broken"
    return Problem(400 if malformed else 422, kind, sentence, errors=places)


def _detail(error: Mapping[str, Any]) -> str:
    """What is wrong, in words: of a pattern nobody reads what an id is."""
    ids = (validity.ID, validity.ID_OR_NONE)
    return validity.ID_SAYS if error.get("ctx", {}).get("pattern") in ids else str(error["msg"])


def _names(error: Mapping[str, Any]) -> list[str]:
    return [str(part) for part in error["loc"][1:]] or [str(part) for part in error["loc"]]


def _value(error: Mapping[str, Any]) -> dict[str, Any]:
    """The refused value where it is small enough to be worth repeating."""
    value = error.get("input")
    if isinstance(value, int) and value.bit_length() > 63:
        value = str(value)  # more than the encoder takes
    return {"value": value} if isinstance(value, str | int | float | bool) and len(str(value)) <= 100 else {}


def trail(error: BaseException) -> str:
    """Kinds of an error and of its causes, and where they were raised. Not their words, which may repeat what a caller
    sent: logs hold no personal data."""
    before = error.__cause__ or error.__context__
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}\n{frames}" + (f"after {trail(before)}" if before else "")


def request_id_of(request: Request) -> str:
    return str(request.scope.get("request_id", ""))


def install(app: FastAPI) -> None:
    """Answer every error of the application in the one format; the envelope answers the unexpected ones."""

    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response(request_id_of(request))

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors()).response(request_id_of(request))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = HTTPStatus(error.status_code).name.lower().replace("_", "-")
        detail = f"{request.method} {request.url.path}: {error.detail}; /docs lists what there is"
        return Problem(error.status_code, kind, detail, headers=error.headers).response(request_id_of(request))

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Details"}}},
        }
        for status in statuses
    }
