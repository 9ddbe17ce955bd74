"""A lake of two tastes: half of the users buy mugs, half buy lamps, each in a fixed round. What comes next can be
said by eye, and a model that learns anything at all finds it."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from feature_repo import events, names
from pipelines import datasets
from pipelines.datasets import Lake

FIRST = date(2024, 3, 4)
DAYS = 24
LAST = FIRST + timedelta(days=DAYS - 1)
KINDS = ("mug", "lamp")
EACH = 80  # items of a kind; together more than the hundred that recall@100 may list
USERS = 80
NEWCOMER = "lamp-new"  # in the catalogue since the last day before the holdout, never bought


def write(lake: Lake) -> None:
    """Publish everything that training and the gate read."""
    for number in range(DAYS):
        lake.path(datasets.EVENTS, FIRST + timedelta(days=number)).mkdir(parents=True)
    lake.write(datasets.ITEMS, LAST, items())
    lake.write(datasets.USERS, LAST, users())
    lake.write(datasets.SEQUENCES, LAST, sequences())
    for number in range(DAYS):
        day = FIRST + timedelta(days=number)
        lake.write(datasets.feature_view("item_stats"), day, stats(day))


def items() -> pa.Table:
    rows = [_item(f"{kind}-{n}", kind, n) for kind in KINDS for n in range(EACH)]
    rows.append(_item(NEWCOMER, "lamp", 3) | {"created_at": datetime(2024, 3, 24, tzinfo=UTC)})
    return pa.Table.from_pylist(rows, schema=events.ITEMS.arrow())


def _item(item_id: str, kind: str, n: int) -> dict[str, object]:
    return {
        "item_id": item_id,
        "title": f"Fine {kind} of design {n}",
        "category": f"Home > {kind.title()}s",
        "tags": [kind, "gift"],
        "brand": f"{kind} works",
        "price": 5.0 + n,
        "created_at": datetime(2024, 1, 1, tzinfo=UTC),
        "available": True,
    }


def users() -> pa.Table:
    rows = [
        {"user_id": f"u{n}", "region": "DE", "preferences": [f"Home > {KINDS[n % 2].title()}s"]} for n in range(USERS)
    ]
    return pa.Table.from_pylist(rows, schema=events.USERS.arrow())


def sequences() -> pa.Table:
    """Every user buys two items of its kind every second day; a session without a user does so once."""
    random = np.random.default_rng(5)
    rows = []
    for n in range(USERS):
        kind, at, bought, times = KINDS[n % 2], int(random.integers(EACH)), [], []
        for day in range(n % 2, DAYS, 2):
            moment = datetime.combine(FIRST + timedelta(days=day), datetime.min.time(), UTC) + timedelta(
                hours=9, minutes=n
            )
            for second in range(2):
                bought.append(f"{kind}-{at % EACH}")
                times.append(int(moment.timestamp()) + 60 * second)
                at += 1
        rows.append(_sequence(f"u{n}", True, bought, times))
    start = int(datetime(2024, 3, 5, 12, tzinfo=UTC).timestamp())
    rows.append(_sequence("s1", False, ["mug-1", "mug-2", "mug-3"], [start, start + 30, start + 60]))
    return pa.Table.from_pylist(rows, schema=SEQUENCES)


def _sequence(visitor: str, is_user: bool, bought: list[str], times: list[int]) -> dict[str, object]:
    return {
        "visitor_id": visitor,
        "is_user": is_user,
        "region": "DE",
        "age_group": None,
        "items": bought,
        "events": ["purchase"] * len(bought),
        "times": times,
        "values": [9.5] * len(bought),
    }


def stats(day: date) -> pa.Table:
    """All zero but the popularity, which is the same for all items that were ever bought."""
    end, rows = datasets.end_of(day), []
    for kind in KINDS:
        for n in range(EACH):
            facts = dict.fromkeys(names.ITEM_STATS, 0.0) | {"popularity": 3.0}
            rows.append({"item_id": f"{kind}-{n}", "event_timestamp": end} | facts)
    fields = [("item_id", pa.string()), ("event_timestamp", pa.timestamp("us", tz="UTC"))]
    return pa.Table.from_pylist(rows, pa.schema(fields + [(name, pa.float32()) for name in names.ITEM_STATS]))


SEQUENCES = pa.schema(
    [
        ("visitor_id", pa.string()),
        ("is_user", pa.bool_()),
        ("region", pa.string()),
        ("age_group", pa.string()),
        ("items", pa.list_(pa.string())),
        ("events", pa.list_(pa.string())),
        ("times", pa.list_(pa.int64())),
        ("values", pa.list_(pa.float64())),
    ]
)
