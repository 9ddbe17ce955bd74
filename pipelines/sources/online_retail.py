"""UCI Online Retail and Online Retail II: order lines of a gift-ware shop, as purchases.

One line is one `purchase`; the invoice is the session; a line without a customer is anonymous. The shop's local
times are taken as UTC. What is left out is counted in `dropped`, in this order, a line under its first reason:

    cancellation            invoice begins with C (cancellation) or A (bad debt)
    non_product_code        stock code is not five digits with letters behind, DCGS…, or SP + digits: postage, fees,
                            samples, vouchers, manual corrections
    non_positive_quantity   write-offs and corrections of stock, and lines without a quantity
    non_positive_price      gifts and corrections, and lines without a price
    no_time                 lines without a date
    exact_duplicate         all columns equal to an earlier line; the publisher's two sheets overlap by nine days
    cancelled_purchase      the line that a cancellation takes back: the latest one before it with the same customer,
                            stock code and quantity that no other cancellation took

Lines are spread over scratch files by invoice, so that a bucket fits into memory whatever the size of the input. What
stays is a row per customer and country and per stock code, description and price, and some 400 bytes per cancellation.
"""

import shutil
import uuid
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from feature_repo.events import EVENTS, ITEMS, USERS, EventType
from pipelines.sources import clock, coercion, files, gift_ware, source, workbook
from recsys.errors import BadData

ALIASES = {
    "Invoice": "invoice",
    "InvoiceNo": "invoice",
    "StockCode": "code",
    "Description": "description",
    "Quantity": "quantity",
    "InvoiceDate": "time",
    "Price": "price",
    "UnitPrice": "price",
    "Customer ID": "customer",
    "CustomerID": "customer",
    "Country": "country",
}
COLUMNS = ("invoice", "code", "description", "quantity", "time", "price", "customer", "country")
PRODUCT = r"^(\d{5}[A-Za-z]*|DCGS\w+|SP\d+)$"
BUCKET_LINES = 400_000  # held at a time, some 150 MB
LINE_BYTES = {".csv": 80, ".gz": 8}  # of a line in text, plain and compressed
REASONS = ("cancellation", "non_product_code", "non_positive_quantity", "non_positive_price", "no_time")
AMERICAN = "%m/%d/%Y %H:%M"
Key = tuple[str, str, int]  # customer, code, quantity
Cancellation = tuple[int, str, Key]  # time, invoice, what it takes back


@dataclass(frozen=True)
class Ledger:
    """The clean lines of an input, as of a moment.

    Attributes:
        buckets: one parquet file each: COLUMNS and `nth`, the number of the line among those of its invoice and code.
        products: code, title, price, first: one row per stock code.
        customers: customer, country, first: one row per customer.
    """

    buckets: list[Path]
    products: pd.DataFrame
    customers: pd.DataFrame


class Tally:
    """Counts lines, and finds the first, by some columns over a stream of tables; holds one row per combination."""

    def __init__(self, *keys: str) -> None:
        self._keys = list(keys)
        self._parts: list[pa.Table] = []

    def add(self, lines: pa.Table) -> None:
        counted = lines.select([*self._keys, "time"]).append_column("lines", pa.repeat(1, lines.num_rows))
        groups = pa.concat_tables([*self._parts, counted]).group_by(self._keys, use_threads=False)
        found = groups.aggregate([("time", "min"), ("lines", "sum")])
        names = [*self._keys, "time", "lines"]
        self._parts = [found.select([*self._keys, "time_min", "lines_sum"]).rename_columns(names)]

    def frame(self) -> pd.DataFrame:
        """The keys, `time` of the first line, and `lines`."""
        frame: pd.DataFrame = self._parts[0].to_pandas()
        return frame


