"""Days that a person has vouched for: the gate publishes them whatever their figures are, and says who, when and why.

A row that breaks a rule goes to quarantine on such a day, too. A day whose volume was accepted is a known level for the
four weeks behind it: a shop that sells a tenth from now on needs one acceptance and not twenty.
"""

import getpass
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from pipelines.datasets import Lake
from recsys.errors import UsageError


@dataclass(frozen=True)
class Acceptance:
    """A day, and who accepted it, when (UTC, ISO 8601) and why."""

    day: str
    who: str
    when: str
    why: str

    def __str__(self) -> str:
        return f"accepted by {self.who} on {self.when[:16].replace('T', ' ')}: {self.why}"


def accept(lake: Lake, day: date, why: str, who: str = "") -> Acceptance:
    """Record that a day is to be published; the last word on a day counts.

    Args:
        lake: where.
        day: the day.
        why: the reason, for who reads the report.
        who: the name; empty: the user of this process.

    Raises:
        UsageError: there is no reason.
    """
    if not why.strip():
        raise UsageError(f"to accept {day} give a reason, for whoever reads the report")
    accepted = Acceptance(str(day), who or getpass.getuser(), datetime.now(UTC).isoformat(), why.strip())
    path = _path(lake, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.tmp")
    work.write_text(json.dumps(asdict(accepted)))
    work.replace(path)
    return accepted


def read(lake: Lake) -> Mapping[date, Acceptance]:
    """All accepted days."""
    paths = sorted(_folder(lake).glob("day=*.json"))
    return {
        date.fromisoformat(path.stem.removeprefix("day=")): Acceptance(**json.loads(path.read_text())) for path in paths
    }


def _folder(lake: Lake) -> Path:
    return lake.root / "lake" / "accepted"


def _path(lake: Lake, day: date) -> Path:
    return _folder(lake) / f"day={day}.json"
