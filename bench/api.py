"""Load on the running API, from a process of its own: latency at a fixed rate, then the highest rate that keeps p99.

    .venv/bin/python -m bench.api [--rate 20] [--seconds 60] [--search-seconds 10]

Requests start when their time has come, whether or not earlier ones have been answered (an open loop), and latency
is counted from that time; so a server that stalls pays for everybody who had to wait, and nothing is omitted. Users
follow a Zipf law over those of the lake's newest day; a fifth of the visitors is anonymous. One JSON line a figure.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

import numpy as np

from bench import figures
from pipelines import datasets
from recsys import settings as configuration
from recsys.settings import Settings
from serving.api import auth

P99_LIMIT_MS = 100.0
GOAL_MS = 60.0
GOAL_RATE = 80.0
ANONYMOUS = 0.2
# Share of each surface in the traffic of a shop.
SURFACES = {"home": 0.7, "similar": 0.2, "trending": 0.1}
ZIPF = 1.1


@dataclass
class Outcome:
    """What came of one run: milliseconds by request, and how often each rung and status was seen."""

    latencies: list[float] = field(default_factory=list)
    rungs: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.latencies, share)) if self.latencies else float("inf")

    @property
    def clean(self) -> bool:
        """Every answer was 200."""
        return set(self.statuses) == {200}


class Caller:
    """A minimal HTTP/1.1 client with kept connections: about 0.1 ms of CPU a request, so that on a small machine the
    load does not measure itself."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = f"HTTP/1.1\r\nHost: {self._host}\r\nX-API-Key: {key}\r\n\r\n"
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str) -> tuple[int, bytes]:
        while self._idle and self._idle[-1][0].at_eof():
            self._idle.pop()[1].close()  # the server has ended it
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
        writer.write(f"GET {path} {self._head}".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
        body = await reader.readexactly(length)
        self._idle.append((reader, writer))
        return int(head.split(" ", 2)[1]), body

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()


def visitors(settings: Settings) -> list[str]:
    """User ids of the newest day of the lake."""
    lake = datasets.lake(settings)
    days = lake.days(datasets.USERS)
    if not days:
        sys.exit("the lake has no users; run the daily pipeline first (`make run`)")
    found: list[str] = lake.read(datasets.USERS, days[-1], ["user_id"]).column("user_id").to_pylist()
    return found


def paths(users: list[str], items: list[str], seed: int) -> Iterator[str]:
    """Requests without end: who and where, seeded."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(users) + 1) ** ZIPF
    order = random.permutation(len(users))
    surfaces, shares = list(SURFACES), list(SURFACES.values())
    while True:
        chosen = order[random.choice(len(users), size=1000, p=weights / weights.sum())]
        for user in chosen:
            surface = str(random.choice(surfaces, p=shares))
            query = {"surface": surface, "session_id": f"bench-{random.integers(10_000)}"}
            if random.random() >= ANONYMOUS:
                query["user_id"] = users[user]
            if surface == "similar":
                query["item_id"] = items[random.integers(len(items))]
            yield "/api/v1/recommendations?" + urlencode(query)


async def load(caller: Caller, requests: Iterator[str], rate: float, seconds: float) -> Outcome:
    """Send at a fixed rate; a failed connection counts as status 0."""
    outcome = Outcome()
    begun = time.perf_counter()

    async def one(path: str, due: float) -> None:
        try:
            status, body = await caller.get(path)
        except (OSError, asyncio.IncompleteReadError):
            status, body = 0, b"{}"
        outcome.latencies.append(1000 * (time.perf_counter() - due))
        outcome.statuses[status] += 1
        outcome.rungs[json.loads(body).get("rung", "none")] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = begun + number / rate
            path = next(requests)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(path, due))
    return outcome


async def highest_rate(caller: Caller, requests: Iterator[str], seconds: float) -> tuple[float, Outcome]:
    """The highest rate whose p99 stays under the limit: doubled until it does not, then halved in three steps."""
    good, best, bad = 0.0, Outcome(), 10.0
    while bad <= 2_000:
        outcome = await load(caller, requests, bad, seconds)
        if not outcome.clean or outcome.percentile(99) >= P99_LIMIT_MS:
            break
        good, best, bad = bad, outcome, 2 * bad
    for _ in range(3):
        middle = (good + bad) / 2
        outcome = await load(caller, requests, middle, seconds)
        if outcome.clean and outcome.percentile(99) < P99_LIMIT_MS:
            good, best = middle, outcome
        else:
            bad = middle
    return good, best


async def run(settings: Settings, rate: float, seconds: float, search_seconds: float) -> None:
    caller = Caller(settings.api_url, auth.demo_key_file(settings).read_text())
    status, body = await caller.get("/api/v1/recommendations?surface=trending&count=100")
    if status != 200:
        sys.exit(f"the API answers {status}: {body.decode()}")
    items = [item["item_id"] for item in json.loads(body)["items"]]
    requests = paths(visitors(settings), items, settings.seed)
    await load(caller, requests, rate, min(5.0, seconds))  # warms connections and caches, not counted
    outcome = await load(caller, requests, rate, seconds)
    facts = {"rate": rate, "seconds": seconds, "rungs": dict(outcome.rungs), "statuses": dict(outcome.statuses)}
    for share, limit in ((50, None), (95, None), (99, GOAL_MS)):
        figures.report(f"api.p{share}", outcome.percentile(share), "ms", limit=limit, **facts)
    if search_seconds > 0:
        highest, best = await highest_rate(caller, requests, search_seconds)
        facts = {"p99_ms": round(best.percentile(99), 2), "p99_limit_ms": P99_LIMIT_MS, "rungs": dict(best.rungs)}
        figures.report("api.highest_rate", highest, "requests/s", limit=GOAL_RATE, **facts)
    await caller.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run at that rate")
    parser.add_argument("--search-seconds", type=float, default=10.0, help="length of each trial; 0: no search")
    options = parser.parse_args()
    asyncio.run(run(configuration.load(), options.rate, options.seconds, options.search_seconds))


if __name__ == "__main__":
    main()
