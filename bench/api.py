"""Load on the running API, from a process of its own: latency at fixed rates, where the time goes, the highest rate.

    .venv/bin/python -m bench.api [--rate 20] [--home-rate 30] [--seconds 60] [--search-seconds 10]

Requests start when their time has come, whether or not earlier ones have been answered (an open loop), and latency
is counted from that time; so a server that stalls pays for everybody who had to wait, and nothing is omitted. Users
follow a Zipf law over those of the lake's newest day; a fifth of the visitors is anonymous. CPU is that of the API,
both predictors and Redis together, without the load itself. One JSON line a figure.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import numpy as np
import psutil

from bench import figures
from pipelines import datasets
from recsys import local
from recsys import settings as configuration
from recsys.settings import Settings
from serving.api import auth

P99_LIMIT_MS = 100.0
GOAL_MS = 60.0
HOME_GOAL_MS = 40.0
GOAL_RATE = 80.0
CPU_GOAL_MS = 15.0
ANONYMOUS = 0.2
# Share of each surface in the traffic of a shop.
SURFACES = {"home": 0.55, "similar": 0.2, "category": 0.1, "because_you_viewed": 0.05, "cart": 0.05, "trending": 0.05}
HOME = {"home": 1.0}
ZIPF = 1.1
SERVING = ("api", "redis", "retrieval-", "ranking-")  # beginnings of the services that answer a request
TIMING = re.compile(r"([\w-]+);dur=([\d.]+)")


class Answer(NamedTuple):
    """What came back: milliseconds by stage are those of the Server-Timing header."""

    status: int
    body: bytes
    stages: dict[str, float]


@dataclass
class Outcome:
    """What came of one run: milliseconds by request and by stage, and how often each rung and status was seen."""

    latencies: list[float] = field(default_factory=list)
    stages: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
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

    async def get(self, path: str) -> Answer:
        while self._idle and self._idle[-1][0].at_eof():
            self._idle.pop()[1].close()  # the server has ended it
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
        writer.write(f"GET {path} {self._head}".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
        body = await reader.readexactly(length)
        self._idle.append((reader, writer))
        stages = {name: float(value) for name, value in TIMING.findall(head)}
        return Answer(int(head.split(" ", 2)[1]), body, stages)

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


def paths(
    users: list[str], items: list[str], categories: list[str], seed: int, shares: Mapping[str, float] = SURFACES
) -> Iterator[str]:
    """Requests without end: who and where, seeded."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(users) + 1) ** ZIPF
    order = random.permutation(len(users))
    surfaces, weight = list(shares), list(shares.values())
    while True:
        chosen = order[random.choice(len(users), size=1000, p=weights / weights.sum())]
        for user in chosen:
            surface = str(random.choice(surfaces, p=weight))
            query = {"surface": surface, "session_id": f"bench-{random.integers(10_000)}"}
            if random.random() >= ANONYMOUS:
                query["user_id"] = users[user]
            item = items[random.integers(len(items))]
            if surface == "similar":
                query["item_id"] = item
            elif surface == "cart":
                query["cart"] = item
            elif surface == "category":
                query["category"] = categories[random.integers(len(categories))]
            yield "/api/v1/recommendations?" + urlencode(query)


async def load(caller: Caller, requests: Iterator[str], rate: float, seconds: float) -> Outcome:
    """Send at a fixed rate; a failed connection counts as status 0."""
    outcome = Outcome()
    begun = time.perf_counter()

    async def one(path: str, due: float) -> None:
        try:
            answer = await caller.get(path)
        except (OSError, asyncio.IncompleteReadError):
            answer = Answer(0, b"{}", {})
        outcome.latencies.append(1000 * (time.perf_counter() - due))
        outcome.statuses[answer.status] += 1
        outcome.rungs[json.loads(answer.body).get("rung", "none")] += 1
        for stage, spent in answer.stages.items():
            outcome.stages[stage].append(spent)

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


def cpu_seconds(settings: Settings) -> float:
    """What the processes that answer requests have used so far."""
    pids = [service.pid for service in local.status(settings) if service.name.startswith(SERVING) and service.pid]
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(spent.user + spent.system for spent in times))


async def run(settings: Settings, options: argparse.Namespace) -> None:
    caller = Caller(settings.api_url, auth.demo_key_file(settings).read_text())
    answer = await caller.get("/api/v1/recommendations?surface=trending&count=100")
    if answer.status != 200:
        sys.exit(f"the API answers {answer.status}: {answer.body.decode()}")
    items = json.loads(answer.body)["items"]
    users, ids = visitors(settings), [item["item_id"] for item in items]
    categories = sorted({item["category"].split(" > ")[0] for item in items})
    mixed = paths(users, ids, categories, settings.seed)
    home = paths(users, ids, categories, settings.seed, HOME)
    await load(caller, mixed, options.rate, min(5.0, options.seconds))  # warms connections and caches, not counted
    before = cpu_seconds(settings)
    outcome = await load(caller, mixed, options.rate, options.seconds)
    spent = 1000 * (cpu_seconds(settings) - before) / max(len(outcome.latencies), 1)
    facts = {"rate": options.rate, "seconds": options.seconds, "rungs": dict(outcome.rungs)}
    facts["statuses"] = dict(outcome.statuses)
    for share, limit in ((50, None), (95, None), (99, GOAL_MS)):
        figures.report(f"api.p{share}", outcome.percentile(share), "ms", limit=limit, **facts)
    figures.report("api.cpu", spent, "ms/request", limit=CPU_GOAL_MS, rate=options.rate, surfaces=SURFACES)
    outcome = await load(caller, home, options.home_rate, options.seconds)
    facts = {"rate": options.home_rate, "seconds": options.seconds, "rungs": dict(outcome.rungs)}
    for share, limit in ((50, None), (99, HOME_GOAL_MS)):
        figures.report(f"api.home.p{share}", outcome.percentile(share), "ms", limit=limit, **facts)
    stages = {name: round(float(np.median(spent)), 2) for name, spent in sorted(outcome.stages.items())}
    figures.report("api.home.stages", stages.get("total", 0.0), "ms", rate=options.home_rate, medians=stages)
    if options.search_seconds > 0:
        highest, best = await highest_rate(caller, mixed, options.search_seconds)
        facts = {"p99_ms": round(best.percentile(99), 2), "p99_limit_ms": P99_LIMIT_MS, "rungs": dict(best.rungs)}
        figures.report("api.highest_rate", highest, "requests/s", limit=GOAL_RATE, **facts)
    await caller.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second on all surfaces")
    parser.add_argument("--home-rate", type=float, default=30.0, help="requests per second on the home page alone")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run at each rate")
    parser.add_argument("--search-seconds", type=float, default=10.0, help="length of each trial; 0: no search")
    asyncio.run(run(configuration.load(), parser.parse_args()))


if __name__ == "__main__":
    main()
