"""The events of a run as they come in: those of the source and those of the API, each with what is wrong with its time.

Plausibility is judged here and not by the quality gate, for it needs all of the source and not one batch of it. What is
wrong is not dropped: it is staged with its reason, and the gate puts it into quarantine.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.events import EVENTS
from pipelines import datasets, digests, sources
from pipelines.sources import clock, source
from pipelines.sources.bus import Bus
from pipelines.sources.clock import Days, Span
from pipelines.sources.source import Source

NO_TIME = "missing_event_time"
STRAYS = source.relaxed(EVENTS).append(pa.field("reason", pa.string()))


@dataclass
class Intake:
    """What a run reads its events from.

    Attributes:
        main: the source; None for a run that takes only what the API has received.
        received: the bus.
        since, until: the span of time that is read, the end exclusive.
        days: rows of the source per day, whatever their clocks say.
        span: its plausible days.
        dropped: rows that the source's adapter left out, by reason, after `events` has been read to its end.
    """

    main: Source | None
    received: Bus
    since: datetime
    until: datetime
    days: Days = field(default_factory=Days)
    span: Span | None = None
    dropped: Counter[str] = field(default_factory=Counter)

    def events(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Batches with the reason why their times are not plausible; "" for good ones. None is empty."""
        if self.main is not None:
            for batch in self.main.events(self.since, self.until):
                yield from self._sorted(batch)
            self.dropped = Counter(self.main.dropped)
            yield from self._ahead(self.main)
        for batch in self.received.events(self.since, self.until):
            if batch.num_rows:
                yield "", batch

    def untimely(self, days: Collection[date] | None) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Events that the API received at a wrong time, on one of some days or, for None, ever."""
        for reason, batch in self.received.strays():
            some = batch if days is None else of_days(batch, days, "ingested_at")
            if some.num_rows:
                yield reason, some

    def strays(self) -> set[date]:
        """Days of the source that are not plausible."""
        return {day for day in self.days.rows if self.span is not None and self.span.reason(day)}

    def _sorted(self, batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
        """A batch by reason."""
        known = batch.column("event_time").is_valid()
        timed = batch.filter(known)
        if timed.num_rows < batch.num_rows:
            yield NO_TIME, batch.filter(pc.invert(known))
        numbers = digests.day_numbers(timed.column("event_time"))
        reasons = {number: self._reason(number) for number in np.unique(numbers).tolist()}
        for reason in sorted(set(reasons.values())):
            rows = np.isin(numbers, [number for number, why in reasons.items() if why == reason])
            yield reason, timed.filter(pa.array(rows))

    def _reason(self, number: int) -> str:
        return self.span.reason(digests.EPOCH + timedelta(days=number)) if self.span else ""

    def _ahead(self, main: Source) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Rows behind what is read that no later run will want either."""
        if self.span is None or all(day <= self.span.last for day in self.days.rows):
            return
        for batch in main.events(max(self.until, datasets.end_of(self.span.last)), sources.END):
            yield from (found for found in self._sorted(batch) if found[0] == clock.FUTURE)


def whole(main: Source, received: Bus, until: datetime, accepted: Collection[date]) -> Intake:
    """All that a source and the API have up to a moment."""
    days = Days.read(main.times())
    span = days.span(datetime.now(UTC).date(), accepted)
    return Intake(main, received, sources.BEGINNING, until, days, span)


def so_far(received: Bus, day: date) -> Intake:
    """What the API has received of a day."""
    return Intake(None, received, datetime.combine(day, time(), tzinfo=UTC), datasets.end_of(day))


def of_days(batch: pa.RecordBatch, days: Collection[date], column: str = "event_time") -> pa.RecordBatch:
    """The rows of some days by a column that is never empty."""
    numbers = [(day - digests.EPOCH).days for day in days]
    return batch.filter(pa.array(np.isin(digests.day_numbers(batch.column(column)), numbers)))


def received_at(batch: pa.RecordBatch, moment: datetime) -> pa.RecordBatch:
    """A batch in which events that do not say when they were received were received at a moment."""
    place = EVENTS.names.index("ingested_at")
    filled: Any = pc.fill_null(batch.column(place), pa.scalar(moment, source.TIME))
    return batch.set_column(place, batch.schema.field(place), filled)
