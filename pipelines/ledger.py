"""The writing side of `models.release`: candidates, the switch, the history, and who may touch them.

The switch is one rename of `live.json`, and that record alone is the truth: it says itself when and why it went
live. The history is written after it. A crash between the two leaves a switch that is not in the file yet, which
`Releases.history` shows all the same and the next holder of the lock writes down; the other order would leave a
line about a switch that never was, and an append-only file keeps such a line for ever.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from models.release import Reference, Release, ReleaseId, Releases
from recsys import bus
from recsys.errors import Retryable, UsageError
from recsys.settings import Colour

log = logging.getLogger(__name__)


def other(colour: Colour) -> Colour:
    return "green" if colour == "blue" else "blue"


@dataclass(frozen=True)
class Ledger:
    """The release files, for the one process that holds their lock."""

    root: Path

    @property
    def releases(self) -> Releases:
        return Releases(self.root)

    @property
    def idle(self) -> Colour:
        """The colour that does not serve."""
        live = self.releases.live()
        return "blue" if live is None else other(live.colour)

    def offer(self, release: Release) -> None:
        """Make a release the one that its colour loads when it starts."""
        live = self.releases.live()
        if live is not None and live.colour == release.colour:
            raise ValueError(f"{release.colour} serves release {live.release_id}; a candidate goes to the idle colour")
        _replace(self.releases.candidate_file(release.colour), release.to_json())

    def withdraw(self, colour: Colour) -> None:
        """Take a failed candidate back, so that nothing ever loads it."""
        self.releases.candidate_file(colour).unlink(missing_ok=True)

    def switch(self, release: Release) -> Release:
        """Let a release serve from now on; returns the record as written."""
        made = replace(release, released_at=datetime.now(UTC).isoformat())
        _replace(self.releases.live_file, made.to_json())
        self.settle()
        return made

    def settle(self) -> None:
        """Bring the history up to the live record."""
        live = self.releases.live()
        if live is None:
            return
        file = self.releases.history_file
        lines = file.read_text().split("\n") if file.exists() else [""]
        if lines[-1]:
            log.warning("the last line of %s was torn by a crash and is written again", file)
        whole = lines[:-1]
        if lines[-1] or live.to_json() not in whole[-1:]:
            missing = [] if live.to_json() in whole[-1:] else [live.to_json()]
            _append(file, len("".join(line + "\n" for line in whole).encode()), missing)

    def recorded(self, release_id: ReleaseId) -> Release:
        """The last record of a release.

        Raises:
            UsageError: it was never live.
        """
        found = [record for record in self.releases.history() if record.release_id == release_id]
        if not found:
            raise UsageError(f"release {release_id!r} was never live; `recsys release history` lists those that were")
        return found[-1]

    def kept(self, keep: int) -> list[Release]:
        """The releases that may serve: the last `keep` that did, and what either colour holds."""
        history = self.releases.history()
        recent = list(dict.fromkeys(record.release_id for record in reversed(history)))[:keep]
        standing = (self.releases.live(), self.releases.candidate("blue"), self.releases.candidate("green"))
        return [record for record in history if record.release_id in recent] + [r for r in standing if r is not None]

    def prune(self, keep: int) -> list[Path]:
        """Delete artifacts that only releases older than the last `keep` refer to; returns what was deleted.

        What no release has ever referred to is left alone: it may belong to a run that is still at work.
        """
        kept = {ref.path for record in self.kept(keep) for ref in _references(record)}
        history = self.releases.history()
        once = {ref.path for record in history for ref in _references(record)}
        gone = [self.root / path for path in sorted(once - kept) if (self.root / path).exists()]
        for path in gone:
            shutil.rmtree(path)
        return gone


@contextmanager
def held(root: Path) -> Iterator[Ledger]:
    """The ledger, for one deployment or rollback at a time; the kernel frees the lock if its holder dies.

    Raises:
        Retryable: another one is at work; the message names its process.
    """
    folder = root / "releases"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "deploy.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Retryable(f"another deployment or rollback is at work (process {lock.read() or '?'})") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        ledger = Ledger(root)
        ledger.settle()
        yield ledger


def _references(release: Release) -> list[Reference]:
    return list(release.artifacts.values())


def _replace(path: Path, text: str) -> None:
    """Replace a file as a whole; after the return the new one survives a power cut."""
    work = path.with_name(f".{path.name}.tmp")
    with work.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    work.replace(path)
    bus.sync_folder(path.parent)


def _append(path: Path, position: int, lines: list[str]) -> None:
    """Write whole lines at a position, dropping what a crash left after it."""
    with path.open("a+b") as stream:
        stream.truncate(position)
        stream.write("".join(line + "\n" for line in lines).encode())
        stream.flush()
        os.fsync(stream.fileno())
    bus.sync_folder(path.parent)
