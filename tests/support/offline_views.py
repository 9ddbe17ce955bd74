"""Rows of the offline tables of Feast's views, written by hand: what is not given is zero, "" or empty."""

from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from feast import types

from feature_repo import definitions, names
from pipelines import datasets
from recsys.settings import Settings

KINDS = {
    types.String: (pa.string(), ""),
    types.Int64: (pa.int64(), 0),
    types.Float32: (pa.float32(), 0.0),
    types.Float64: (pa.float64(), 0.0),
    types.Bool: (pa.bool_(), False),
}


def table(view: str, stamp: datetime, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of a view, all of one moment; each has its entity's key."""
    key = names.ENTITY_OF_VIEW[view]
    columns = {key: pa.array([row[key] for row in rows], pa.string())}
    for field in definitions.SCHEMAS[view]:
        many = isinstance(field.dtype, types.Array)
        kind, nothing = KINDS[field.dtype.base_type if many else field.dtype]
        values = [row.get(field.name, [] if many else nothing) for row in rows]
        columns[field.name] = pa.array(values, pa.list_(kind) if many else kind)
    assert {name for row in rows for name in row} <= set(columns)
    columns["event_timestamp"] = pa.array([stamp] * len(rows), pa.timestamp("us", "UTC"))
    return pa.table(columns)


def put(settings: Settings, view: str, stamp: datetime, **values: Any) -> None:
    """One row more, in the partition of the day of its stamp."""
    folder = datasets.lake(settings).path(datasets.feature_view(view), stamp.date())
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table(view, stamp, [values]), folder / f"{len(list(folder.iterdir()))}.parquet")
