"""Trending lists: from the online store, kept in memory for a while; else those that the release was shipped with."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from feature_repo import online
from models.catalogue import Ranked
from serving.api.live import LiveRelease

log = logging.getLogger(__name__)

Key = tuple[str, str]  # scope and key of a list, as in pipelines.datasets.TRENDING
GLOBAL: Key = ("global", "")
LARGEST = 10_000  # lists in memory; keys come from requests, so there has to be an end

# Reads online lists by key; None if the store does not answer.
Read = Callable[[Sequence[str]], Awaitable[Mapping[str, Ranked] | None]]


@dataclass
class Trending:
    """Lists in memory.

    Args:
        seconds: a list is read again when it is older than this. Nobody waits for that: the request that finds it
            old takes it as it is and sends for the new one; so a store that is away costs freshness only.
    """

    seconds: float
    _kept: dict[Key, tuple[float, Ranked]] = field(default_factory=dict)
    _refreshing: asyncio.Task[None] | None = None

    async def lists(self, keys: Sequence[Key], live: LiveRelease, read: Read) -> tuple[list[tuple[Key, Ranked]], bool]:
        """The lists that exist among `keys`, in that order, and whether they are the release's static ones."""
        now = time.monotonic()
        if missing := [key for key in keys if key not in self._kept]:
            await self._refresh(missing, now, read)
        stale = [key for key in keys if key in self._kept and self._kept[key][0] < now]
        if stale and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh(stale, now, read))
        found = [(key, self._kept[key][1]) for key in keys if key in self._kept]
        static = not any(ranked for _, ranked in found)
        if static:
            found = [((scope, key), live.popular.get(scope, {}).get(key, [])) for scope, key in keys]
        return [(key, ranked) for key, ranked in found if ranked], static

    async def _refresh(self, keys: Sequence[Key], now: float, read: Read) -> None:
        fresh = await read([online.trending_key(*key) for key in keys])
        if fresh is None:
            return
        if len(self._kept) > LARGEST:
            self._kept.clear()
        for key in keys:
            self._kept[key] = (now + self.seconds, fresh[online.trending_key(*key)])


def of_category(category: str) -> list[Key]:
    """The lists of a category path or of a most general category."""
    return [("category", category)] if " > " in category else [("category", category), ("top_category", category)]


def of_visitor(region: str, age_group: str) -> list[Key]:
    """What is popular where somebody is: age group and region, then region, then everywhere."""
    nearest = [("age_region", f"{age_group}|{region}")] if region and age_group else []
    return [*nearest, *([("region", region)] if region else []), GLOBAL]
