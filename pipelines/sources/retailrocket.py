"""RetailRocket: views, carts and transactions of an anonymised shop.

    events.csv                timestamp (ms), visitorid, event, itemid, transactionid
    item_properties_part*.csv timestamp, itemid, property, value: the history of every property
    category_tree.csv         categoryid, parentid

The publisher names three properties: `categoryid`, `available`, and none other; numbers are written "n12.000". Property
790 is taken for the price, as published analyses do. Texts are hashed, so titles are made of the ids. A visitor is a
user, a visitor's day is a session. The latest property before `until` counts.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.events import EVENTS, ITEMS, USERS, EventType
from pipelines.sources import clock, coercion, files, source
from recsys.errors import BadData

EVENT = ("timestamp", "visitorid", "event", "itemid", "transactionid")
PROPERTY = ("timestamp", "itemid", "property", "value")
TREE = ("categoryid", "parentid")
TYPES = {"view": EventType.VIEW, "addtocart": EventType.ADD_TO_CART, "transaction": EventType.PURCHASE}
PRICE = "790"
KEPT = pa.array(["categoryid", "available", PRICE])
SOURCES = ("itemid", "property", "timestamp", "value", "timestamp")
EMPTY = pa.schema(
    [
        ("itemid", pa.string()),
        ("property", pa.string()),
        ("timestamp", pa.int64()),
        ("value", pa.string()),
        ("first", pa.int64()),
    ]
).empty_table()


class RetailRocket:
    """See `source.Source`.

    Args:
        path: folder of the publisher's files.
    """

    def __init__(self, path: Path) -> None:
        self.path = files.require(path)
        self.dropped: Counter[str] = Counter()
        self._log = files.require(path / "events.csv")
        self._tree = files.require(path / "category_tree.csv")
        self._parts = sorted(path.glob("item_properties*.csv"))
        if not self._parts:
            raise BadData(f"{path} has no item_properties*.csv")
        for file, names in ((self._log, EVENT), (self._tree, TREE), *((part, PROPERTY) for part in self._parts)):
            files.check_columns(file, files.csv_columns(file), names, names)

    def files(self) -> list[Path]:
        return [self._log, self._tree, *self._parts]

    def times(self) -> Iterator[Any]:
        return (rows.column("time") for rows in self._rows())

    def last(self) -> datetime:
        return clock.Days.read(self.times()).last(f"{self._log} has no events")

    def events(self, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
        prices = self._properties(until).filter(pc.equal(pc.field("property"), PRICE))
        known, amounts = prices.column("itemid").combine_chunks(), _numbers(prices.column("value").combine_chunks())
        raw, ours = pa.array(list(TYPES)), pa.array([str(kind) for kind in TYPES.values()])
        for rows in self._rows():
            kinds = rows.column("event")
            if unknown := sorted(set(pc.unique(kinds).to_pylist()) - set(TYPES), key=str):
                raise BadData(f"{self._log}: unknown event types {unknown}; expected {list(TYPES)}")
            user, item, time = rows.column("visitorid"), rows.column("itemid"), rows.column("time")
            priced = pc.not_equal(kinds, "view")
            price = amounts.take(pc.index_in(item, known))
            order = pc.fill_null(rows.column("transactionid"), "")
            stamp = rows.column("timestamp").cast(pa.string())
            columns = {
                "event_id": pc.binary_join_element_wise("rr", stamp, user, item, kinds, order, "-"),
                "user_id": user,
                "session_id": pc.binary_join_element_wise(user, pc.strftime(time, format="%Y%m%d"), "-"),
                "item_id": item,
                "event": ours.take(pc.index_in(kinds, raw)),
                "value": pc.if_else(priced, price, None),
                "quantity": pc.if_else(priced, pa.scalar(1, pa.int32()), None),
                "event_time": time,
            }
            yield source.within(source.conform(EVENTS, columns, rows.num_rows), since, until)

    def items(self, until: datetime) -> Iterator[pa.RecordBatch]:
        first = source.Earliest()
        for rows in self._rows():
            first.add(rows.column("itemid"), rows.column("time"))
        properties = self._properties(until)
        first.add(properties.column("itemid"), properties.column("first"))
        born = first.sorted()
        born = born.filter(pc.less(born.column("time"), pa.scalar(until, source.TIME)))
        ids = born.column("id").combine_chunks()
        parents = self._parents()

        def latest(name: str) -> Any:
            of_name = properties.filter(pc.equal(pc.field("property"), name))
            place = pc.index_in(ids, of_name.column("itemid").combine_chunks())
            return of_name.column("value").combine_chunks().take(place)

        categories = latest("categoryid").to_pylist()
        # Of the tree only what items use: a circle elsewhere in it harms nobody.
        paths = {key: self._path(key, parents) for key in set(categories) - {None}}
        columns = {
            "item_id": ids,
            "title": pc.binary_join_element_wise("Product", ids, " "),
            "category": pa.array([paths[key] if key else "Unknown" for key in categories]),
            "price": _numbers(latest(PRICE)),
            "created_at": born.column("time"),
            "available": pc.fill_null(pc.equal(latest("available"), "1"), False),
        }
        for batch in pa.table(columns).to_batches(max_chunksize=source.BATCH_ROWS):
            yield source.conform(ITEMS, {name: batch.column(name) for name in columns}, batch.num_rows)

    def users(self, until: datetime) -> Iterator[pa.RecordBatch]:
        first = source.Earliest()
        for rows in self._rows():
            past = rows.filter(pc.less(rows.column("time"), pa.scalar(until, source.TIME)))
            first.add(past.column("visitorid"), past.column("time"))
        for batch in source.sliced(first.sorted()):
            columns = {"user_id": batch.column("id"), "signup_date": batch.column("time")}
            yield source.conform(USERS, columns, batch.num_rows)

    def _rows(self) -> Iterator[pa.RecordBatch]:
        for batch in files.csv(self._log, {"timestamp": pa.int64()}):
            ids = {name: coercion.ids(batch.column(name)) for name in ("visitorid", "itemid", "transactionid")}
            for name, values in ids.items():
                batch = batch.set_column(batch.schema.get_field_index(name), name, values)
            yield batch.append_column("time", _moment(batch.column("timestamp")))

    def _properties(self, until: datetime) -> pa.Table:
        """A row per itemid and property: value, the latest before `until`, and first, the time of the first."""
        limit = int(until.timestamp() * 1000)
        parts = [EMPTY]
        for rows in self._kept():
            past = rows.filter(pc.less(rows.column("timestamp"), limit))
            parts.append(
                pa.table({name: past.column(ours) for name, ours in zip(EMPTY.column_names, SOURCES, strict=True)})
            )
            if sum(part.num_rows for part in parts[1:]) > source.MERGE_ROWS:
                parts = [_latest(pa.concat_tables(parts))]
        kept = _latest(pa.concat_tables(parts))
        return kept.set_column(4, "first", _moment(kept.column("first")))

    def _kept(self) -> Iterator[pa.RecordBatch]:
        for part in self._parts:
            for batch in files.csv(part, {"timestamp": pa.int64()}):
                yield batch.filter(pc.is_in(batch.column("property"), KEPT))

    def _parents(self) -> dict[str, str | None]:
        rows = (row for batch in files.csv(self._tree, {}) for row in batch.to_pylist())
        return {row["categoryid"]: row["parentid"] or None for row in rows}

    def _path(self, key: str, parents: Mapping[str, str | None]) -> str:
        """A category's path: "Category 140 > Category 1016". Raises BadData where the tree leads in a circle."""
        chain = [key]
        while (parent := parents.get(chain[0])) is not None:
            if parent in chain:
                circle = " > ".join([parent, *chain[: chain.index(parent) + 1]])
                raise BadData(f"{self._tree}: category {parent} is its own ancestor: {circle}; correct its parentid")
            chain.insert(0, parent)
        return " > ".join(f"Category {part}" for part in chain)


def _moment(milliseconds: Any) -> Any:
    return milliseconds.cast(pa.timestamp("ms")).cast(pa.timestamp("us")).cast(source.TIME)


def _numbers(values: Any) -> Any:
    """ "n277200.000" is 277200; what is no number is empty."""
    text = pc.if_else(pc.match_substring_regex(values, r"^n-?\d+(\.\d+)?$"), values, None)
    return pc.utf8_slice_codeunits(text, 1).cast(pa.float64())


def _latest(rows: pa.Table) -> pa.Table:
    """The row of the greatest timestamp per item and property, and the least timestamp as `first`."""
    keys = ["itemid", "property"]
    ordered = rows.sort_by([*((key, "ascending") for key in keys), ("timestamp", "ascending")])
    grouped = ordered.group_by(keys, use_threads=False).aggregate(
        [("timestamp", "last"), ("value", "last"), ("first", "min")]
    )
    return grouped.select([*keys, "timestamp_last", "value_last", "first_min"]).rename_columns(rows.column_names)
