"""Keep what a stage made where nothing that it was made from has changed.

A run that only tries other parameters of the ranker need not train the same towers again, and one that is started twice
need not judge the same events and compute the same features. A stage takes part by a function
`touches(params, settings) -> Touched`; `pipelines.stage` does the rest. The code that the stage runs and the locked
libraries count as inputs, and so does what was published: a partition or an artifact that somebody deleted or replaced
is made anew. `--reuse false` makes everything anew.
"""

import ast
import hashlib
import json
import logging
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from recsys.settings import REPOSITORY

PACKAGES = ("pipelines", "feature_repo", "models", "recsys")
LOCK = REPOSITORY / "infra" / "locks" / "platform.txt"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Touched:
    """What a run of a stage depends on, and what it makes.

    Attributes:
        reads, writes: folders of partitions, whether they exist or not.
        facts: whatever else the result depends on, as JSON.
    """

    reads: Collection[Path] = ()
    writes: Collection[Path] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 of the facts, the code, and the names, sizes and times of all files."""
        files = {str(folder): _files(folder) for folder in sorted({*self.reads, *self.writes})}
        return _sha256({"facts": self.facts, "code": _code(), "files": files})


@dataclass(frozen=True)
class Record:
    """The file that remembers the last run of a stage for a data day."""

    path: Path

    def result(self, digest: str) -> dict[str, Any] | None:
        """The last result, if it was made from what has this digest."""
        try:
            kept = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.warning("%s is torn (%s); everything is made anew, and the file with it", self.path, error)
            return None
        found: dict[str, Any] | None = kept["result"] if kept["digest"] == digest else None
        return found

    def keep(self, digest: str, result: Mapping[str, Any]) -> None:
        """Remember a result; call it when everything is published."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        work = self.path.with_name(f".{self.path.name}.tmp")
        work.write_text(json.dumps({"digest": digest, "result": result}, default=str))
        work.replace(self.path)


def _files(folder: Path) -> list[tuple[str, int, int]]:
    found = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return [(str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns) for path, stat in found]


@lru_cache(maxsize=1)
def _code() -> str:
    """SHA-256 of the lock, and of our modules that this process had loaded when it first asked, or may load later."""
    loaded = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    return _sha256({str(path): path.read_text() for path in (*modules(loaded).values(), LOCK)})


def modules(names: Iterable[str]) -> dict[str, Path]:
    """Our modules of these names and all that they import, by name, whether they are loaded or not.

    Functions import as well: a training does not load its libraries before it is known that it has something to do.
    """
    found: dict[str, Path] = {}
    waiting = sorted(names)
    while waiting:
        name = waiting.pop()
        place = REPOSITORY.joinpath(*name.split("."))
        path = next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)
        if path is not None and name not in found:
            found[name] = path
            waiting += _imported(path)
    return dict(sorted(found.items()))


def _imported(path: Path) -> set[str]:
    """What a file may import of ours: `from a import b` is the module a.b, or a name in a, which is no file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.partition(".")[0] in PACKAGES}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
