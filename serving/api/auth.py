"""API keys and their scopes.

The keys file holds SHA-256 digests, never keys: a key is 256 random bits, so a slow hash would add nothing. A first
start makes one local key with every scope and leaves it, readable by the owner alone, where the command line and
the simulator find it. The file is read again when it changes, so that a key is revoked without a restart.
"""

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from recsys.errors import Permanent
from recsys.settings import Settings
from serving.api.problems import Problem

log = logging.getLogger(__name__)

RECHECK_SECONDS = 1.0
READ, WRITE = "recommend:read", "events:write"
SCOPES: Mapping[str, str] = {READ: "read recommendations", WRITE: "send events"}

header_key = APIKeyHeader(name="X-API-Key", auto_error=False, description="an API key")
bearer_key = HTTPBearer(auto_error=False, description="the same API key as a bearer token")


@dataclass(frozen=True)
class Client:
    """Who calls: the name of the key and what it may do."""

    name: str
    scopes: frozenset[str]


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
    """The keys of an installation, looked up by digest.

    Raises:
        Permanent: the file cannot be read at start; a later unreadable version is logged and the last one stays.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = keys_file(settings)
        if not self._path.exists():
            _first_key(self._path, demo_key_file(settings))
        self._stamp = -1
        self._checked = 0.0
        self._clients: Mapping[str, Client] = {}
        self._read()

    def find(self, key: str) -> Client | None:
        """The client of a key, or None; a change of the file is seen within `RECHECK_SECONDS`."""
        if time.monotonic() - self._checked >= RECHECK_SECONDS:
            self._checked = time.monotonic()
            try:
                self._read()
            except (OSError, Permanent) as error:
                log.error("%s; the keys stay as they were", error)
        return self._clients.get(digest(key))

    def _read(self) -> None:
        stamp = self._path.stat().st_mtime_ns
        if stamp == self._stamp:
            return
        try:
            entries = json.loads(self._path.read_text())["keys"]
            found = {e["sha256"]: Client(e["name"], frozenset(e["scopes"])) for e in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise Permanent(f"{self._path} is no keys file ({error!r}); delete it to have one made") from error
        if unknown := {scope for client in found.values() for scope in client.scopes} - set(SCOPES):
            raise Permanent(f"{self._path}: unknown scopes {sorted(unknown)}; there are {sorted(SCOPES)}")
        self._clients, self._stamp = found, stamp


def _first_key(path: Path, demo: Path) -> None:
    key = secrets.token_urlsafe(32)
    entry = {"name": "local", "sha256": digest(key), "scopes": sorted(SCOPES)}
    write_private(demo, key)
    write_private(path, json.dumps({"keys": [entry]}, indent=1))
    log.info("made a local API key with every scope; it is in %s", demo)


def requires(scope: str) -> Callable[..., Coroutine[Any, Any, Client]]:
    """A dependency that lets a request through if its key has the scope."""

    async def check(
        request: Request,
        key: Annotated[str | None, Depends(header_key)] = None,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_key)] = None,
    ) -> Client:
        given = key or (bearer.credentials if bearer else "")
        challenge = {"WWW-Authenticate": 'Bearer realm="recsys"'}
        if not given:
            detail = "send an API key as `X-API-Key: …` or `Authorization: Bearer …`; the local one is in run/demo_key"
            raise Problem(401, "no-key", detail, headers=challenge)
        client = request.app.state.keys.find(given)
        if client is None:
            raise Problem(401, "unknown-key", "this API key is not known or was revoked", headers=challenge)
        if scope not in client.scopes:
            held = ", ".join(sorted(client.scopes)) or "none"
            raise Problem(403, "scope-missing", f"key {client.name!r} lacks the scope {scope}; it has {held}")
        return client  # type: ignore[no-any-return]

    return check
