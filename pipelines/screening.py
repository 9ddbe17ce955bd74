"""Each day of a batch by itself: one that is not as it should be is held back, and the others go on.

A night that catches up with many days would else be judged by their sum, and one bad day would stop every night after
it. A day is held back if it has too few rows, or too large a share of rows that break a rule. The run's own day stops
the run; an earlier one is left as it is in the lake, named in the report, and tried again every night until the source
is mended or a person accepts the day.

The volume of a day is compared with the days of the four weeks before it on which anything happened: with the median
of the same weekday, of all of them, or of the last seven, whichever is least. So neither a quiet Sunday nor the quiet
weeks behind a season stop a night (UCI Online Retail sells an eighth of December's volume in January). Days with
nothing are closures; they say nothing of a usual day, and they are not judged. A day that was published before is
compared with itself.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from pipelines import digests
from pipelines.acceptance import Acceptance
from pipelines.expectations import CLOCK, REASONS, Check, Limits, Rule, Verdict
from pipelines.published import Day

HISTORY = timedelta(days=28)  # four weeks, so that every weekday counts alike


@dataclass(frozen=True)
class Tally:
    """The rows of one day.

    Attributes:
        good: rows that break no rule.
        broken: per rule, rows that break it, and rows that it is about.
    """

    good: int
    broken: Mapping[str, tuple[int, int]]


EMPTY = Tally(0, {})


@dataclass(frozen=True)
class Screen:
    """What days are held against.

    Attributes:
        day: the run's own day.
        rules: those with a limit.
        limits: how much is too much.
        published: what the lake has.
        accepted: days that are not judged.
        passed: days that passed before, and what they were made of then.
        closed: days of which the source has no rows: whatever the API has of them is enough.
    """

    day: date
    rules: Sequence[Rule]
    limits: Limits
    published: Mapping[date, Day]
    accepted: Mapping[date, Acceptance]
    passed: Mapping[date, str]
    closed: Collection[date] = ()

    def judge(self, batch: Mapping[date, str], tallies: Mapping[date, Tally]) -> tuple[list[Check], set[date]]:
        """The verdicts that are no passes, and the days held back."""
        history = {day: note.rows for day, note in self.published.items() if note.whole}
        checks: list[Check] = []
        held: set[date] = set()
        for day in sorted(batch):
            tally = tallies.get(day, EMPTY)
            faults = [*self._volume(day, tally.good, history), *self._shares(day, tally)]
            if self.passed.get(day) == batch[day] and batch[day] != digests.EMPTY:
                faults = []
            if faults and day in self.accepted:
                checks.append(self._accepted(day, faults))
                faults = []
            checks += faults
            if faults:
                held.add(day)
            else:
                history[day] = tally.good
        return checks, held

    def _volume(self, day: date, rows: int, history: Mapping[date, int]) -> list[Check]:
        before = self.published.get(day)
        again = before is not None and before.whole and before.rows > 0
        if again:
            usual = float(history[day])
            says = f"{day} keeps most of the {history[day]:,} rows that were published"
        else:
            usual = self._usual(day, history)
            says = f"{day} brings about as much as the weeks before it, {usual:,.0f} rows a day (least median)"
        least = math.ceil(self.limits.min_volume * usual)
        lost = history[day] - rows if again else least - rows + 1
        enough = rows >= least or lost <= self.limits.handful or (not again and (rows == 0 or day in self.closed))
        return [] if enough else [self._fault(day, "volume", says, f"at least {least:,} rows on {day}", f"{rows:,}")]

    def _usual(self, day: date, history: Mapping[date, int]) -> float:
        """Rows that a day is expected to bring; 0 where nothing is known."""
        open_days = [one for one in sorted(history) if day - HISTORY <= one < day and history[one]]
        alike = [one for one in open_days if one.weekday() == day.weekday()]
        medians = [
            statistics.median(history[one] for one in some) for some in (alike, open_days, open_days[-7:]) if some
        ]
        return min([*medians, *(history[one] for one in open_days if one in self.accepted)], default=0)

    def _shares(self, day: date, tally: Tally) -> list[Check]:
        found = []
        for rule in self.rules:
            broken, rows = tally.broken.get(rule.name, (0, 0))
            if broken > max(self.limits.handful, rule.limit * rows):
                observed = f"{broken / rows:.2%} ({broken:,} of {rows:,})"
                expected = f"at most {rule.limit:.1%} of the rows of {day}"
                found.append(self._fault(day, rule.name, rule.says, expected, observed))
        return found

    def _fault(self, day: date, name: str, says: str, expected: str, observed: str) -> Check:
        verdict: Verdict = "failed" if day == self.day else "held"
        return Check("events", name, says, verdict, expected, observed)

    def _accepted(self, day: date, faults: Sequence[Check]) -> Check:
        observed = "; ".join(f"{fault.name} {fault.observed}" for fault in faults)
        expected = "; ".join(fault.expected for fault in faults)
        return Check("events", f"accepted_{day}", str(self.accepted[day]), "accepted", expected, observed)


def tallies(rows: DataFrame, rules: Sequence[Rule]) -> dict[date, Tally]:
    """Count the annotated events of each day by rule, in one Spark job; those with a wrong clock are of no day."""
    among = [F.count_if(F.expr(rule.among)) for rule in rules]
    broken = [F.count_if(F.expr(rule.among) & F.expr(rule.broken)) for rule in rules]
    pairs = [F.array(*pair).alias(rule.name) for rule, pair in zip(rules, zip(broken, among, strict=True), strict=True)]
    timed = rows.where(F.col(CLOCK).isNull() & F.col("event_time").isNotNull())
    found = timed.groupBy(F.to_date("event_time").alias("_on")).agg(
        F.count_if(F.size(REASONS) == 0).alias("_good"), *pairs
    )
    return {
        row["_on"]: Tally(row["_good"], {rule.name: tuple(row[rule.name]) for rule in rules}) for row in found.collect()
    }
