"""Pages of one request: a cursor that cannot be forged, and the slate that it points into.

The first page keeps its whole slate in Redis (`page:<id>`, JSON, gone after `api.page_seconds`), so later
pages are consistent whatever was trained, bought or switched meanwhile, and never repeat an item. Nothing waits for
the write: until it is done, the slate is read from memory. Where Redis has lost it, the page is computed again from
the offset, and a note says so.

A cursor is base64url of `<id>.<offset>.<count>.<issued>.<digest of the parameters>` and an HMAC under a secret that
all API processes of an installation share.
"""

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from feature_repo import online
from recsys.settings import Settings
from serving.api import auth
from serving.api.contract import Ask, Rung
from serving.api.funnel import Shown, Slate
from serving.api.outbox import Outbox
from serving.api.problems import Problem
from serving.api.shelf import Shelf
from serving.api.trace import Exposure

FIRST = ("", "0")
MAC_BYTES = 16


@dataclass(frozen=True)
class Cursor:
    """A place in a slate."""

    slate_id: str
    offset: int
    count: int
    issued: int
    asked: str


@dataclass(frozen=True)
class Kept:
    """A slate as it was kept: with the release and the request that made it, and the experiments that it is part of."""

    release_id: str
    request_id: str
    slate: Slate
    exposures: list[Exposure] = field(default_factory=list)

    def pack(self) -> bytes:
        slate = self.slate
        head = [self.release_id, self.request_id, slate.rung, slate.degraded, slate.quality]
        items, exposures = ([list(row) for row in rows] for rows in (slate.items, self.exposures))
        return orjson.dumps([*head, items, exposures])

    @staticmethod
    def unpack(data: bytes) -> "Kept":
        """What `pack` wrote. Raises ValueError or TypeError for what another version of it wrote."""
        release_id, request_id, rung, degraded, quality, items, exposures = orjson.loads(data)
        slate = Slate(Rung(rung), [Shown(*item) for item in items], degraded, quality)
        return Kept(release_id, request_id, slate, [Exposure(*exposure) for exposure in exposures])


def asked(ask: Ask) -> str:
    """Digest of what was asked, the page aside; a cursor is good for the same question only."""
    question = ask.model_dump_json(exclude={"cursor"})
    return hashlib.sha256(question.encode()).hexdigest()[:16]


class Pages:
    """Keeps slates and checks cursors."""

    def __init__(self, settings: Settings, store: online.AsyncClient, outbox: Outbox) -> None:
        self._seconds = settings.api.page_seconds
        self._shelf = Shelf(store, outbox, "page", self._seconds, settings.api.online_deadline_ms / 1000)
        self._secret = _secret(Path(settings.storage.root) / "run" / "cursor_secret")

    def keep(self, kept: Kept) -> str:
        """Begin to keep a slate; returns its id."""
        slate_id = secrets.token_urlsafe(9)
        self._shelf.put(slate_id, kept.pack())
        return slate_id

    async def find(self, slate_id: str, left: float) -> Kept | None:
        """A kept slate; None if Redis does not have it or does not answer, in `left` seconds at the latest."""
        data = await self._shelf.get(slate_id, left)
        try:
            return None if data is None else Kept.unpack(data)
        except (ValueError, TypeError):  # kept by another version of this service, minutes ago
            return None

    def token(self, cursor: Cursor) -> str:
        parts = (cursor.slate_id, cursor.offset, cursor.count, cursor.issued, cursor.asked)
        text = ".".join(map(str, parts)).encode()
        return base64.urlsafe_b64encode(text + self._mac(text)).decode().rstrip("=")

    def read(self, ask: Ask) -> Cursor | None:
        """The cursor of a request; None for the first page.

        Raises:
            Problem: 400 for a cursor that is not ours or belongs to another question, 410 for an expired one.
        """
        if ask.cursor in FIRST:
            return None
        found = self._parse(ask.cursor)
        if found is None:
            raise Problem(400, "bad-cursor", "the cursor is not one of this service; leave it out for the first page")
        if found.asked != asked(ask):
            detail = "the cursor belongs to other parameters; repeat those of its first page, count included"
            raise Problem(400, "bad-cursor", detail)
        if found.issued + self._seconds < time.time():
            detail = f"the cursor is older than {self._seconds} s; leave it out to begin with fresh recommendations"
            raise Problem(410, "cursor-expired", detail)
        return found

    def _parse(self, token: str) -> Cursor | None:
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        text, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(text)):
            return None
        slate_id, offset, count, issued, question = text.decode().split(".")
        return Cursor(slate_id, int(offset), int(count), int(issued), question)

    def _mac(self, text: bytes) -> bytes:
        return hmac.digest(self._secret, text, "sha256")[:MAC_BYTES]


def _secret(path: Path) -> bytes:
    """The installation's secret; the first process makes it."""
    try:
        return bytes.fromhex(path.read_text())
    except FileNotFoundError:
        auth.write_private(path, secrets.token_hex(32))
        return bytes.fromhex(path.read_text())
