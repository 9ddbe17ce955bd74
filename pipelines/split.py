"""The temporal split of a data day: what the models may learn from, and the future they are judged on.

The towers train on events before `cutoff`. Events in [cutoff, end) are the holdout: the gate ranks the whole
catalogue for them, and the ranker, which needs requests that the towers never saw, learns from its first part.
What was evaluated is what ships: no refit on the holdout, so that a figure belongs to the artifact it names.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pipelines import datasets
from recsys.errors import BadData

LONGEST_DAYS = 28
SHARE = 12  # the holdout is a twelfth of the span: five days of two months, four weeks of a year


@dataclass(frozen=True)
class Split:
    """Moments in UTC: parameters are fitted on times before `cutoff`, judged on [cutoff, end)."""

    cutoff: datetime
    end: datetime

    @property
    def days(self) -> int:
        """Length of the holdout."""
        return (self.end - self.cutoff).days


def holdout(lake: datasets.Lake, day: date) -> Split:
    """The split of a data day, from the span of the published events alone, so that every stage finds the same.

    Raises:
        BadData: no events, or fewer than two days of them.
    """
    days = lake.days(datasets.EVENTS, until=day)
    if not days or days[0] == day:
        raise BadData(f"events before {day} cover {len(days)} days; a temporal split needs at least 2")
    span = (day - days[0]).days + 1
    end = datasets.end_of(day)
    return Split(end - timedelta(days=min(max(span // SHARE, 1), LONGEST_DAYS)), end)
