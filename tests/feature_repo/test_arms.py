"""What exploration learns and whom it showed what, against a real Redis."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from feature_repo import arms, online
from recsys.errors import Retryable
from recsys.settings import Settings

DAY = 86_400.0
NOW = 1_000 * DAY
WEEK = 7 * DAY
GRAM, MOMENT = np.array([[4.0, 1.0], [1.0, 2.0]]), np.array([3.0, -1.0])


@pytest.fixture
def client(online_settings: Settings) -> Iterator[online.Client]:
    with online.connect(online_settings.redis_url, online.WRITE_TIMEOUT) as client:
        yield client


def read(client: online.Client, *items: str, now: float = NOW) -> list[tuple[float, float, float]]:
    """Per item: successes, failures, age in days."""
    found = arms.run(client, arms.counts(items, now))
    return list(zip(found.successes, found.failures, found.age / DAY, strict=True))


@pytest.mark.services
def test_counts_add_up_and_halve_in_a_week(client: online.Client) -> None:
    assert arms.run(client, arms.add_counts("b1", {"mug": (8, 2), "cup": (4, 0)}, NOW - 14 * DAY, WEEK))
    assert arms.run(client, arms.add_counts("b2", {"mug": (1, 1)}, NOW - 7 * DAY, WEEK))
    mug, cup, new = read(client, "mug", "cup", "new")
    assert mug == (2, 3, 7), "half of 2 and of 6, and one more success"
    assert cup == (0, 4, 14), "not touched, so older, and decayed by the reader"
    assert new[:2] == (0, 0)
    assert read(client) == []


@pytest.mark.services
def test_a_batch_counts_once_however_often_it_is_sent(client: online.Client) -> None:
    call = arms.add_counts("b1", {"mug": (8, 2)}, NOW, WEEK)
    assert [arms.run(client, call) for _ in range(3)] == [True, False, False]
    assert read(client, "mug") == [(2, 6, 0)]
    learnt = arms.add_statistics("v1", "b1", GRAM, MOMENT, NOW, WEEK)
    assert [arms.run(client, learnt) for _ in range(2)] == [True, False]
    found = arms.run(client, arms.statistics("v1", NOW))
    assert found is not None
    assert found.gram.tolist() == GRAM.tolist()


@pytest.mark.services
@hypothesis(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations([(0.0, 8.0, 2.0), (3.0, 5.0, 5.0), (10.0, 1.0, 0.0), (10.0, 2.0, 1.0)]))
def test_the_order_of_updates_does_not_matter(client: online.Client, batches: list[tuple[float, float, float]]) -> None:
    client.flushall()
    for number, (day, trials, successes) in enumerate(batches):
        arms.run(client, arms.add_counts(f"b{number}", {"mug": (trials, successes)}, NOW + day * DAY, WEEK))
    kept = 0.5 ** ((10 - np.array([0, 3, 10, 10])) / 7)
    won, lost = kept @ [2, 5, 0, 1], kept @ [6, 0, 1, 1]
    assert read(client, "mug", now=NOW + 10 * DAY) == [pytest.approx((won, lost, 0))]


@pytest.mark.services
def test_concurrent_updates_lose_nothing(client: online.Client) -> None:
    def add(number: int) -> None:
        with online.connect(_url(client), online.WRITE_TIMEOUT) as own:
            arms.run(own, arms.add_counts(f"b{number}", {"mug": (2, 1)}, NOW, WEEK))
            arms.run(own, arms.add_statistics("v1", f"b{number}", GRAM, MOMENT, NOW, WEEK))

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(add, range(100)))
    assert read(client, "mug") == [(100, 100, 0)]
    found = arms.run(client, arms.statistics("v1", NOW))
    assert found is not None
    assert found.gram.tolist() == (100 * GRAM).tolist()


@pytest.mark.services
def test_more_successes_than_trials_are_no_negative_failures(client: online.Client) -> None:
    arms.run(client, arms.add_counts("b1", {"mug": (0, 3)}, NOW, WEEK))
    assert read(client, "mug") == [(3, 0, 0)]


@pytest.mark.services
def test_what_is_said_against_an_item_is_taken_off_its_successes_and_then_counts_as_failures(
    client: online.Client,
) -> None:
    arms.run(client, arms.add_counts("b1", {"mug": (4, 2), "cup": (1, 0)}, NOW, WEEK))
    arms.run(client, arms.add_counts("b2", {"mug": (0, -1), "cup": (0, -1)}, NOW, WEEK))
    assert read(client, "mug", "cup") == [(1, 3, 0), (0, 2, 0)]


@pytest.mark.services
def test_statistics_add_up_and_halve_in_a_week(client: online.Client) -> None:
    assert arms.run(client, arms.statistics("v1", NOW)) is None
    arms.run(client, arms.add_statistics("v1", "b1", GRAM, MOMENT, NOW - 10 * DAY, WEEK))
    arms.run(client, arms.add_statistics("v1", "b2", np.eye(2), np.ones(2), NOW - 3 * DAY, WEEK))
    found = arms.run(client, arms.statistics("v1", NOW))
    assert found is not None
    assert found.gram.tolist() == [[3, 0.5], [0.5, 2]]
    assert found.moment.tolist() == [2.5, 0.5]
    assert found.age == 3 * DAY
    assert arms.run(client, arms.statistics("v2", NOW)) is None


@pytest.mark.services
def test_statistics_are_kept_to_the_last_bit(client: online.Client) -> None:
    odd = np.array([1 / 3, np.pi, -1e-300])
    arms.run(client, arms.add_statistics("v1", "b1", np.outer(odd, odd), odd, NOW, WEEK))
    arms.run(client, arms.add_statistics("v1", "b2", np.outer(odd, odd), odd, NOW, WEEK))
    found = arms.run(client, arms.statistics("v1", NOW))
    assert found is not None
    assert found.gram.tobytes() == (2 * np.outer(odd, odd)).tobytes()
    assert found.moment.tobytes() == (2 * odd).tobytes()


@pytest.mark.services
def test_other_features_need_another_name(client: online.Client) -> None:
    arms.run(client, arms.add_statistics("v1", "b1", GRAM, MOMENT, NOW, WEEK))
    with pytest.raises(ValueError, match="v1 keeps 7 numbers and not 13; new features need a new name"):
        arms.run(client, arms.add_statistics("v1", "b2", np.eye(3), np.ones(3), NOW, WEEK))
    assert arms.run(client, arms.add_statistics("v1", "b2", GRAM, MOMENT, NOW, WEEK)), "what was refused is no batch"


@pytest.mark.services
def test_an_item_is_released_at_its_guarantee_and_never_comes_back(client: online.Client) -> None:
    def shown(visitor: str, *items: str) -> list[bool]:
        return arms.run(client, arms.expose(items, visitor, limit=2))

    def lacking() -> dict[str, int]:
        return arms.run(client, arms.under_exposed(["mug", "cup"], limit=2))

    assert lacking() == {"mug": 0, "cup": 0}
    assert shown("ann", "mug", "cup") == [True, True]
    assert shown("ann", "mug") == [True], "counted already, and not again"
    assert lacking() == {"mug": 1, "cup": 1}
    assert shown("bob", "mug") == [True], "the last of the guarantee"
    assert lacking() == {"cup": 1}
    assert shown("eve", "mug", "cup") == [False, True]
    assert shown("ann", "mug") == [False]
    assert lacking() == {}
    assert client.smembers("{arms}:released") == {b"mug", b"cup"}
    assert not client.keys("{arms}:visitors:*"), "whom it was shown to is forgotten"
    assert shown("eve") == []


@pytest.mark.services
def test_a_smaller_guarantee_releases_what_has_reached_it(client: online.Client) -> None:
    for visitor in ("ann", "bob", "eve"):
        arms.run(client, arms.expose(["mug"], visitor, limit=10))
    assert arms.run(client, arms.under_exposed(["mug"], limit=2)) == {}
    assert arms.run(client, arms.expose(["mug"], "dan", limit=2)) == [False]
    assert arms.run(client, arms.under_exposed(["mug"], limit=10)) == {}


@pytest.mark.services
def test_fifty_clients_at_once_reach_the_guarantee_exactly(client: online.Client) -> None:
    limit, clients, each = 100, 50, 6
    start = threading.Barrier(clients)

    def visit(number: int) -> tuple[int, int]:
        """How many of this client's own visitors counted, and the highest count that it saw."""
        with online.connect(_url(client), online.WRITE_TIMEOUT) as own:
            start.wait()
            counted = highest = 0
            for visitor in range(each):
                answers = [arms.run(own, arms.expose(["mug"], f"{number}-{visitor}", limit))[0] for _ in range(2)]
                counted += answers[0]
                highest = max(highest, *arms.run(own, arms.under_exposed(["mug"], limit + 50)).values(), 0)
            return counted, highest

    with ThreadPoolExecutor(clients) as pool:
        seen = list(pool.map(visit, range(clients)))
    assert sum(counted for counted, _ in seen) == limit, f"of {clients * each} visitors"
    assert max(highest for _, highest in seen) < limit, "at the guarantee the item is gone"
    assert client.sismember("{arms}:released", "mug")


