"""A client of the recommendation API, for the command line and for jobs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from recsys.errors import Permanent, Retryable, UsageError
from recsys.settings import Settings


def get(settings: Settings, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """GET from the API with the local demo key; parameters that are None are left out.

    Raises:
        Retryable: the API does not answer, or answers 5xx.
        UsageError: the API refused the request; the message is its own.
    """
    query = {name: value for name, value in params.items() if value is not None}
    headers = {"X-API-Key": demo_key(settings)}
    try:
        answer = httpx.get(f"{settings.api_url}{path}", params=query, headers=headers, timeout=10)
    except httpx.TransportError as error:
        raise Retryable(f"the API does not answer at {settings.api_url} ({error}); `recsys up` starts it") from error
    if answer.is_server_error:
        raise Retryable(f"the API answered {answer.status_code}: {problem(answer)}")
    if answer.is_client_error:
        raise UsageError(problem(answer))
    body: dict[str, Any] = answer.json()
    return body


def demo_key(settings: Settings) -> str:
    """The key of this machine. Raises Permanent where the API was never started."""
    path = Path(settings.storage.root) / "run" / "demo_key"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise Permanent(f"{path} does not exist: the API was never started here; `recsys up` starts it") from None


def problem(answer: httpx.Response) -> str:
    """What an answer that is an error says of it."""
    try:
        body = answer.json()
        return str(body.get("detail") or body.get("title") or body)
    except ValueError:
        return answer.text[:500]
