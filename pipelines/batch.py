"""Which days a run reads and publishes: what differs between the input and the lake, and nothing else.

The rule needs no memory of what earlier runs did or failed to do, so the lake ends the same in whatever order runs
come: a day is published when it is not whole, or when the input says something else of it than what it was made of. It
is whole when the source has reached it. Behind that, it has what the API has received so far.

The input says something of a day when it has rows of it, or when the source has both earlier and later ones: then the
day is closed, a day with nothing. Of a day behind the source's last one it says nothing yet, nor of one in a hole of
more than a year, for which no shop closes. A source that does not reach as far back as the lake (a rolling export) says
nothing of the days before it, nor of its first, which may be cut.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Self

from pipelines import datasets, digests
from pipelines.datasets import RunId
from pipelines.published import Day
from pipelines.sources.clock import Span
from recsys.errors import BadData
from recsys.settings import Settings

NEVER = Day(False, 0, "")
HOLE = timedelta(days=366)


@dataclass(frozen=True)
class Input:
    """What is there to read.

    Attributes:
        seen: per day with plausible events, their digest.
        span: the plausible days of the source; None of a source without events.
        strays: days of which the source has implausible rows only.
    """

    seen: Mapping[date, str]
    span: Span | None
    strays: Collection[date] = ()

    def reaches(self, day: date) -> bool:
        return self.span is not None and self.span.reaches(day)

    def closed(self, until: date) -> set[date]:
        """Days with nothing, up to one, between the first and the last day of the source, but for HOLEs."""
        if self.span is None:
            return set()
        first, last = self.span.first, self.span.last
        filled = sorted({first, last, *(day for day in self.seen if first < day < last)})
        between = {day for before, after in pairwise(filled) if after - before <= HOLE for day in _days(before, after)}
        return {day for day in {first, last, *between} if day <= until and day not in self.seen}


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        days: to read anew and to publish, with nothing where the day is closed; oldest first.
        gone: published days to remove, for all of their rows turned out to be implausible.
    """

    days: tuple[date, ...]
    gone: tuple[date, ...] = ()


@dataclass(frozen=True)
class Batch:
    """What ingest hands to the quality gate beside the staged tables.

    Attributes:
        made_of: the days, and the digests of their staged events.
        whole: those of them that the source has reached; the others are days so far.
        closed: those of the whole ones of which the source has no rows, although the API may have some.
        gone: published days to remove.
        rows_read: of the source.
    """

    made_of: Mapping[date, str]
    whole: tuple[date, ...] = ()
    closed: tuple[date, ...] = ()
    gone: tuple[date, ...] = ()
    rows_read: int = 0

    def write(self, settings: Settings, run: RunId) -> None:
        path = _path(settings, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        made_of = {str(day): digest for day, digest in self.made_of.items()}
        facts = {"made_of": made_of, "whole": self.whole, "closed": self.closed, "gone": self.gone}
        path.write_text(json.dumps(facts | {"rows_read": self.rows_read}, default=str))

    @classmethod
    def read(cls, settings: Settings, run: RunId) -> Self:
        """Raises BadData if ingest has not run."""
        path = _path(settings, run)
        if not path.exists():
            raise BadData(f"run {run!r} has no batch; run `python -m pipelines ingest` first")
        facts = json.loads(path.read_text())
        made_of = {date.fromisoformat(day): digest for day, digest in facts["made_of"].items()}
        whole, closed, gone = (tuple(map(date.fromisoformat, facts[name])) for name in ("whole", "closed", "gone"))
        return cls(made_of, whole, closed, gone, facts["rows_read"])


def _path(settings: Settings, run: RunId) -> Path:
    return datasets.run_folder(settings, run) / "ingest" / "batch.json"


def plan(day: date, found: Input, published: Mapping[date, Day], since: date | None = None) -> Plan:
    """The days for a run of a whole data day.

    Args:
        day: the last day; it is read again even if it has not changed, so that a re-run has something to judge.
        found: what is there.
        published: what the lake has.
        since: read all days from this one on again.
    """
    known = {seen for seen in found.seen if seen <= day} | found.closed(day)
    gone = {one for one in published if one <= day and one not in known and one in found.strays}
    silent = _silent(found, published, gone)

    def differs(one: date) -> bool:
        before = published.get(one, NEVER)
        changed = before.digest != found.seen.get(one, digests.EMPTY)
        return changed and one not in silent if before.whole else changed or found.reaches(one)

    if since is None:
        wanted = {one for one in known if differs(one)} | (known & {day})
    else:
        wanted = {one for one in known if one >= since}
    return Plan(tuple(sorted(_with_linked(wanted, gone, known, published))), tuple(sorted(gone)))


def plan_so_far(day: date, seen: Mapping[date, str], published: Mapping[date, Day]) -> Plan:
    """The day so far, for a run that knows only what the API has received: nothing if it is whole, or unchanged."""
    before = published.get(day)
    changed = day in seen and (before is None or (not before.whole and before.digest != seen[day]))
    return Plan((day,) if changed else ())


def _silent(found: Input, published: Mapping[date, Day], gone: Collection[date]) -> set[date]:
    """Published days of which a source that reaches less far back says nothing, although it may have rows of them."""
    first = found.span.first if found.span else None
    lost = {one for one, before in published.items() if before.rows and one not in found.seen and one not in gone}
    if first is None or not lost or min(lost) >= first:
        return set()
    return {one for one in published if one <= first}


def _with_linked(
    wanted: Collection[date], gone: Collection[date], known: Collection[date], published: Mapping[date, Day]
) -> set[date]:
    """Days, and those that share an event with one of them."""
    found = set(wanted)
    while more := {
        one
        for one, before in published.items()
        if one in known and one not in found and any(other in found or other in gone for other in before.linked)
    }:
        found |= more
    return found


def _days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=n) for n in range((last - first).days + 1))
