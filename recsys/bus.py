"""The event bus of one machine: durable, append-only topics of JSON lines under `<storage root>/bus/<topic>/`.

Every writing process has a segment of its own, `<time>-<pid>-<token>.jsonl.open`, so that writers never wait for
one another. It holds an exclusive `flock` on it: who can take the lock knows that the writer is dead. A segment
that is full or old enough is closed by a rename to `*.jsonl`, after which it never changes; consumers read closed
segments only, and any file stream (Spark's, for one) can follow the folder. Segment names sort by the time of
opening, and a long-lived segment may close after a younger one: a consumer keeps the set of names it has read, not
the greatest.

Delivery is at least once. A line whose future has resolved is on the disk: it was written, `fdatasync` returned, and
so did the `fsync` of the folder that names it. A line that was not acknowledged may be there or not.

A topic does not grow for ever: its writer deletes closed segments after a while (`Log(retention=…)`), or, where every
line must reach the pipelines first, the consumer does, by `opened_before` and `delete`. One that is kept whole has its
segments joined, by `join`.
"""

import fcntl
import io
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recsys.errors import Retryable, UsageError

log = logging.getLogger(__name__)

CLOSED = ".jsonl"
OPEN = ".jsonl.open"
TORN = ".torn"
MIB = 1 << 20
PRUNE_SECONDS = 3600.0  # between two looks for segments to delete: a topic may have some 60,000
_OURS = re.compile(r"\d{20}-\d+-[0-9a-f]+\.jsonl")  # as `_Segment.create` names them


class Full(Retryable):
    """More is waiting to be written than may wait; slow down and try again."""


class Unwritable(Retryable):
    """The disk refused a write or a flush; nothing of the batch is acknowledged."""


def folder(root: Path, topic: str) -> Path:
    """Where the segments of a topic are.

    Raises:
        UsageError: the name is not one of a topic.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,99}", topic):
        raise UsageError(f"topic {topic!r} must be lower-case letters, digits, '-' and '_', at most 100")
    return root / "bus" / topic


def closed(root: Path, topic: str) -> list[Path]:
    """The closed segments of a topic, by time of opening. Call `recover` first to see those of dead writers."""
    return sorted(path for path in folder(root, topic).glob(f"*{CLOSED}"))


def opened_before(root: Path, topic: str, moment: datetime) -> list[Path]:
    """The closed segments that were opened before a moment, oldest first.

    A name that no writer gives says nothing of its age, so such a file is never among them; nor is a torn one.
    """
    parent, limit = folder(root, topic), f"{int(moment.timestamp() * 1e9):020d}"
    if not parent.exists():
        return []
    with os.scandir(parent) as entries:
        return sorted(parent / e.name for e in entries if e.name < limit and _OURS.fullmatch(e.name))


def join(segments: Sequence[Path]) -> None:
    """Make one closed segment of several, named like the first. A crash in between leaves lines twice."""
    if len(segments) < 2:
        return
    work = segments[0].with_suffix(".joined")
    with work.open("wb") as stream:
        for segment in segments:
            stream.write(segment.read_bytes())
        stream.flush()
        os.fsync(stream.fileno())
    work.rename(segments[0])
    sync_folder(work.parent)
    delete(segments[1:])


def delete(segments: Iterable[Path]) -> None:
    """Delete closed segments whose records are not needed any more, or are kept elsewhere."""
    for segment in segments:
        segment.unlink(missing_ok=True)


def read(segment: Path) -> Iterator[dict[str, Any]]:
    """The records of a closed segment, in the order of writing."""
    with segment.open("rb") as lines:
        for line in lines:
            yield json.loads(line)


def recover(root: Path, topic: str) -> list[Path]:
    """Close the segments that dead writers left open, and return them.

    Everything after the first line that is not whole was never acknowledged (a flush covers all that was written
    before it); it is cut off and kept beside the segment as `*.torn`, for a person to look at.
    """
    found = (_recover(path) for path in sorted(folder(root, topic).glob(f"*{OPEN}")))
    return [path for path in found if path is not None]


def _recover(path: Path) -> Path | None:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None  # another process was faster
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists():
            return None
        content = path.read_bytes()
        whole = _whole_prefix(content)
        if whole < len(content):
            log.warning("%s: %d unacknowledged bytes after a crash, kept beside it", path.name, len(content) - whole)
            path.with_name(path.name.removesuffix(OPEN) + TORN).write_bytes(content[whole:])
            os.ftruncate(descriptor, whole)
            os.fsync(descriptor)
        return _close(path, empty=whole == 0)
    except BlockingIOError:
        return None  # its writer lives
    finally:
        os.close(descriptor)


def _whole_prefix(content: bytes) -> int:
    """Length of the prefix that is whole JSON lines; a crash may leave half a line or a block of zeros."""
    length = 0
    for line in io.BytesIO(content):
        try:
            json.loads(line)
        except ValueError:
            return length
        if not line.endswith(b"\n"):
            return length
        length += len(line)
    return length


def _close(path: Path, *, empty: bool) -> Path | None:
    """Give a segment its final name; one without a line is removed."""
    if empty:
        path.unlink()
        return None
    final = path.with_name(path.name.removesuffix(OPEN) + CLOSED)
    path.rename(final)
    sync_folder(path.parent)
    return final


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk; a file that was renamed there survives a crash only then."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass
class _Segment:
    """One open file. `size` counts the bytes that are known to be on the disk."""

    path: Path
    descriptor: int
    size: int = 0
    opened: float = field(default_factory=time.monotonic)

    @classmethod
    def create(cls, parent: Path) -> Self:
        # Locked under a name that `recover` does not look at, so that no one ever sees it open and unlocked.
        path = parent / f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{OPEN}"
        hidden = path.with_suffix(".new")
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(path)
        sync_folder(parent)
        return cls(path, descriptor)

    def write(self, data: bytes) -> None:
        """Append and flush. Raises OSError, after which the segment must be abandoned."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        os.fdatasync(self.descriptor)
        self.size += len(data)

    def close(self) -> None:
        _close(self.path, empty=self.size == 0)
        os.close(self.descriptor)

    def abandon(self) -> None:
        """After a failed write or flush: cut back to what is durable. The kernel may have dropped the dirty pages,
        so flushing the same file again would prove nothing."""
        try:
            os.ftruncate(self.descriptor, self.size)
            self.close()
        except OSError as error:
            log.error("%s stays open for recovery: %s", self.path.name, error)
            os.close(self.descriptor)