class OnlineRetail:
    """See `source.Source`.

    Args:
        path: a parquet, csv or xlsx file.
        work: folder for scratch files and for the conversion of a workbook.
    """

    def __init__(self, path: Path, work: Path) -> None:
        self.path = files.require(path)
        self.work = work
        self.dropped: Counter[str] = Counter()
        self._ledgers: dict[datetime, Ledger] = {}
        self._scratch = work / f"ledger-{uuid.uuid4().hex}"
        weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)

    def files(self) -> list[Path]:
        return [self.path]

    def times(self) -> Iterator[Any]:
        return (rows.column("time") for rows in _raw(self.path, self.work, ("time",)))

    def last(self) -> datetime:
        return clock.Days.read(self.times()).last(f"{self.path} has no rows")

    def events(self, since: datetime, until: datetime) -> Iterator[pa.RecordBatch]:
        for bucket in self._ledger(until).buckets:
            for lines in files.parquet(bucket, where=pc.field("time") >= pa.scalar(since, source.TIME)):
                yield _events(lines)

    def items(self, until: datetime) -> Iterator[pa.RecordBatch]:
        products = self._ledger(until).products
        columns = {
            "item_id": products["code"],
            "title": products["title"],
            "category": [gift_ware.category(title) for title in products["title"]],
            "price": products["price"],
            "currency": ["GBP"] * len(products),
            "created_at": products["first"],
            "available": [True] * len(products),
        }
        arrays = {name: pa.array(values) for name, values in columns.items()}
        yield source.conform(ITEMS, arrays, len(products))

    def users(self, until: datetime) -> Iterator[pa.RecordBatch]:
        customers = self._ledger(until).customers
        columns = {"user_id": "customer", "region": "country", "signup_date": "first"}
        arrays = {name: pa.array(customers[column]) for name, column in columns.items()}
        yield source.conform(USERS, arrays, len(customers))

    def _ledger(self, until: datetime) -> Ledger:
        if until not in self._ledgers:
            folder = self._scratch / str(len(self._ledgers))
            folder.mkdir(parents=True)
            self._ledgers[until], self.dropped = _clean(self.path, self.work, folder, until)
        return self._ledgers[until]


def _table(path: Path, work: Path) -> Path:
    """The file itself, or the conversion of a workbook. Raises BadData if its kind or its columns are not ours."""

    def check(header: Sequence[str]) -> None:
        known = {ALIASES[name] for name in header if name in ALIASES}
        missing, unknown = sorted(set(COLUMNS) - known), sorted(set(header) - set(ALIASES))
        if missing or unknown:
            raise BadData(f"{path}: no column for {missing}, unknown columns {unknown}; it has {list(header)}")

    kind = path.suffix.lower()
    if kind == ".xlsx":
        return workbook.parquet(path, work, check)
    if kind not in (".parquet", *LINE_BYTES):
        raise BadData(f"{path}: expected a file that ends in .parquet, .csv, .csv.gz or .xlsx")
    check(_header(path))
    return path


def _header(table: Path) -> list[str]:
    return files.csv_columns(table) if table.suffix.lower() in LINE_BYTES else list(files.schema(table).names)


def _raw(path: Path, work: Path, wanted: Sequence[str] = COLUMNS) -> Iterator[pa.RecordBatch]:
    """The lines as they are, in columns of our names and types."""
    table = _table(path, work)
    include = [name for name in _header(table) if ALIASES[name] in wanted]
    text = table.suffix.lower() in LINE_BYTES
    batches = files.csv(table, {}, include=include) if text else files.parquet(table, include)
    with files.reading(path):
        for batch in batches:
            columns = {ALIASES[name]: _typed(ALIASES[name], batch.column(name)) for name in include}
            yield pa.record_batch([columns[name] for name in wanted], names=list(wanted))


def _typed(name: str, values: Any) -> Any:
    if name == "time":
        return _times(values)
    if name in ("quantity", "price"):
        number = values.cast(pa.float64())
        number = pc.if_else(pc.is_nan(number), None, number)
        return pc.round(number).cast(pa.int64()) if name == "quantity" else number
    text = coercion.ids(values)
    text = coercion.without_point(text) if name == "customer" else text
    return pc.utf8_upper(text) if name == "code" else text


def _times(values: Any) -> Any:
    """ISO 8601, or month/day/year hour:minute as in the first edition's csv."""
    if pa.types.is_string(values.type) and pc.any(pc.match_substring(values, "/")).as_py():
        return pc.assume_timezone(pc.strptime(values, AMERICAN, "us"), "UTC")
    return coercion.timestamps(values)


