"""The load generator measures what a caller would feel."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator

import numpy as np
import pytest

from bench import api

BODY = b'{"rung": "ranked"}'


class Server:
    """Answers at once, except for one stall at the n-th request, during which everybody waits."""

    def __init__(self) -> None:
        self.stall_at, self.stall, self.seen = -1, 0.0, 0
        self.free = asyncio.Lock()
        self.connections: list[asyncio.Task[None]] = []

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                async with self.free:
                    self.seen += 1
                    if self.seen == self.stall_at:
                        await asyncio.sleep(self.stall)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
async def served() -> AsyncIterator[tuple[Server, api.Caller]]:
    server = Server()
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    caller = api.Caller(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", "key")
    yield server, caller
    await caller.close()
    listening.close()
    await asyncio.gather(*server.connections)


async def test_a_stall_is_paid_by_everybody_who_had_to_wait(served: tuple[Server, api.Caller]) -> None:
    server, caller = served
    server.stall_at, server.stall = 10, 0.5
    outcome = await api.load(caller, itertools.repeat("/"), rate=100, seconds=1)
    assert dict(outcome.statuses) == {200: 100}
    assert dict(outcome.rungs) == {"ranked": 100}
    # A closed loop would have seen one slow request; at 100 a second, half a second stalls about 50.
    assert 40 <= sum(latency > 20 for latency in outcome.latencies) <= 75
    assert max(outcome.latencies) >= 490


async def test_a_server_that_is_away_is_no_success(served: tuple[Server, api.Caller]) -> None:
    outcome = await api.load(api.Caller("http://127.0.0.1:9", "key"), itertools.repeat("/"), rate=50, seconds=0.2)
    assert not outcome.clean


def test_requests_are_the_same_for_the_same_seed_and_follow_zipf() -> None:
    users = [f"u{n}" for n in range(100)]
    first = list(itertools.islice(api.paths(users, ["i"], ["Toys"], 1), 2000))
    assert first == list(itertools.islice(api.paths(users, ["i"], ["Toys"], 1), 2000))
    seen = Counter(path.rsplit("user_id=", 1)[1].split("&")[0] for path in first if "user_id=" in path)
    counts = sorted(seen.values())
    assert counts[-1] > 5 * np.median(counts)