@pytest.mark.services
async def test_the_asynchronous_calls_agree(client: online.Client, online_settings: Settings) -> None:
    async with online.connect_async(online_settings.redis_url, online.WRITE_TIMEOUT) as other:
        assert await arms.run_async(other, arms.add_counts("b1", {"mug": (3, 1)}, NOW, WEEK))
        assert (await arms.run_async(other, arms.counts([], NOW))).age.size == 0
        assert await arms.run_async(other, arms.expose(["mug"], "ann")) == [True]
    assert read(client, "mug") == [(1, 2, 0)]
    assert arms.run(client, arms.under_exposed(["mug"])) == {"mug": 1}


@pytest.mark.services
def test_redis_forgets_what_has_faded_and_whom_nobody_was_shown_to(client: online.Client) -> None:
    arms.run(client, arms.add_counts("b1", {"mug": (1, 0)}, NOW, WEEK))
    arms.run(client, arms.add_statistics("v1", "b1", GRAM, MOMENT, NOW, WEEK))
    arms.run(client, arms.expose(["mug"], "ann"))
    kept = {key.decode(): round(client.ttl(key) / DAY) for key in client.keys("*")}
    assert kept == {
        "{arms}:counts:mug": 140,
        "{arms}:linear:v1": 140,
        "{arms}:batch:counts:b1": 1,
        "{arms}:batch:linear:v1:b1": 1,
        "{arms}:visitors:mug": 90,
    }