def _clean(path: Path, work: Path, folder: Path, until: datetime) -> tuple[Ledger, Counter[str]]:
    dropped: Counter[str] = Counter()
    count = 1 + _lines(path, work) // BUCKET_LINES
    cancellations = _spread(path, work, folder, until, count, dropped)
    keys = {key for _, _, key in cancellations}
    raw = [folder / f"raw-{k}.arrow" for k in range(count)]
    buckets = [folder / f"lines-{k}.parquet" for k in range(count)]
    candidates: dict[Key, list[tuple[int, int, int]]] = defaultdict(list)
    for k, (source_file, target) in enumerate(zip(raw, buckets, strict=True)):
        lines = _deduplicated(source_file, dropped)
        pyarrow.parquet.write_table(lines, target)
        for key, time, row in _matching(lines, keys):
            candidates[key].append((time, k, row))
        source_file.unlink()
    taken = _taken_back(cancellations, candidates)
    dropped["cancelled_purchase"] = sum(len(rows) for rows in taken.values())
    products, customers = Tally("code", "description", "price"), Tally("customer", "country")
    for k, target in enumerate(buckets):
        lines = _finish(target, taken.get(k, []))
        products.add(lines)
        customers.add(lines)
    return Ledger(buckets, _products(products.frame()), _customers(customers.frame())), dropped


def _lines(path: Path, work: Path) -> int:
    """About how many lines an input has."""
    if (size := LINE_BYTES.get(path.suffix.lower())) is not None:
        return path.stat().st_size // size
    with files.reading(path):
        return int(pyarrow.parquet.read_metadata(_table(path, work)).num_rows)


def _spread(
    path: Path, work: Path, folder: Path, until: datetime, count: int, dropped: Counter[str]
) -> set[Cancellation]:
    """Spread the lines that pass the row rules over buckets; return the cancellations, each once."""
    cancellations: set[Cancellation] = set()
    schema = None
    with ExitStack() as stack:
        writers: list[Any] = []
        for batch in _raw(path, work):
            if schema is None:
                schema = batch.schema
                writers = [
                    stack.enter_context(pa.ipc.new_file(folder / f"raw-{k}.arrow", schema)) for k in range(count)
                ]
            rows = batch.filter(pc.fill_null(pc.less(batch.column("time"), pa.scalar(until, source.TIME)), True))
            reason = _reasons(rows)
            for code, name in enumerate(REASONS, start=1):
                dropped[name] += int((reason == code).sum())
            cancellations.update(_cancellations(rows))
            good = rows.filter(pa.array(reason == 0))
            invoices = pd.util.hash_array(good.column("invoice").to_numpy(zero_copy_only=False)) % count
            for k in range(count):
                writers[k].write_batch(good.filter(pa.array(invoices == k)))
        if schema is None:
            raise BadData(f"{path} has no rows")
    return cancellations


def _reasons(rows: pa.RecordBatch) -> NDArray[np.int64]:
    """[n] 0 for a good line, else 1 + the row of its first reason in REASONS."""

    def holds(condition: Any) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = pc.fill_null(condition, True).to_numpy(zero_copy_only=False)
        return found

    broken = [
        holds(pc.match_substring_regex(rows.column("invoice"), r"^[CcAa]")),
        holds(pc.invert(pc.match_substring_regex(rows.column("code"), PRODUCT))),
        holds(pc.less_equal(rows.column("quantity"), 0)),
        holds(pc.less_equal(rows.column("price"), 0)),
        holds(pc.is_null(rows.column("time"))),
    ]
    return np.select(broken, list(range(1, len(broken) + 1)), 0)


def _cancellations(rows: pa.RecordBatch) -> Iterator[Cancellation]:
    is_one = pc.and_(
        pc.fill_null(pc.match_substring_regex(rows.column("invoice"), r"^[Cc]"), False),
        pc.and_(pc.is_valid(rows.column("customer")), pc.is_valid(rows.column("time"))),
    )
    found = rows.filter(pc.and_(is_one, pc.fill_null(pc.less(rows.column("quantity"), 0), False)))
    times = found.column("time").cast(pa.int64()).to_pylist()
    keys = zip(
        found.column("customer").to_pylist(),
        found.column("code").to_pylist(),
        pc.negate(found.column("quantity")).to_pylist(),
        strict=True,
    )
    yield from zip(times, found.column("invoice").to_pylist(), keys, strict=True)


