"""Who is looking at the storefront: a visitor that a cookie names."""

import base64
import binascii
import secrets
from typing import Annotated

from fastapi import Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.api.contract import Id

COOKIE, PATH = "recsys_demo", "/demo"


def _session() -> str:
    return f"demo-{secrets.token_hex(6)}"


class Visitor(BaseModel):
    """A shopper in a visit; without a user_id an anonymous one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_id: Id = ""
    session_id: Id = Field(default_factory=_session, min_length=1)
    region: Id = ""


def of(request: Request) -> Visitor:
    """The visitor of the cookie; a new anonymous one where there is none, or none that can be read."""
    try:
        return Visitor.model_validate_json(base64.urlsafe_b64decode(request.cookies.get(COOKIE, "")))
    except (ValidationError, binascii.Error):
        return Visitor()


Current = Annotated[Visitor, Depends(of)]


def remember(response: Response, visitor: Visitor, *, secure: bool) -> None:
    """Set the cookie, until the browser is closed; `secure` where the storefront is reached by https."""
    value = base64.urlsafe_b64encode(visitor.model_dump_json().encode()).decode()
    response.set_cookie(COOKIE, value, path=PATH, secure=secure, httponly=True, samesite="lax")
