"""How often a client may ask: the generic cell rate algorithm, in Redis for all API processes together.

GCRA (ITU-T I.371) keeps one number for each client, the time at which its quota is whole again (`limit:<client>`,
microseconds): a request moves it on by one interval, and is refused if that is further ahead than the burst allows. So
there is no window at whose edge twice as much passes, and one script does it in one round trip.

A limit must not take the service down: while Redis is away or late, requests pass, and
`recsys_api_falls_total{stage="limit"}` counts them.
"""

import asyncio
import math
from collections.abc import Mapping

import redis

from feature_repo import online
from serving.api.breaker import Breaker
from serving.api.metrics import Metrics
from serving.api.problems import Problem

# A healthy Redis answers in 0.3 ms; the rest is for an event loop that is busy with something else.
DEADLINE = 0.02  # seconds

# Returns microseconds to wait (0: allowed) and until the quota is whole. %.0f because Lua writes 14 digits by itself.
SCRIPT = """
local clock = redis.call("TIME")
local now = clock[1] * 1000000 + clock[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local whole = math.max(tonumber(redis.call("GET", KEYS[1]) or now), now)
local wait = whole + interval - burst - now
if wait > 0 then
  return {math.ceil(wait), whole - now}
end
redis.call("SET", KEYS[1], string.format("%.0f", whole + interval), "PX", math.ceil((whole + interval - now) / 1000))
return {0, whole + interval - now}
"""


class Limits:
    """The quotas of all clients.

    Args:
        store: the online store.
        burst_seconds: requests of so many seconds may come at once.
        metrics: where requests are counted that nobody counted.
    """

    def __init__(self, store: online.AsyncClient, burst_seconds: float, metrics: Metrics) -> None:
        self._script = store.register_script(SCRIPT)
        self._burst_seconds, self._metrics = burst_seconds, metrics
        self._breaker = Breaker("the count of requests in Redis")

    async def take(self, client: str, rate: float) -> Mapping[str, str]:
        """Count one request of a client that may make `rate` a second (0: any number), and say what is left, as
        headers (draft-ietf-httpapi-ratelimit-headers).

        Raises:
            Problem: 429 if it is one too many.
        """
        if not rate:
            return {}
        burst = max(1, int(rate * self._burst_seconds))
        interval = 1_000_000 / rate
        answer = await self._ask(client, interval, burst * interval)
        if answer is None:
            return {}
        wait, whole = answer
        left = int((burst * interval - whole) / interval)
        headers = {
            "RateLimit-Policy": f'"default";q={burst};w={math.ceil(burst / rate)}',
            "RateLimit": f'"default";r={left};t={math.ceil(whole / 1_000_000)}',
        }
        if wait:
            seconds = math.ceil(wait / 1_000_000)
            detail = f"at most {rate:g} requests a second, {burst} at once; come again after {seconds} s"
            raise Problem(429, "too-many-requests", detail, retry_after=seconds, headers=headers)
        return headers

    async def _ask(self, client: str, interval: float, burst: float) -> tuple[int, int] | None:
        """Microseconds to wait and until the quota is whole; None where Redis does not say."""
        if not self._breaker.allows():
            self._metrics.falls.labels("limit", "open").inc()
            return None
        try:
            async with asyncio.timeout(DEADLINE):
                wait, whole = await self._script(keys=[f"limit:{client}"], args=[interval, burst])
        except (redis.RedisError, OSError) as error:  # TimeoutError is an OSError
            why = "late" if isinstance(error, TimeoutError) else "down"
            self._breaker.failed(why)
            self._metrics.falls.labels("limit", why).inc()
            return None
        self._breaker.succeeded()
        return wait, whole
