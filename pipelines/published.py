"""What the lake knows of each published day of events, beside its rows: whether it is whole, and of what it was made.

The note is a file in the folder of the day, so it is published, replaced and removed with the rows, in one rename. A
day without a note (an earlier version wrote it) is not whole. Readers of parquet skip names that begin with "_".
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

from pipelines import datasets, digests
from pipelines.datasets import Lake

NOTE = "_day.json"


@dataclass(frozen=True)
class Day:
    """The note of one day.

    Attributes:
        whole: the source had reached the day; False while the day is only what the API has received so far.
        rows: published.
        digest: of the events that it was made of, before the gate.
        linked: days that hold an event which this day has as well: when one of them changes, this one may get it back.
        run: that published it.
    """

    whole: bool
    rows: int
    digest: str
    linked: tuple[date, ...] = ()
    run: str = ""


UNKNOWN = Day(False, 0, digests.EMPTY)


def write(folder: Path, day: Day) -> None:
    """Leave the note in the folder that will become the day's partition."""
    (folder / NOTE).write_text(json.dumps(asdict(day), default=str))


def read(lake: Lake) -> Mapping[date, Day]:
    """The notes of all published days, oldest first."""
    return {day: _read(lake.path(datasets.EVENTS, day) / NOTE) for day in lake.days(datasets.EVENTS)}


def doubt(lake: Lake, day: date) -> None:
    """Have a day read again by the next run: something that it shares with another day has changed."""
    folder = lake.path(datasets.EVENTS, day)
    work = folder / f".{NOTE}.tmp"
    work.write_text(json.dumps(asdict(replace(_read(folder / NOTE), digest="")), default=str))
    work.replace(folder / NOTE)


def _read(path: Path) -> Day:
    if not path.exists():
        return UNKNOWN
    facts = json.loads(path.read_text())
    return Day(**facts | {"linked": tuple(map(date.fromisoformat, facts["linked"]))})


def remember_passed(lake: Lake, batch: Mapping[date, str]) -> None:
    """Note that a batch passed the gate, before its days are moved: after a crash, the rest is not judged again.

    A first load is judged as a whole. If the rest of it were judged day by day, the lake would end otherwise.
    """
    path = _passed(lake)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.tmp")
    work.write_text(json.dumps({str(day): digest for day, digest in {**passed(lake), **batch}.items()}))
    work.replace(path)


def passed(lake: Lake) -> Mapping[date, str]:
    """What each day was made of when it passed the gate last."""
    path = _passed(lake)
    return (
        {date.fromisoformat(day): made for day, made in json.loads(path.read_text()).items()} if path.exists() else {}
    )


def _passed(lake: Lake) -> Path:
    return lake.root / "lake" / "_kept" / "passed.json"