def _deduplicated(path: Path, dropped: Counter[str]) -> pa.Table:
    """A bucket without exact duplicates, by time; `nth` tells lines of one invoice and code apart."""
    with pa.memory_map(str(path)) as stream:
        lines = pa.ipc.open_file(stream).read_all()
    codes = pd.DataFrame({name: _ordinals(lines.column(name)) for name in COLUMNS})
    again = codes.duplicated().to_numpy()
    dropped["exact_duplicate"] += int(again.sum())
    kept = codes[~again]
    nth = kept.groupby(["invoice", "code"]).cumcount().to_numpy()
    unique = lines.filter(pa.array(~again)).append_column("nth", pa.array(nth))
    return unique.take(pc.sort_indices(unique, [("time", "ascending"), ("invoice", "ascending")]))


def _ordinals(values: Any) -> NDArray[Any]:
    """A column as numbers that are equal exactly where the values are; -1 for nothing."""
    indices: NDArray[Any] = pc.fill_null(values.combine_chunks().dictionary_encode().indices, -1).to_numpy()
    return indices


def _matching(lines: pa.Table, keys: set[Key]) -> Iterator[tuple[Key, int, int]]:
    """Lines that some cancellation may take back, as (key, time, row)."""
    codes = pc.is_in(lines.column("code"), pa.array({code for _, code, _ in keys}, pa.string()))
    rows = np.flatnonzero(pc.and_(codes, pc.is_valid(lines.column("customer"))).to_numpy())
    some = lines.select(["customer", "code", "quantity", "time"]).take(rows)
    times = some.column("time").cast(pa.int64()).to_pylist()
    parts = (some.column(name).to_pylist() for name in ("customer", "code", "quantity"))
    for row, time, key in zip(rows.tolist(), times, zip(*parts, strict=True), strict=True):
        if key in keys:
            yield key, time, row


def _taken_back(
    cancellations: set[Cancellation], candidates: dict[Key, list[tuple[int, int, int]]]
) -> dict[int, list[int]]:
    """Rows to drop, by bucket: each cancellation takes the latest earlier line of its key that is left."""
    taken: dict[int, list[int]] = defaultdict(list)
    for lines in candidates.values():
        lines.sort()
    for time, _, key in sorted(cancellations):
        lines = candidates.get(key, [])
        earlier = [n for n, (bought, _, _) in enumerate(lines) if bought <= time]
        if earlier:
            _, bucket, row = lines.pop(earlier[-1])
            taken[bucket].append(row)
    return taken


def _finish(path: Path, rows: list[int]) -> pa.Table:
    """Take rows out of a bucket; return what is left."""
    lines = pyarrow.parquet.read_table(path)
    keep = np.ones(lines.num_rows, bool)
    keep[rows] = False
    lines = lines.filter(pa.array(keep))
    pyarrow.parquet.write_table(lines, path)
    return lines


def _products(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per stock code: most frequent description (first by alphabet among equals), median price, first sale."""
    named = rows.dropna(subset=["description"])
    named = named[named["description"] != ""]
    counts = named.groupby(["code", "description"])["lines"].sum().reset_index()
    best = counts.sort_values(["code", "lines", "description"], ascending=[True, False, True])
    titles = best.drop_duplicates("code").set_index("code")["description"].map(gift_ware.title)
    prices = rows.sort_values(["code", "price"])
    sold = prices.groupby("code")["lines"]
    middle = prices[sold.cumsum() * 2 >= sold.transform("sum")].groupby("code")["price"].first()
    first = rows.groupby("code")["time"].min()
    table = pd.DataFrame({"first": first, "price": middle, "title": titles}).rename_axis("code").reset_index()
    table["title"] = table["title"].fillna("Item " + table["code"])
    return table


def _customers(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per customer: the country and the time of the first order."""
    named = rows.dropna(subset=["customer"])
    ordered = named.sort_values(["customer", "time", "country"]).drop_duplicates("customer")
    return ordered.rename(columns={"time": "first"})[["customer", "country", "first"]].reset_index(drop=True)


def _events(lines: pa.RecordBatch) -> pa.RecordBatch:
    count = lines.num_rows
    nth = lines.column("nth").cast(pa.string())
    columns = {
        "event_id": pc.binary_join_element_wise("or", lines.column("invoice"), lines.column("code"), nth, "-"),
        "user_id": lines.column("customer"),
        "session_id": lines.column("invoice"),
        "item_id": lines.column("code"),
        "event": pa.array([str(EventType.PURCHASE)] * count),
        "value": lines.column("price"),
        "quantity": lines.column("quantity"),
        "region": lines.column("country"),
        "event_time": lines.column("time"),
    }
    return source.conform(EVENTS, columns, count)
