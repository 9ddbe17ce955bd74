"""What the events of a day are, as one short text: two inputs with the same rows have the same digest in any order.

A digest is the number of rows and the sum of their 64-bit hashes. When an event was received is no part of it: a source
that does not say it would differ every night. It is a means to see a change, not one against forgery.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

EMPTY = "0:0"
UNHASHED = "ingested_at"
EPOCH = date(1970, 1, 1)
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_NOTHING = np.uint64(0x2545F4914F6CDD1D)
Hashes = NDArray[np.uint64]


class Digests:
    """Sums up events as they pass.

    Attributes:
        rows: per day.
    """

    def __init__(self) -> None:
        self.rows: dict[date, int] = defaultdict(int)
        self._sums: dict[date, int] = defaultdict(int)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count events, all of which have a time."""
        days, place = np.unique(day_numbers(batch.column("event_time")), return_inverse=True)
        sums = np.zeros(len(days), np.uint64)
        np.add.at(sums, place, _rows(batch))
        for number, rows, total in zip(days.tolist(), np.bincount(place).tolist(), sums.tolist(), strict=True):
            day = EPOCH + timedelta(days=number)
            self.rows[day] += rows
            self._sums[day] = (self._sums[day] + total) % 2**64

    def by_day(self) -> Mapping[date, str]:
        return {day: f"{rows}:{self._sums[day]:x}" for day, rows in self.rows.items()}


def day_numbers(times: Any) -> NDArray[np.int32]:
    """[n] UTC days since 1970 of times that are all there."""
    numbers: NDArray[np.int32] = times.cast(pa.date32()).cast(pa.int32()).to_numpy(zero_copy_only=False)
    return numbers


def hashes(values: Any) -> Hashes:
    """[n] A hash of each value of a column; what is empty has one, too."""
    encoded = values.dictionary_encode()
    kinds = encoded.dictionary
    if pa.types.is_timestamp(kinds.type):
        kinds = kinds.cast(pa.int64())
    hashed: Hashes = np.append(pd.util.hash_array(kinds.to_numpy(zero_copy_only=False), categorize=False), _NOTHING)
    index: NDArray[np.int64] = encoded.indices.fill_null(len(kinds)).to_numpy(zero_copy_only=False)
    return hashed[index]


def _rows(batch: pa.RecordBatch) -> Hashes:
    """[n] A hash of each row; the place of a column counts."""
    total: Hashes = np.zeros(batch.num_rows, np.uint64)
    for name in batch.schema.names:
        if name != UNHASHED:
            total = (total ^ (total >> np.uint64(29))) * _PRIME + hashes(batch.column(name))
    mixed: Hashes = total ^ (total >> np.uint64(32))
    return mixed
