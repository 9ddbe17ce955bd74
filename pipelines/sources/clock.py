"""Which days of a source are plausible: one clock that is wrong must not say where the data end, or where they begin.

A day is not plausible

- before 1990, when no web shop existed: this catches epoch 0 and two-digit years;
- later than tomorrow, unless most of the data are: then the data are simulated, and today's date says nothing of them;
- far from the rest: more than 30 days before or after it, in a group of at most a week that holds at most 5 % of the
  rows and is on no day a quarter as busy as the usual one. A shop that opens again after two months is busier.

A day that a person has accepted (`pipelines.acceptance`) is plausible. The usual day is that of the middle row: the
size of the day that half of all rows fall on or below, so that many days of one row each do not count as usual.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

import pyarrow as pa

from recsys.errors import BadData

OLDEST = date(1990, 1, 1)
TOO_OLD, FUTURE = "too_old", "future"
ISOLATED = timedelta(days=30)  # shops close for weeks, and data sets have holes
ISOLATED_DAYS = 7
ISOLATED_SHARE = 0.05  # of the rows: what is more is no accident
BUSY = 0.25  # of the usual day, as the quality gate's `min_volume`


@dataclass(frozen=True)
class Span:
    """The plausible days.

    Attributes:
        accepted: days beside first..last that a person has vouched for.
    """

    first: date
    last: date
    accepted: frozenset[date] = frozenset()

    def reaches(self, day: date) -> bool:
        """Whether the source has got as far as a day, so that it has said all of it."""
        return day <= self.last or day in self.accepted

    def reason(self, day: date) -> str:
        """Why a day is not plausible; empty for one that is."""
        if self.first <= day <= self.last or day in self.accepted:
            return ""
        return TOO_OLD if day < self.first else FUTURE


@dataclass
class Days:
    """How many rows a source has of each day, and the last moment of each."""

    rows: Counter[date] = field(default_factory=Counter)
    latest: dict[date, datetime] = field(default_factory=dict)

    @classmethod
    def read(cls, times: Iterable[Any]) -> Self:
        """Count arrays of UTC timestamps."""
        days = cls()
        for some in times:
            days.add(some)
        return days

    def add(self, times: Any) -> None:
        """Count one more array; empty values do not count."""
        known = times.drop_null()
        table = pa.table({"day": known.cast(pa.date32()), "time": known})
        for group in table.group_by("day").aggregate([("time", "count"), ("time", "max")]).to_pylist():
            day = group["day"]
            self.rows[day] += group["time_count"]
            self.latest[day] = max(group["time_max"], self.latest.get(day, group["time_max"]))

    def span(self, today: date, accepted: Collection[date] = ()) -> Span | None:
        """The plausible days as of today; None where there are no rows."""
        days = sorted(self.rows)
        known = [day for day in days if day >= OLDEST] or days
        present = [day for day in known if day <= today + timedelta(days=1)]
        if 2 * self._total(present) >= self._total(known):
            known = present
        kept = self._without_stragglers(known, accepted)
        return Span(kept[0], kept[-1], frozenset(accepted)) if kept else None

    def last(self, empty: str) -> datetime:
        """The time of the last plausible row.

        Raises:
            BadData: there are no rows; `empty` is the message.
        """
        span = self.span(datetime.now(UTC).date())
        if span is None:
            raise BadData(empty)
        return self.latest[span.last]

    def strays(self, span: Span) -> Counter[str]:
        """Rows of days that are not plausible, by reason."""
        found: Counter[str] = Counter()
        for day, rows in self.rows.items():
            if reason := span.reason(day):
                found[reason] += rows
        return found

    def _total(self, days: Sequence[date]) -> int:
        return sum(self.rows[day] for day in days)

    def _usual(self, days: Sequence[date]) -> int:
        """Rows of the day that the middle row falls on, when days are put in order of size."""
        below, half = 0, self._total(days) / 2
        for rows in sorted(self.rows[day] for day in days):
            below += rows
            if below >= half:
                return rows
        return 0

    def _without_stragglers(self, days: list[date], accepted: Collection[date]) -> list[date]:
        """Cut isolated groups off both ends, one after another."""
        groups = _groups(days)
        most, busy = ISOLATED_SHARE * self._total(days), BUSY * self._usual(days)

        def strays(group: list[date]) -> bool:
            few = len(group) <= ISOLATED_DAYS and self._total(group) <= most
            return few and all(self.rows[day] < busy and day not in accepted for day in group)

        while len(groups) > 1 and strays(groups[-1]):
            groups.pop()
        while len(groups) > 1 and strays(groups[0]):
            groups.pop(0)
        return [day for group in groups for day in group]


def _groups(days: Iterable[date]) -> list[list[date]]:
    """Days in order, in groups that more than ISOLATED lies between."""
    groups: list[list[date]] = []
    for day in days:
        if groups and day - groups[-1][-1] <= ISOLATED:
            groups[-1].append(day)
        else:
            groups.append([day])
    return groups
