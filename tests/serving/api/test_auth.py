"""Keys and scopes."""

import json
import stat
from typing import Any

import pytest

from recsys.errors import Permanent
from recsys.settings import Settings
from serving.api import auth, followed

EVENT = {"event_id": "e", "session_id": "s", "item_id": "i", "event": "view", "event_time": "2024-02-29T12:00:00Z"}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)


def write_keys(settings: Settings, **scopes: list[str]) -> None:
    entries = [{"name": name, "sha256": auth.digest(name), "scopes": held} for name, held in scopes.items()]
    auth.write_private(auth.keys_file(settings), json.dumps({"keys": entries}))


def test_the_first_start_makes_a_key_that_only_its_owner_reads(settings: Settings) -> None:
    keys = auth.Keys(settings)
    demo = auth.demo_key_file(settings)
    for path in (demo, auth.keys_file(settings)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert demo.read_text() not in auth.keys_file(settings).read_text()
    found = keys.find(demo.read_text())
    assert found is not None
    assert found.scopes == set(auth.SCOPES)
    assert auth.Keys(settings).find(demo.read_text()) == found  # a second start keeps it


def test_a_key_is_revoked_without_a_restart(settings: Settings) -> None:
    keys = auth.Keys(settings)
    write_keys(settings, alice=[auth.READ])
    assert keys.find(auth.demo_key_file(settings).read_text()) is None
    assert keys.find("alice") == auth.Client("alice", frozenset([auth.READ]))


def test_a_broken_keys_file_stops_a_start_but_not_a_running_process(settings: Settings) -> None:
    keys = auth.Keys(settings)
    auth.keys_file(settings).write_text("{")
    assert keys.find(auth.demo_key_file(settings).read_text()) is not None
    with pytest.raises(Permanent, match="delete it"):
        auth.Keys(settings)
    write_keys(settings, alice=["everything"])
    with pytest.raises(Permanent, match="unknown scopes"):
        auth.Keys(settings)


@pytest.mark.services
@pytest.mark.parametrize(
    ("headers", "read", "write"),
    [
        ({"X-API-Key": ""}, 401, 401),
        ({"X-API-Key": "wrong"}, 401, 401),
        ({"X-API-Key": "reader"}, 200, 403),
        ({"X-API-Key": "writer"}, 403, 202),
        ({"X-API-Key": "", "Authorization": "Bearer reader"}, 200, 403),
        ({"X-API-Key": "", "Authorization": "Basic cmVhZGVy"}, 401, 401),
    ],
)
async def test_each_scope_opens_its_own_door(world: Any, headers: dict[str, str], read: int, write: int) -> None:
    write_keys(world.settings, reader=[auth.READ], writer=[auth.WRITE])
    answers = [
        await world.http.get("/api/v1/recommendations", headers=headers),
        await world.http.post("/api/v1/events", headers=headers, json=EVENT),
    ]
    assert [answer.status_code for answer in answers] == [read, write]
    for answer in answers:
        if answer.status_code in (401, 403):
            assert answer.headers["content-type"] == "application/problem+json"
            assert ("WWW-Authenticate" in answer.headers) == (answer.status_code == 401)
