"""Who may open the storefront, and what keeps other sites out of it.

It acts for whoever opens it, under the key in `run/demo_key`: revoking that key closes it. So a request must come from
this machine's browser, unless `api.demo` is "on", and not through another site:

- The Host must be a loopback one. A foreign name that was made to point to 127.0.0.1 (DNS rebinding) is none.
- What changes anything must have the Origin of the storefront itself; browsers let no page forge it.
- The cookie is SameSite=Lax and names a visitor, which opens nothing by itself.
- The Content-Security-Policy allows the two files of `assets` and nothing inline, so that markup in a title or an id
  would stay dead even if it were not escaped.
"""

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from recsys.settings import LOOPBACK
from serving.api import auth, problems
from serving.api.demo import view
from serving.api.problems import Problem

PORT = re.compile(r":\d+$")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # "no-referrer" would make the Origin of a form "null"
    "X-Content-Type-Options": "nosniff",
}


class Route(APIRoute):
    """A route of the storefront: closed to other sites, with errors that are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                _check(request)
                answer = await inner(request)
            except RequestValidationError as error:
                answer = view.problem(request, problems.invalid(error.errors()))
            except Problem as error:
                answer = view.problem(request, error)
            answer.headers.update(HEADERS)
            return answer

        return handler


def _check(request: Request) -> None:
    """Raises Problem 403 for a request from elsewhere."""
    host, settings = request.headers.get("host", ""), request.app.state.parts.settings
    if settings.api.demo == "loopback" and PORT.sub("", host).strip("[]") not in LOOPBACK:
        detail = "the storefront is for this machine alone; RECSYS_API__DEMO=on opens it to others"
        raise Problem(403, "not-local", detail)
    if request.method != "GET" and request.headers.get("origin") not in (f"http://{host}", f"https://{host}"):
        raise Problem(403, "cross-site", "this was sent by a page of another site, and nothing was done")


async def read(request: Request) -> None:
    """A dependency: the local key may read recommendations."""
    await _admit(request, auth.READ)


async def write(request: Request) -> None:
    """A dependency: the local key may send events."""
    await _admit(request, auth.WRITE)


async def _admit(request: Request, scope: str) -> None:
    file = auth.demo_key_file(request.app.state.parts.settings)
    client = request.app.state.keys.find(file.read_text().strip()) if file.exists() else None
    if client is None:
        raise Problem(403, "no-local-key", f"the storefront acts under the key in {file}, and it is not known any more")
    await auth.admit(request, client, scope)