@dataclass(frozen=True)
class _Entry:
    data: bytes
    lines: int
    done: Future[None]


class Log:
    """A writer of one topic, safe to share between threads; also a context manager.

    Group commit: one thread writes; while it flushes, callers queue up, and the next flush takes all of them. So the
    cost of a flush is shared by as many as wait for it, and a lonely caller waits for one flush only.

    Args:
        root: storage root.
        topic: name of the topic.
        segment_bytes: a segment is closed when it has grown to this.
        segment_seconds: or when it is this old, so that consumers see a quiet topic too.
        linger: seconds to gather before a flush, for topics that nobody waits for; 0 flushes at once.
        pending_bytes: more than this may not wait for the disk.
        retention: closed segments that were opened longer ago are deleted, at the start and hourly, by the writing
            thread, so no caller waits for it; None keeps them all, for a topic whose consumer deletes.
    """

    def __init__(
        self,
        root: Path,
        topic: str,
        *,
        segment_bytes: int = 64 * MIB,
        segment_seconds: float = 10.0,
        linger: float = 0.0,
        pending_bytes: int = 64 * MIB,
        retention: timedelta | None = None,
    ) -> None:
        self._root, self._topic = root, topic
        self.folder = folder(root, topic)
        self.folder.mkdir(parents=True, exist_ok=True)
        recover(root, topic)
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._linger = linger
        self._pending_limit = pending_bytes
        self._retention = retention
        self._prune_due = 0.0
        self._pending: list[_Entry] = []
        self._pending_bytes = 0
        self._closing = False
        self._changed = threading.Condition()
        self._segment: _Segment | None = None
        self._thread = threading.Thread(target=self._run, name=f"log-{topic}", daemon=True)
        self._thread.start()

    def append(self, lines: Sequence[bytes]) -> Future[None]:
        """Queue JSON objects, one per line; the future resolves when all of them are on the disk, in this order.

        Raises:
            Full: too much is waiting already.
            ValueError: a line is not one JSON object without a newline.
            RuntimeError: the log is closed.

        The future raises `Unwritable` if the disk refuses.
        """
        for line in lines:
            if not (line.startswith(b"{") and line.endswith(b"}")) or b"\n" in line:
                raise ValueError(f"a line must be one JSON object without newline, got {line[:80]!r}")
        done: Future[None] = Future()
        data = b"".join(line + b"\n" for line in lines)
        with self._changed:
            if self._closing:
                raise RuntimeError(f"the log {self.folder} is closed")
            if self._pending_bytes + len(data) > self._pending_limit:
                raise Full(f"{self._pending_bytes} bytes wait for the disk in {self.folder.name}; try again later")
            self._pending.append(_Entry(data, len(lines), done))
            self._pending_bytes += len(data)
            if len(self._pending) == 1:  # the others are taken with it
                self._changed.notify()
        return done

    def close(self) -> None:
        """Flush what waits, close the segment and stop. Safe to call twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            self._prune()
            batch, closing = self._take()
            if batch:
                self._commit(batch)
            self._rotate(closing)
            if closing:
                return

    def _take(self) -> tuple[list[_Entry], bool]:
        """Wait for entries, for the end, or for the moment when the segment is due."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing, timeout=self._until_due())
            if self._pending and self._linger:
                self._changed.wait_for(lambda: self._closing, timeout=self._linger)
            batch, self._pending = self._pending, []
            self._pending_bytes = 0
            return batch, self._closing

    def _until_due(self) -> float | None:
        if self._segment is None:
            return None
        return max(0.0, self._segment.opened + self._segment_seconds - time.monotonic())

    def _commit(self, batch: list[_Entry]) -> None:
        wanted = [entry for entry in batch if entry.done.set_running_or_notify_cancel()]
        try:
            if self._segment is None:
                self._segment = _Segment.create(self.folder)
            self._segment.write(b"".join(entry.data for entry in wanted))
        except OSError as error:
            if self._segment is not None:
                self._segment.abandon()
                self._segment = None
            refusal = Unwritable(f"cannot write to {self.folder}: {error}; check the disk")
            for entry in wanted:
                entry.done.set_exception(refusal)
            return
        for entry in wanted:
            entry.done.set_result(None)

    def _rotate(self, closing: bool) -> None:
        segment = self._segment
        if segment is None:
            return
        if closing or segment.size >= self._segment_bytes or self._until_due() == 0:
            self._segment = None
            try:
                segment.close()
            except OSError as error:
                log.error("%s stays open for recovery: %s", segment.path.name, error)

    def _prune(self) -> None:
        if self._retention is None or time.monotonic() < self._prune_due:
            return
        self._prune_due = time.monotonic() + PRUNE_SECONDS
        try:
            delete(opened_before(self._root, self._topic, datetime.now(UTC) - self._retention))
        except OSError as error:
            log.error("old segments of %s are kept until the next try: %s", self._topic, error)
