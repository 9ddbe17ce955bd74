"""A file that is read again when it changes, so that a key is revoked or exchanged without a restart."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from recsys.errors import Permanent

log = logging.getLogger(__name__)
T = TypeVar("T")

RECHECK_SECONDS = 1.0


class File(Generic[T]):
    """What a file says.

    Args:
        path: of the file.
        parse: makes a value of its bytes; raises ValueError with a sentence that repeats nothing secret.
        absent: what is read where there is no such file; None: there has to be one.

    Raises:
        Permanent: the file cannot be used at start; a later unusable version is logged once and the last one stays.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T], absent: bytes | None = None) -> None:
        self._path, self._parse, self._absent = path, parse, absent
        self._stamp = (-1, -1)
        self._checked = time.monotonic()
        self._read()

    @property
    def value(self) -> T:
        """The newest usable value; a change of the file is seen within `RECHECK_SECONDS`."""
        if time.monotonic() - self._checked >= RECHECK_SECONDS:
            self._checked = time.monotonic()
            try:
                self._read()
            except Permanent as error:
                log.error("%s; what it said before stays", error)
        return self._value

    def _read(self) -> None:
        try:
            status = self._path.stat()
            if self._stamp == (stamp := (status.st_mtime_ns, status.st_ino)):
                return
            data = self._path.read_bytes()
        except FileNotFoundError as error:
            if self._absent is None:
                raise Permanent(f"{self._path} cannot be read: {error.strerror}") from error
            stamp, data = (0, 0), self._absent
        except OSError as error:
            raise Permanent(f"{self._path} cannot be read: {error.strerror}") from error
        self._stamp = stamp
        try:
            self._value = self._parse(data)
        except ValueError as error:
            raise Permanent(f"{self._path}: {error}") from error