@pytest.mark.services
def test_all_of_it_survives_a_restart(redis_url: str, port_block: Callable[[], int], tmp_path: Path) -> None:
    port = port_block()
    with _server(port, tmp_path) as client:
        arms.run(client, arms.add_counts("b1", {"mug": (8, 2)}, NOW, WEEK))
        arms.run(client, arms.add_statistics("v1", "b1", GRAM, MOMENT, NOW, WEEK))
        for visitor in ("ann", "bob"):
            arms.run(client, arms.expose(["mug", "cup"][: 1 + (visitor == "ann")], visitor, limit=2))
    with _server(port, tmp_path) as client:
        assert read(client, "mug") == [(2, 6, 0)]
        assert not arms.run(client, arms.add_counts("b1", {"mug": (8, 2)}, NOW, WEEK)), "known from before"
        found = arms.run(client, arms.statistics("v1", NOW))
        assert found is not None
        assert found.moment.tolist() == MOMENT.tolist()
        assert arms.run(client, arms.under_exposed(["mug", "cup"], limit=2)) == {"cup": 1}
        assert arms.run(client, arms.expose(["mug", "cup"], "ann", limit=2)) == [False, True]


@contextmanager
def _server(port: int, folder: Path) -> Iterator[online.Client]:
    """A Redis that writes each command to its append-only file, and is killed at the end."""
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command = ["redis-server", *options, "--appendonly", "yes", "--appendfsync", "always"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert any("Ready to accept connections" in line for line in server.stdout)
            with online.connect(f"redis://127.0.0.1:{port}/0", online.WRITE_TIMEOUT) as client:
                yield client
        finally:
            server.kill()


def _url(client: online.Client) -> str:
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"


async def test_a_missing_redis_is_retryable(settings: Settings) -> None:
    with online.connect(settings.redis_url) as client, pytest.raises(Retryable, match="is Redis up"):
        arms.run(client, arms.expose(["mug"], "ann"))
    async with online.connect_async(settings.redis_url) as other:
        with pytest.raises(Retryable, match="is Redis up"):
            await arms.run_async(other, arms.counts(["mug"], NOW))


def test_a_redis_that_hangs_is_given_up(hanging_url: str) -> None:
    with online.connect(hanging_url) as client, pytest.raises(Retryable, match="Timeout"):
        arms.run(client, arms.under_exposed(["mug"]))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: arms.add_counts("b", {"cup": (1, -1), "mug": (-1, 1)}, NOW, WEEK), r"got \(-1, 1\) for mug"),
        (lambda: arms.add_counts("b", {"mug": (np.nan, 0)}, NOW, WEEK), r"got \(nan, 0\) for mug"),
        (lambda: arms.add_counts("b", {"mug": (1, 0)}, -1, WEEK), "at must be epoch seconds, got -1"),
        (lambda: arms.add_counts("b", {"mug": (1, 0)}, NOW, 0), "half_life must be above 0, got 0"),
        (lambda: arms.add_statistics("v1", "b", GRAM, np.ones(3), NOW, WEEK), r"got \(2, 2\) and \(3,\)"),
        (lambda: arms.add_statistics("v1", "b", GRAM * np.nan, MOMENT, NOW, WEEK), "give finite gram"),
        (lambda: arms.expose(["mug"], "ann", limit=0), "limit must be above 0, got 0"),
        (lambda: arms.under_exposed(["mug"], limit=-1), "limit must be above 0, got -1"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
