"""Write a simulated shop as canonical tables, and beside them the truth behind it.

DIR/events/day=YYYY-MM-DD.parquet   columns of feature_repo.events.EVENTS, sorted by time
DIR/items/part-0.parquet            ITEMS
DIR/users/part-0.parquet            USERS
DIR/truth/items.parquet, users.parquet, space.npz, sessions/day=….parquet
DIR/meta.json                       the plan, counts and the attention curve
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from feature_repo import events as schema
from recsys.errors import UsageError
from simulator import behaviour, bots, frame, regret, restock, vocabulary, world
from simulator.catalogue import DAY_US
from simulator.frame import Frame
from simulator.world import Plan, World

Texts = Any  # an Arrow array of strings; its stubs know no way to build one from numpy
Progress = Callable[[int, int], None]
META = "meta.json"
GROUPS = 100_000  # rows of a row group


def write(plan: Plan, folder: Path, progress: Progress = lambda done, events: None) -> dict[str, Any]:
    """Simulate a plan into a folder, which is replaced; returns what meta.json says.

    Args:
        plan: how big, and when.
        folder: where to; must be empty, absent, or written by this function before.
        progress: called after each day with the days done and the events so far.

    Raises:
        UsageError: the folder holds something else.
    """
    _clear(folder)
    shop = world.build(plan)
    for name in ("events", "items", "users", "truth/sessions"):
        (folder / name).mkdir(parents=True)
    _save(items(shop), folder / "items" / "part-0.parquet")
    _save(users(shop), folder / "users" / "part-0.parquet")
    _truth(shop, folder / "truth")
    counts = np.zeros(len(frame.KINDS), np.int64)
    texts = _texts(shop)
    for index, made in enumerate(days(shop)):
        day = plan.day(index)
        _save(events(shop, made, texts), folder / "events" / f"day={day}.parquet")
        _save(_sessions(made, texts), folder / "truth" / "sessions" / f"day={day}.parquet")
        counts += np.bincount(made.kind, minlength=len(counts))
        progress(index + 1, int(counts.sum()))
    meta = {
        "plan": plan.model_dump(mode="json"),
        "events": int(counts.sum()),
        "event_types": dict(zip(frame.KINDS, counts.tolist(), strict=True)),
        "attention": world.attention().round(6).tolist(),
        "bots": int((shop.shoppers.bot > 0).sum()),
    }
    (folder / META).write_text(json.dumps(meta, indent=1))
    return meta


def days(shop: World) -> Iterator[Frame]:
    """The events of each calendar day, sorted by time; visits that last over midnight go on in the next day, and what
    is used up is bought again weeks later, and some of what was bought goes back."""
    plan = shop.plan
    bot_events = round(plan.events * bots.SHARE / plan.days)
    total = (plan.events - bot_events * plan.days) / behaviour.events_per_visit(shop)
    visits = np.diff(np.round(np.concatenate([[0.0], np.cumsum(behaviour.day_weights(shop))]) * total)).astype(int)
    late, planned = frame.empty(), frame.empty()
    for index in range(plan.days):
        end = plan.start_us + (index + 1) * DAY_US
        today, planned = planned.split(end)
        count = int(visits[index])
        again = restock.visits(shop, today, index, first_session=count + len(shop.shoppers))
        made = frame.concat([late, behaviour.day(shop, index, count, bot_events), again]).sorted()
        made, late = made.split(end)
        late = frame.concat([late, regret.returns(shop, made, index)])
        planned = frame.concat([planned, restock.due(shop, made, index)])
        yield made


def _clear(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / META).exists()):
        raise UsageError(f"{folder} holds something that is not a simulated shop; choose another --out")
    shutil.rmtree(folder)


def _save(table: pa.Table, path: Path) -> None:
    pyarrow.parquet.write_table(table, path, compression="zstd", compression_level=1, row_group_size=GROUPS)


def ids(prefix: str, rows: NDArray[np.int64], digits: int) -> Texts:
    """Numbers as text of equal length: u00000042. The order of text is the order of numbers."""
    shifted = pa.array(rows + 10**digits)
    text: Texts = pc.utf8_replace_slice(pc.cast(shifted, pa.string()), 0, 1, prefix)
    return text


def _texts(shop: World) -> dict[str, Texts]:
    """The text of every row that events refer to, made once."""
    regions = pa.array([region.code for region in vocabulary.REGIONS])
    return {
        "user": ids("u", np.arange(len(shop.shoppers)), 8),
        "item": ids("i", np.arange(len(shop.items)), 8),
        "region": regions.take(shop.shoppers.region),
        "kind": pa.array(frame.KINDS),
        "surface": pa.array(frame.SURFACES),
    }


def events(shop: World, made: Frame, texts: dict[str, Texts]) -> pa.Table:
    """A day's frame as rows of the canonical schema; event ids count on within the day."""
    if not len(made):
        return schema.EVENTS.arrow().empty_table()
    day = (made.time[0] - shop.plan.start_us) // DAY_US
    user = made.user
    columns: dict[str, Any] = {
        "event_id": ids("e", day * 100_000_000 + np.arange(len(made)), 13),
        "user_id": texts["user"].take(pa.array(made.user, mask=~made.known)),
        "session_id": ids("s", made.session, 12),
        "item_id": texts["item"].take(made.item),
        "event": texts["kind"].take(made.kind),
        "value": pa.array(made.value, mask=np.isnan(made.value)),
        "quantity": pa.array(made.quantity.astype(np.int32), mask=made.quantity < 0),
        "duration_sec": pa.array(made.duration, mask=np.isnan(made.duration)),
        "surface": texts["surface"].take(made.surface),
        "position": pa.array(made.position.astype(np.int32), mask=made.position < 0),
        "request_id": pc.if_else(pa.array(made.request >= 0), ids("r", np.maximum(made.request, 0), 12), None),
        "region": texts["region"].take(user),
        **{name: pa.nulls(len(made), pa.string()) for name in ("query", "category", "brand")},
        "event_time": pa.array(made.time).cast(pa.timestamp("us", tz="UTC")),
        "ingested_at": pa.nulls(len(made), pa.timestamp("us", tz="UTC")),
    }
    return pa.table(columns, schema=schema.EVENTS.arrow())


