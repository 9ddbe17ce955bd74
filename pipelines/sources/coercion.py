"""Columns of other people's files in plain Arrow types, whichever tool wrote them.

pandas writes times in nanoseconds and, where an id is missing, ids as floats; Polars and pandas 3 write large strings;
spreadsheets and databases write an empty value as "". All of it means the same, and is the same here.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import BadData

TIME = pa.timestamp("us", tz="UTC")
# Epoch numbers of the years 1990 to 2100 by their unit; the ranges do not meet.
SCALES = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
EPOCHS = {unit: (631_152_000 * scale, 4_102_444_800 * scale) for unit, scale in SCALES.items()}
WHOLE = r"^-?\d+\.0+$"  # a whole number that was written as a float


def plain(values: Any) -> Any:
    """The same values as string, list<string>, timestamp or number: neither encoded, nor large, nor a view."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(array.type):
        return plain(array.dictionary_decode())
    kind = _plain_type(array.type)
    return array if kind == array.type else array.cast(kind)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    t = pa.types
    if t.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_list(kind) or t.is_large_list(kind) or t.is_list_view(kind) or t.is_large_list_view(kind):
        return pa.list_(_plain_type(kind.value_type))
    if t.is_fixed_size_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    return pa.timestamp("ms") if t.is_date(kind) else kind


def text(values: Any) -> Any:
    """Text, where blank is empty."""
    array = plain(values).cast(pa.string())
    return pc.if_else(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(array)), 0), pa.scalar(None, pa.string()), array)


def ids(values: Any) -> Any:
    """Ids as text without space around them; whole numbers without a point, and not-a-number is empty.

    Ids in text stay as they are: "17850.0" may be an id, unless all of a column looks so (`floats`).
    """
    array = plain(values)
    if pa.types.is_floating(array.type):
        whole = pc.equal(pc.floor(array), array)
        short = pc.if_else(whole, array, None).cast(pa.int64()).cast(pa.string())
        known = pc.if_else(pc.is_nan(array), None, array).cast(pa.string())
        array = pc.coalesce(short, known)
    if pa.types.is_decimal(array.type):
        array = without_point(array.cast(pa.string()))
    return pc.utf8_trim_whitespace(text(array))


def without_point(values: Any) -> Any:
    """ "17850.0" is "17850"."""
    return pc.replace_substring_regex(values, r"^(-?\d+)\.0+$", r"\1")


def floats(batches: Iterable[pa.RecordBatch], names: Iterable[str]) -> set[str]:
    """The text columns of ids of which every value is a whole number with a point: a tool took them for floats.

    Reads no further than to the first batch that rules out all of them.
    """
    left, met = set(names), set[str]()
    for batch in batches:
        for name in sorted(left):
            values = text(batch.column(name)).drop_null()
            if not pc.all(pc.match_substring_regex(values, WHOLE)).as_py():
                left.discard(name)
            if len(values):
                met.add(name)
        if not left:
            break
    return left & met


def timestamps(values: Any) -> Any:
    """Times in UTC by the microsecond, of timestamps of any unit and zone, dates, and ISO 8601 text; UTC where no zone
    is named.

    Raises:
        BadData: the values are numbers.
        pa.ArrowInvalid: a text is not a time.
    """
    array = plain(values)
    if pa.types.is_timestamp(array.type):
        by_microsecond = pc.cast(
            array, options=pc.CastOptions(pa.timestamp("us", array.type.tz), allow_time_truncate=True)
        )
        return by_microsecond.cast(TIME) if array.type.tz else pc.assume_timezone(by_microsecond, "UTC")
    if pa.types.is_null(array.type):
        return array.cast(TIME)
    if not pa.types.is_string(array.type):
        raise BadData(f"times are {array.type}{_looks_like(array)}; write them as timestamps or as ISO 8601 text")
    moments = pc.replace_substring_regex(array, r"^(\d{4}-\d{2}-\d{2})$", r"\1T00:00:00")
    zoned = pc.match_substring_regex(moments, r"(Z|[+-]\d{2}:?\d{2})$")
    return pc.if_else(zoned, moments, pc.binary_join_element_wise(moments, "Z", "")).cast(TIME)


def _looks_like(numbers: Any) -> str:
    """The unit that epoch numbers seem to have, for a message."""
    known = numbers.drop_null()
    first = known[0].as_py() if len(known) else None
    unit = next((name for name, (low, high) in EPOCHS.items() if first is not None and low <= first <= high), "")
    return f", such as {first}" + (f", which may be epoch {unit}" if unit else "") if first is not None else ""


def within(kind: pa.DataType, name: str, since: datetime, until: datetime) -> Any:
    """An expression for rows of since..until, or without a time, that parquet compares with a column of its own type;
    None where it cannot: text, and dates."""
    if not pa.types.is_timestamp(kind):
        return None
    column, bounds = pc.field(name), []
    for moment in (since, until):
        aware = moment if kind.tz else moment.astimezone(UTC).replace(tzinfo=None)
        try:
            bounds.append(pa.scalar(aware, pa.timestamp("us", kind.tz)).cast(kind))
        except pa.ArrowInvalid:  # nanoseconds end in 2262: no value of the column is beyond
            bounds.append(None)
    first, end = bounds
    inside = [column >= first] if first is not None else []
    inside += [column < end] if end is not None else []
    expression = inside[0] if inside else pc.scalar(True)
    for more in inside[1:]:
        expression &= more
    return expression | column.is_null()
