"""Who calls, and what they may do: API keys of services, tokens of users.

The keys file holds SHA-256 digests, never keys: a key is 256 random bits, so a slow hash would add nothing. A first
start makes one local key with every scope and leaves it, readable by the owner alone, where the command line and
the simulator find it. A key acts for any user, a token (`tokens`) for the one whom it names.
"""

import hashlib
import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.datastructures import State

from recsys.settings import Settings
from serving.api import followed, tokens
from serving.api.contract import Ask
from serving.api.problems import Problem

log = logging.getLogger(__name__)

READ, WRITE, CATALOGUE = "recommend:read", "events:write", "catalogue:write"
SCOPES: Mapping[str, str] = {READ: "read recommendations", WRITE: "send events", CATALOGUE: "change items"}

header_key = APIKeyHeader(name="X-API-Key", auto_error=False, description="an API key")
bearer_key = HTTPBearer(auto_error=False, description="a user's token (JWT), or an API key")


@dataclass(frozen=True)
class Client:
    """Who calls.

    Attributes:
        name: of the key, or of the user whom a token names; they are counted apart.
        scopes: what may be done.
        user_id: the only user to act for; empty: any.
        rate: requests a second; 0: no limit.
    """

    name: str
    scopes: frozenset[str]
    user_id: str = ""
    rate: float = 0.0

    def may_name(self, user_id: str | None) -> bool:
        return not (self.user_id and user_id) or user_id == self.user_id


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def keys_file(settings: Settings) -> Path:
    return Path(settings.api.keys_file or Path(settings.storage.root) / "run" / "api_keys.json")


def demo_key_file(settings: Settings) -> Path:
    """The key that the first start made, for the local command line."""
    return Path(settings.storage.root) / "run" / "demo_key"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, never a moment otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    work.replace(path)


class Keys:
    """The keys of an installation, looked up by digest. Raises Permanent if the file cannot be used at start."""

    def __init__(self, settings: Settings) -> None:
        path, self._rate = keys_file(settings), settings.api.key_rate
        if not path.exists():
            _first_key(path, demo_key_file(settings))
        self._file = followed.File(path, self._clients)

    def find(self, key: str) -> Client | None:
        """The client of a key, or None."""
        return self._file.value.get(digest(key))

    def _clients(self, data: bytes) -> Mapping[str, Client]:
        try:
            found = {entry["sha256"]: self._client(entry) for entry in json.loads(data)["keys"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"no keys file ({error!r}); delete it to have one made") from error
        if unknown := {scope for client in found.values() for scope in client.scopes} - set(SCOPES):
            raise ValueError(f"unknown scopes {sorted(unknown)}; there are {sorted(SCOPES)}")
        for client in found.values():
            if not 0 <= client.rate < math.inf:
                raise ValueError(f"the rate of {client.name!r} must be requests a second, 0 for no limit")
        return found

    def _client(self, entry: Mapping[str, Any]) -> Client:
        return Client(entry["name"], frozenset(entry["scopes"]), rate=float(entry.get("rate", self._rate)))


def _first_key(path: Path, demo: Path) -> None:
    key = secrets.token_urlsafe(32)
    entry = {"name": "local", "sha256": digest(key), "scopes": sorted(SCOPES)}
    write_private(demo, key)
    write_private(path, json.dumps({"keys": [entry]}, indent=1))
    log.info("made a local API key with every scope; it is in %s", demo)


def requires(scope: str) -> Callable[..., Coroutine[Any, Any, Client]]:
    """A dependency that lets a request through if its key or token has the scope and is within its rate."""

    async def check(
        request: Request,
        key: Annotated[str | None, Depends(header_key)] = None,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_key)] = None,
    ) -> Client:
        client = _client(request.app.state, key or "", bearer.credentials if bearer else "")
        await admit(request, client, scope)
        return client

    return check


async def admit(request: Request, client: Client, scope: str) -> None:
    """Let a known client through. Raises Problem 403 if the scope is missing, 429 if the rate is used up."""
    if scope not in client.scopes:
        held = ", ".join(sorted(client.scopes)) or "none"
        who = "this token" if client.user_id else f"key {client.name!r}"
        raise Problem(403, "scope-missing", f"{who} lacks the scope {scope}; it has {held}")
    kind = "user" if client.user_id else "key"
    request.scope["quota"] = await request.app.state.parts.limits.take(f"{kind}:{client.name}", client.rate)


may_read, may_write, may_change = requires(READ), requires(WRITE), requires(CATALOGUE)


async def ask(client: Annotated[Client, Depends(may_read)], query: Annotated[Ask, Query()]) -> Ask:
    """A dependency: what is asked; a token's request without a user is about its own. Raises Problem 403."""
    if not client.may_name(query.user_id):
        raise other_user("user_id")
    return query if query.user_id or not client.user_id else query.model_copy(update={"user_id": client.user_id})


def other_user(place: str, **extra: Any) -> Problem:
    """A token was used for somebody else."""
    detail = f"{place}: this token acts for one user alone, and another is named; leave it out, or use an API key"
    return Problem(403, "other-user", detail, **extra)


def _client(state: State, key: str, bearer: str) -> Client:
    """Who sent a key or a token. Raises Problem 401."""
    if not (key or bearer):
        raise _unknown(
            "no-key",
            "send a key as `X-API-Key: …` (the local one is in run/demo_key) or a token as `Authorization: Bearer …`",
        )
    known: Client | None = state.keys.find(key or bearer)
    if known:
        return known
    if key or not state.tokens.configured:
        raise _unknown("unknown-key", "this API key is not known or was revoked", "invalid_token")
    try:
        grant = state.tokens.read(bearer)
    except tokens.Refused as error:
        raise _unknown("bad-token", f"the token is not accepted: {error}", "invalid_token") from error
    return Client(grant.user_id, grant.scopes, grant.user_id, state.tokens.rate)


def _unknown(kind: str, detail: str, error: str = "") -> Problem:
    """401 with the challenge of RFC 6750, section 3: the error is named only where credentials were sent."""
    named = f', error="{error}", error_description="{detail}"' if error else ""
    return Problem(401, kind, detail, headers={"WWW-Authenticate": f'Bearer realm="recsys"{named}'})
