"""Ids that stand for nobody: a source says `?nobody=ID,ID` behind its path, and their events are anonymous.

Exports write many things for a visitor who was not logged in. Empty ids are nobody in any case (`coercion`); a word or
a number may be a real user, so it is a person's to say. Until somebody does, the quality gate stops a batch that has a
large share of such ids, since all those visitors would be one user.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.source import Source

OPTION = "?nobody="


def split(text: str) -> tuple[str, tuple[str, ...]]:
    """`NAME:PATH` and the ids that are nobody, of `NAME:PATH?nobody=ID,ID`."""
    place, _, ids = text.partition(OPTION)
    return place, tuple(filter(None, (one.strip() for one in ids.split(","))))


class Without:
    """A source in which some ids are nobody; see `source.Source`."""

    def __init__(self, source: Source, ids: Sequence[str]) -> None:
        self._source, self._ids = source, pa.array(ids, pa.string())

    @property
    def dropped(self) -> Counter[str]:
        return self._source.dropped

    def files(self) -> list[Path]:
        return self._source.files()

    def times(self) -> Iterator[Any]:
        return self._source.times()

    def last(self) -> datetime:
        return self._source.last()

    def events(self, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
        for batch in self._source.events(since, until):
            place = batch.schema.get_field_index("user_id")
            users = batch.column(place)
            known = pc.if_else(pc.is_in(users, self._ids), pa.scalar(None, pa.string()), users)
            yield batch.set_column(place, batch.schema.field(place), known)

    def items(self, until: datetime) -> Iterator[pa.RecordBatch]:
        return self._source.items(until)

    def users(self, until: datetime) -> Iterator[pa.RecordBatch]:
        for batch in self._source.users(until):
            yield batch.filter(pc.invert(pc.is_in(batch.column("user_id"), self._ids)))