def _sessions(made: Frame, texts: dict[str, Texts]) -> pa.Table:
    """Who was really there, also in anonymous sessions."""
    session, first = np.unique(made.session, return_index=True)
    return pa.table({"session_id": ids("s", session, 12), "user_id": texts["user"].take(made.user[first])})


def items(shop: World) -> pa.Table:
    """The catalogue as canonical items; regions are named only where an item is restricted."""
    goods, count = shop.items, len(shop.items)
    codes = [region.code for region in vocabulary.REGIONS]
    regions = [
        [] if row.all() else [code for code, there in zip(codes, row, strict=True) if there] for row in goods.regions
    ]
    leaves = [vocabulary.LEAVES[leaf] for leaf in goods.leaf]
    tags = [
        [vocabulary.STYLES[style].name, leaf.path.rsplit(" > ", 1)[1].lower()]
        for style, leaf in zip(goods.style, leaves, strict=True)
    ]
    columns: dict[str, Any] = {
        "item_id": ids("i", np.arange(count), 8),
        "title": goods.titles,
        "description": goods.descriptions,
        "category": [leaf.path for leaf in leaves],
        "tags": tags,
        "brand": [goods.brands[brand] for brand in goods.brand],
        "price": goods.price,
        "currency": ["EUR"] * count,
        "regions": regions,
        "created_at": pa.array(goods.created).cast(pa.timestamp("us", tz="UTC")),
        "available": [True] * count,
    }
    return pa.table(columns, schema=schema.ITEMS.arrow())


def users(shop: World) -> pa.Table:
    """The shoppers as canonical users."""
    people = shop.shoppers
    columns: dict[str, Any] = {
        "user_id": ids("u", np.arange(len(people)), 8),
        "region": [vocabulary.REGIONS[region].code for region in people.region],
        "age_group": [vocabulary.AGE_GROUPS[age][0] for age in people.age],
        "language": people.language.tolist(),
        "signup_date": pa.array(people.signup).cast(pa.timestamp("us", tz="UTC")),
        "preferences": people.preferences,
    }
    return pa.table(columns, schema=schema.USERS.arrow())


def _truth(shop: World, folder: Path) -> None:
    goods, people = shop.items, shop.shoppers
    hidden: dict[str, Any] = {
        "item_id": ids("i", np.arange(len(goods)), 8),
        "vector": goods.vector.tolist(),
        "quality": goods.quality,
        "popularity": goods.weight,
        "style": [vocabulary.STYLES[style].name for style in goods.style],
    }
    _save(pa.table(hidden), folder / "items.parquet")
    inner: dict[str, Any] = {
        "user_id": ids("u", np.arange(len(people)), 8),
        "taste": people.taste.tolist(),
        "later": people.later.tolist(),
        "drift": people.drift,
        "price_sensitivity": people.price_sensitivity,
        "activity": people.activity,
        "bot": pa.array(["", "scraper", "booster"]).take(people.bot),
    }
    _save(pa.table(inner), folder / "users.parquet")
    np.savez(folder / "space.npz", leaves=shop.space.leaves, styles=shop.space.styles)
