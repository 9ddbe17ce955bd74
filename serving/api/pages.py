"""Pages of one request: a cursor that cannot be forged, and the slate that it points into.

The first page keeps its whole slate in Redis (`page:<id>`, gone `api.page_seconds` after its last page): the pages so
far, and the candidates that later ones are laid out of. So these are consistent whatever was trained, bought or
switched meanwhile, and never repeat an item. Nothing waits for the write: until it is done, the slate is read from
memory. What Redis has lost is computed again, and a note says so. `slate:<request id>` has the id of the slate that a
request was answered from, for whoever asks about it.

A cursor is base64url of `<id>.<offset>.<count>.<issued>.<digest of the parameters>` and an HMAC under a secret that
all API processes of an installation share.
"""

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from feature_repo import online
from recsys.settings import Settings
from serving.api import auth
from serving.api.contract import Ask
from serving.api.dossiers import Dossier
from serving.api.outbox import Outbox
from serving.api.problems import Problem
from serving.api.shelf import Shelf

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


def new_id() -> str:
    """The id of a slate: nobody can guess it."""
    return secrets.token_urlsafe(9)


def asked(ask: Ask) -> str:
    """Digest of what was asked, the page aside; a cursor is good for the same question only."""
    question = ask.model_dump_json(exclude={"cursor"})
    return hashlib.sha256(question.encode()).hexdigest()[:16]


class Pages:
    """Keeps slates and checks cursors."""

    def __init__(self, settings: Settings, store: online.AsyncClient, outbox: Outbox) -> None:
        self._seconds, explained = settings.api.page_seconds, settings.api.explain_seconds
        self._slates = Shelf(store, outbox, "page", max(self._seconds, explained))
        self._requests = Shelf(store, outbox, "slate", explained)
        self._secret = _secret(Path(settings.storage.root) / "run" / "cursor_secret")

    def keep(self, slate_id: str, dossier: Dossier) -> None:
        """Begin to keep a slate, in place of what was kept of it."""
        self._slates.put(slate_id, dossier.pack())

    def answered(self, request_id: str, slate_id: str) -> None:
        """Begin to keep from which slate a request was answered; a caller may send one id with every page."""
        self._requests.put(request_id, slate_id.encode())

    async def find(self, slate_id: str, within: float) -> Dossier | None:
        """A kept slate; None if Redis does not have it or does not answer in so many seconds."""
        data = await self._slates.get(slate_id, within)
        return None if data is None else Dossier.unpack(data)

    async def behind(self, request_id: str, within: float) -> Dossier | None:
        """The slate that a request was answered from; None as for `find`, each of two reads within so many seconds."""
        slate_id = await self._requests.get(request_id, within)
        return None if slate_id is None else await self.find(slate_id.decode(), within)

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
