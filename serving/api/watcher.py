"""The releases that serve, watched in the background and replaced as a whole.

A request takes `Watcher.current` once and keeps it, so that a switch in the middle of it changes nothing for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from models import release
from recsys.errors import RecsysError
from recsys.settings import COLOURS
from serving.api import live
from serving.api.live import LiveRelease

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
RETRY_SECONDS = 5.0


async def _nothing(found: LiveRelease) -> None:
    """For a watcher that nobody wants to hear from."""


async def _as_shipped(found: LiveRelease) -> LiveRelease:
    """For a watcher that knows no changes."""
    return found


# What may be wrong with a release on the disk.
UNUSABLE = (RecsysError, OSError, KeyError, ValueError, TypeError)


@dataclass
class Watcher:
    """Follows `live.json`, and what the other colour holds while an experiment wants it.

    Attributes:
        root: storage root.
        on_load: awaited with each release that was loaded, before it begins to serve.
        wanted: ids of the releases that variants of experiments name.
        lay: lays the changes of the catalogue over a release.
        current: what serves; None before the first release.
        standing: a wanted release that the other colour holds.
        retired: what served before, and until when it is kept, by the clock of the event loop.
        remembers: seconds that a release is kept for, once it serves no more: cursors into its pages are good.
    """

    root: Path
    on_load: Callable[[LiveRelease], Awaitable[None]] = _nothing
    wanted: Callable[[], frozenset[str]] = frozenset
    lay: Callable[[LiveRelease], Awaitable[LiveRelease]] = _as_shipped
    current: LiveRelease | None = None
    standing: LiveRelease | None = None
    retired: list[tuple[LiveRelease, float]] = field(default_factory=list)
    remembers: float = 0.0
    _stamp: tuple[int, int] = (0, 0)
    _not_before: float = 0.0
    _stand_not_before: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def refresh(self) -> bool:
        """Load the live release if it is another one; True if it is. A release that cannot be read is logged, and
        the last one keeps serving."""
        releases = release.Releases(self.root)
        async with self._lock:
            try:
                status = releases.live_file.stat()
            except FileNotFoundError:
                return False
            stamp = (status.st_mtime_ns, status.st_ino)
            clock = asyncio.get_running_loop().time()
            if stamp == self._stamp or clock < self._not_before:
                return False
            try:
                found = await asyncio.to_thread(self._load, releases)
            except UNUSABLE as error:
                log.error("the live release cannot be served, the last one stays: %s", error)
                self._not_before = clock + RETRY_SECONDS
                return False
            self._stamp = stamp
            if found is not None:
                await self.on_load(found)
                self._retire(self.current)
                self.current = await self.lay(found)
                log.info("release %s serves, colour %s", found.release_id, found.release.colour)
            return found is not None

    @property
    def serving(self) -> list[LiveRelease]:
        """The releases that a colour holds, from which a request may be answered."""
        return [found for found in (self.current, self.standing) if found is not None]

    @property
    def held(self) -> list[LiveRelease]:
        """The same, and those from which earlier pages were answered."""
        return [*self.serving, *(found for found, _ in self.retired)]

    def holding(self, release_id: str) -> LiveRelease | None:
        """A release that a colour holds; None if none does."""
        return next((found for found in self.serving if found.release_id == release_id), None)

    def remembered(self, release_id: str) -> LiveRelease | None:
        """A release that a page may have been answered from while its cursor is good; None if it is not known still."""
        return next((found for found in self.held if found.release_id == release_id), None)

    async def stand(self) -> None:
        """Load the release of the other colour if a variant names it, or let go of it. One that cannot be read is
        logged, and not held."""
        wanted, clock = self.wanted(), asyncio.get_running_loop().time()
        async with self._lock:
            if self.current is None or not wanted:
                self._retire(self.standing)
                self.standing = None
            elif clock >= self._stand_not_before:
                try:
                    found = await asyncio.to_thread(self._other, release.Releases(self.root), wanted)
                    if found is not self.standing:
                        self._retire(self.standing)
                        self.standing = None if found is None else await self.lay(found)
                except UNUSABLE as error:
                    log.error("the release of an experiment cannot be served, the live one serves: %s", error)
                    self._retire(self.standing)
                    self.standing, self._stand_not_before = None, clock + RETRY_SECONDS

    async def relay(self) -> None:
        """Lay the changes over what serves once more."""
        async with self._lock:
            if self.current is not None:
                self.current = await self.lay(self.current)
            if self.standing is not None:
                self.standing = await self.lay(self.standing)
            self.retired = [(await self.lay(found), until) for found, until in self.retired]

    async def look(self) -> None:
        """Take what is new, of either colour, and let go of what has been retired for long enough."""
        await self.refresh()
        await self.stand()
        clock, serving = asyncio.get_running_loop().time(), {found.release_id for found in self.serving}
        self.retired = [
            (found, until) for found, until in self.retired if until > clock and found.release_id not in serving
        ]

    def _retire(self, found: LiveRelease | None) -> None:
        if found is not None:
            others = [(other, until) for other, until in self.retired if other.release_id != found.release_id]
            self.retired = [*others, (found, asyncio.get_running_loop().time() + self.remembers)]

    def _load(self, releases: release.Releases) -> LiveRelease | None:
        found = releases.live()
        if found is None or (self.current is not None and found == self.current.release):
            return None
        return live.load(releases, found)

    def _other(self, releases: release.Releases, wanted: frozenset[str]) -> LiveRelease | None:
        assert self.current is not None
        serving = self.current.release.colour
        found = next((held for colour in COLOURS if colour != serving and (held := releases.candidate(colour))), None)
        if found is None or found.release_id not in wanted - {self.current.release_id}:
            return None
        if self.standing is not None and self.standing.release == found:
            return self.standing
        # A candidate listens before its deployment has tried it out; what was live has been.
        proven = any(record.release_id == found.release_id for record in releases.history())
        return live.load(releases, found) if proven else None
