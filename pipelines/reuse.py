"""Keep what a stage made where nothing that it was made from has changed.

A run that only tries other parameters of the ranker need not train the same towers again, and one that is started twice
need not judge the same events and compute the same features. A stage takes part by a function
`touches(params, settings) -> Touched`; `pipelines.stage` does the rest. The code that the stage has loaded and the
locked libraries count as inputs, and so does what was published: a partition or an artifact that somebody deleted or
replaced is made anew. `--reuse false` makes everything anew.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Collection, Mapping
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
    """SHA-256 of our modules that this process had loaded when it first asked, and of the lock."""
    names = sorted(name for name in sys.modules if name.partition(".")[0] in PACKAGES)
    sources = [Path(path) for name in names if (path := getattr(sys.modules[name], "__file__", None))]
    return _sha256({str(path): path.read_text() for path in (*sources, LOCK)})


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
