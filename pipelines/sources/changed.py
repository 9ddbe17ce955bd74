"""What the API was told of items, from the closed segments of the bus topic `items`.

The newest record of an item stands in place of what the source says of it, whatever its age: who tells the API of an
item does so for all of its changes. An item that only the API knows is in no source, so the topic is kept whole; the
segments of a past day are joined to one file. A line that is no record is counted, logged and left in its place.

What is held in memory is one row per item that was ever told of, some 2 KB each.
"""

import fcntl
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo import changes
from feature_repo.events import ITEMS
from pipelines.sources import source
from recsys import bus

log = logging.getLogger(__name__)

TOPIC = "items"
NEVER = datetime.min.replace(tzinfo=UTC)
_NANOSECONDS_PER_DAY = 86_400 * 10**9


@dataclass
class Changed:
    """The last word on each item.

    Attributes:
        told: per item, when it was told of last, and how it is.
        deleted: per item, when it was deleted last.
        dropped: lines that are no records.
    """

    root: Path
    told: dict[str, tuple[datetime, changes.Item]] = field(default_factory=dict)
    deleted: dict[str, datetime] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.told.keys() | self.deleted.keys())

    def files(self) -> list[Path]:
        return bus.closed(self.root, TOPIC)

    def over(self, batches: Iterable[pa.RecordBatch], until: datetime) -> Iterator[pa.RecordBatch]:
        """A catalogue in batches of `source.relaxed(ITEMS)`, with the changes in place and new items behind.

        Items that entered the catalogue at `until` or later do not exist yet.
        """
        new = dict.fromkeys(self.told)
        for batch in batches:
            yield from self._changed(batch, until, new)
        yield from _rows(({"item_id": item_id} | self._now(item_id) for item_id in new), until)

    def add(self, line: bytes) -> None:
        """Take one line of the topic. Raises ValueError, TypeError or KeyError that says what is wrong."""
        record = json.loads(line)
        item_id, moment = record["item_id"], datetime.fromisoformat(record["received_at"])
        if record["item"] is None:
            self.deleted[item_id] = max(moment, self.deleted.get(item_id, NEVER))
            return
        item = changes.checked(record["item"])
        if moment >= self.told.get(item_id, (NEVER,))[0]:
            self.told[item_id] = (moment, item)

    def _changed(self, batch: pa.RecordBatch, until: datetime, new: dict[str, None]) -> Iterator[pa.RecordBatch]:
        """A batch with the changes in place; the items that it has are taken out of `new`."""
        ids = batch.column("item_id").to_pylist()
        told = pa.array([item_id in self.told or item_id in self.deleted for item_id in ids], pa.bool_())
        rows = batch.filter(told).to_pylist()
        if not rows:
            yield batch
            return
        yield batch.filter(pc.invert(told))
        yield from _rows((row | self._now(row["item_id"]) for row in rows), until)
        for row in rows:
            new.pop(row["item_id"], None)

    def _now(self, item_id: str) -> dict[str, Any]:
        """What is to be said of an item in place of what the source says."""
        told, item = self.told.get(item_id, (NEVER, {}))
        gone = self.deleted.get(item_id, NEVER) > told
        return {**item, **({"available": False} if gone else {})}


def read(root: Path) -> Changed:
    """All that was told, by time of receipt. Closed segments of days before today are joined, each day's to one."""
    found = Changed(root)
    folder = bus.folder(root, TOPIC)
    if not folder.exists():
        return found
    with (folder / ".join.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who reads while another joins would miss what has moved
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        for _, segments in groupby(bus.opened_before(root, TOPIC, today), _day):
            bus.join(list(segments))
        for segment in bus.closed(root, TOPIC):
            for line in segment.read_bytes().splitlines():
                try:
                    found.add(line)
                except (ValueError, TypeError, KeyError) as error:
                    found.dropped["bad_item_line"] += 1
                    log.warning("%s has a line that is no change of an item: %s", segment.name, error)
    return found


def _day(segment: Path) -> int:
    """The day of opening; segments are named by nanoseconds."""
    return int(segment.name.partition("-")[0]) // _NANOSECONDS_PER_DAY


def _rows(items: Iterable[Mapping[str, Any]], until: datetime) -> Iterator[pa.RecordBatch]:
    kept = [item for item in items if item["created_at"] is None or item["created_at"] < until]
    if kept:
        yield from source.sliced(pa.Table.from_pylist(kept, source.relaxed(ITEMS)))
