"""A file that is read again when it changes, so that a key is revoked or exchanged without a restart."""

import logging
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from recsys.errors import Permanent

log = logging.getLogger(__name__)
T = TypeVar("T")

RECHECK_SECONDS = 1.0


class _Once(yaml.SafeLoader):
    """Refuses a key that is twice in a mapping, of which PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is there twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def checked(kind: TypeAdapter[T], data: bytes) -> T:
    """What a YAML file says, as a checked value; an empty file is an empty mapping. Raises ValueError that names the
    place."""
    try:
        return kind.validate_python(yaml.load(data, _Once) or {})  # noqa: S506  # a safe loader
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"no YAML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{place}: {first['msg']}") from None


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
            if self._stamp == (stamp := (0, 0)):
                return
            data = self._absent
        except OSError as error:
            raise Permanent(f"{self._path} cannot be read: {error.strerror}") from error
        self._stamp = stamp
        try:
            self._value = self._parse(data)
        except ValueError as error:
            raise Permanent(f"{self._path}: {error}") from error
