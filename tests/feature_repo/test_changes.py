"""Changes of the catalogue in a real Redis: what a reader sees, when, and what it leaves out."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from feature_repo import arms, changes, online
from feature_repo.changes import Overlay
from recsys.errors import Retryable
from recsys.settings import Settings

pytestmark = pytest.mark.services
MUG = {
    "item_id": "mug",
    "title": "Mug",
    "description": None,
    "category": "Home > Mugs",
    "tags": None,
    "brand": None,
    "price": 4.5,
    "currency": None,
    "regions": [],
    "created_at": datetime(2024, 3, 1, tzinfo=UTC),
    "available": True,
}


@pytest.fixture
def store(online_settings: Settings) -> Iterator[online.Client]:
    with online.connect(online_settings.redis_url) as client:
        yield client


def test_a_reader_takes_only_what_is_new(store: online.Client) -> None:
    before = changes.newer(store, Overlay())
    assert (before.items, before.version) == ({}, 0)
    arms.run(store, changes.put({"mug": MUG, "lamp": MUG | {"item_id": "lamp", "available": False}}))
    first = changes.newer(store, before)
    assert first.items["mug"] == MUG
    assert {item: change.available for item, change in first.changes.items()} == {"mug": True, "lamp": False}
    assert changes.newer(store, first) is first
    arms.run(store, changes.put({"mug": None}))
    second = changes.newer(store, first)
    assert second.items == {"mug": None, "lamp": first.items["lamp"]}
    assert second.changes["mug"].version == second.version > first.version
    assert second.changes["lamp"] == first.changes["lamp"]
    assert changes.newer(store, Overlay()).items == second.items, "as a process that has just started sees it"


async def test_an_asynchronous_reader_sees_the_same(store: online.Client, online_settings: Settings) -> None:
    arms.run(store, changes.put({"mug": MUG}))
    async with online.connect_async(online_settings.redis_url) as client:
        assert (await changes.newer_async(client, Overlay())).items == {"mug": MUG}


def test_many_changes_come_in_pages(store: online.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "PAGE", 10)
    version = arms.run(store, changes.put({f"i{n}": MUG | {"item_id": f"i{n}"} for n in range(25)}))
    found = changes.newer(store, Overlay())
    assert list(found.items) == [f"i{n}" for n in range(25)]
    assert found.version == version


def test_versions_go_on_after_redis_has_lost_everything(store: online.Client) -> None:
    arms.run(store, changes.put({"mug": MUG}))
    before = changes.newer(store, Overlay())
    store.flushdb()
    arms.run(store, changes.put({"lamp": MUG | {"item_id": "lamp"}}))
    assert set(changes.newer(store, before).items) == {"mug", "lamp"}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (b"{", "Expecting"),
        (b"[]", "not a JSON object"),
        (b'{"item_id": "bad"}', "missing columns"),
        (changes.encode(MUG | {"colour": "red"}), "unknown columns"),
        (changes.encode(MUG | {"title": ""}), "title is empty"),
        (changes.encode(MUG | {"price": float("nan")}), "price must be double, got nan"),
        (changes.encode(MUG | {"price": float("inf")}), "price must be double, got inf"),
        (changes.encode(MUG | {"price": 2**64}), "price must be double"),
        (changes.encode(MUG).replace(b'"Mug"', b'"\\ud800"'), "title must be string"),
        (changes.encode(MUG | {"price": "cheap"}), "cheap"),
        (changes.encode(MUG | {"created_at": 5}), "created_at must be timestamp, got 5"),
        (changes.encode(MUG | {"created_at": "noon"}), "Invalid isoformat"),
        (changes.encode(MUG | {"tags": ["tea", 5]}), "tags must be array<string>"),
        (changes.encode(MUG | {"available": 1}), "available must be boolean"),
    ],
)
def test_a_corrupt_record_is_logged_and_skipped(
    store: online.Client, caplog: pytest.LogCaptureFixture, record: bytes, fault: str
) -> None:
    arms.run(store, changes.put({"mug": MUG, "bad": MUG, "lamp": MUG | {"item_id": "lamp"}}))
    store.hset("{changes}:items", "bad", record)
    found = changes.newer(store, Overlay())
    assert list(found.items) == ["mug", "lamp"]
    assert fault in caplog.text
    assert changes.newer(store, found) is found, "and is not read again"


def aged(store: online.Client, item_id: str, days: int) -> None:
    store.zadd("{changes}:order", {item_id: int((time.time() - days * 86_400) * changes.MICRO)})


def test_a_change_stays_however_long_no_release_is_made(store: online.Client) -> None:
    arms.run(store, changes.put({"mug": None, "lamp": MUG | {"item_id": "lamp"}}))
    aged(store, "mug", 100)
    arms.run(store, changes.put({"poster": MUG | {"item_id": "poster"}}))
    assert set(changes.newer(store, Overlay()).items) == {"mug", "lamp", "poster"}


def test_what_is_forgotten_leaves_readers_too_unless_it_has_changed_since(store: online.Client) -> None:
    arms.run(store, changes.put({"mug": MUG, "lamp": None, "poster": None}))
    held = changes.newer(store, Overlay())
    versions = {item_id: change.version for item_id, change in held.changes.items()}
    arms.run(store, changes.put({"poster": MUG}))
    assert arms.run(store, changes.forget({"mug": versions["mug"], "poster": versions["poster"]})) == 1
    after = changes.newer(store, held)
    assert after.items == {"lamp": None, "poster": MUG}
    assert changes.newer(store, after) is after
    assert changes.newer(store, Overlay()).items == after.items
    assert arms.run(store, changes.forget({"mug": versions["mug"]})) == 0, "it is gone"


def test_a_vector_is_given_to_those_who_want_its_version(store: online.Client) -> None:
    vector = np.array([0.6, 0.8], np.float32)
    changes.write_vectors(store, "r1", [("mug", 7, vector), ("lamp", 8, vector)])

    def read(release: str, dim: int = 2) -> Any:
        return arms.run(store, changes.vectors(release, {"mug": 7, "lamp": 9, "poster": 1}, dim))

    assert list(read("r1")) == ["mug"]
    np.testing.assert_array_equal(read("r1")["mug"], vector)
    assert read("r2") == read("r1", dim=3) == {}
    assert store.ttl("{changes}:vectors:r1") == -1, "a release may serve for longer than any time set today"
    changes.write_vectors(store, "r2", [("mug", 7, vector)])
    changes.forget_vectors(store, {"r2", "r3"})
    assert (read("r1"), list(read("r2"))) == ({}, ["mug"])


def test_redis_away_says_so() -> None:
    with online.connect("redis://127.0.0.1:1/0") as client, pytest.raises(Retryable):
        changes.newer(client, Overlay())
