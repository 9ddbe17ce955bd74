"""Tiny models with the real serving signatures, and a tiny shop for them: what tests serve before anything is trained.

The towers hash ids to fixed random directions: an item is its id plus its category, a user the mean of the
history. So who bought something gets it back first, and items of one category are neighbours.
"""

import dataclasses
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo import events, names, transforms
from feature_repo.neighbours import NOBODY, Links, Neighbours
from feature_repo.ranking_table import RELATIONS
from models import artifact
from pipelines import datasets
from recsys.settings import Settings

DIM = 64
BUCKETS = 4096
HISTORY_LENGTH = 20
CATEGORIES = ("Home > Mugs", "Home > Candles", "Toys > Cars", "Garden > Pots")


def write_towers(folder: Path, seed: int = 1) -> None:
    """SavedModels `user_tower` and `item_tower` under a folder."""
    import tensorflow as tf

    table = tf.constant(np.random.default_rng(seed).normal(size=(BUCKETS, DIM)), tf.float32)

    def hashed(text: Any) -> Any:
        return tf.gather(table, tf.strings.to_hash_bucket_fast(text, BUCKETS))

    def user(**inputs: Any) -> dict[str, Any]:
        there = tf.cast(tf.strings.length(inputs["history_items"]) > 0, tf.float32)[..., None]
        history = tf.reduce_sum(hashed(inputs["history_items"]) * there, 1) / (tf.reduce_sum(there, 1) + 0.1)
        used = tf.reduce_sum(inputs["history_ages"], 1) + inputs["hour"] + tf.cast(inputs["weekday"], tf.float32)
        used += tf.cast(tf.reduce_sum(tf.strings.length(inputs["history_events"]), 1), tf.float32)
        used += tf.cast(tf.reduce_sum(tf.strings.length(inputs["preferences"]), 1), tf.float32)
        vector = history + 0.1 * hashed(inputs["region"]) + 0.1 * hashed(inputs["age_group"]) + 1e-9 * used[:, None]
        return {"embedding": tf.math.l2_normalize(vector, 1)}

    def item(**inputs: Any) -> dict[str, Any]:
        used = tf.reduce_sum(inputs["stats"], 1) + inputs["price"] + inputs["age_days"]
        text = tf.strings.length(inputs["title"]) + tf.strings.length(inputs["brand"])
        used += tf.cast(text + tf.reduce_sum(tf.strings.length(inputs["tags"]), 1), tf.float32)
        vector = hashed(inputs["item_id"]) + hashed(inputs["category"]) + 1e-9 * used[:, None]
        return {"embedding": tf.math.l2_normalize(vector, 1)}

    save_towers(folder, user, item)


def save_towers(folder: Path, user: Any, item: Any) -> None:
    """Two functions of the towers' inputs as SavedModels with the real signatures; each must read all its inputs."""
    import tensorflow as tf

    def texts(*names_: str) -> dict[str, Any]:
        return {name: tf.TensorSpec([None], tf.string, name) for name in names_}

    def spec(name: str, width: int | None, kind: Any) -> dict[str, Any]:
        return {name: tf.TensorSpec([None] if width is None else [None, width], kind, name)}

    lengths = {"history_items": tf.string, "history_events": tf.string, "history_ages": tf.float32}
    of_user = texts("region", "age_group") | spec("preferences", 8, tf.string) | spec("hour", None, tf.float32)
    of_user |= spec("weekday", None, tf.int32)
    for name, kind in lengths.items():
        of_user |= spec(name, HISTORY_LENGTH, kind)
    of_item = texts("item_id", "title", "category", "brand") | spec("tags", 8, tf.string)
    of_item |= spec("price", None, tf.float32) | spec("age_days", None, tf.float32)
    of_item |= spec("stats", len(names.ITEM_STATS), tf.float32)
    _save(folder / "user_tower", user, of_user)
    _save(folder / "item_tower", item, of_item)


def write_ranker(folder: Path) -> None:
    """SavedModel `model`: click follows the features' size, and "Toys" sell best and bring in least."""
    import tensorflow as tf

    def rank(**inputs: Any) -> dict[str, Any]:
        size = tf.reduce_mean(tf.abs(inputs["numeric"]), 1)
        toys = tf.cast(tf.strings.regex_full_match(inputs["category"], "Toys.*"), tf.float32)
        text = tf.strings.length(inputs["brand"]) + tf.strings.length(inputs["region"])
        text += tf.strings.length(inputs["surface"])
        click = tf.sigmoid(0.1 * size + 1e-9 * tf.cast(text, tf.float32))
        revenue = 0.02 - 0.015 * toys
        return {"click": click, "cart": 0.1 * click, "purchase": 0.01 + 0.5 * toys, "revenue": revenue}

    spec = {name: tf.TensorSpec([None], tf.string, name) for name in ("category", "brand", "region", "surface")}
    spec["numeric"] = tf.TensorSpec([None, len(transforms.RANKING_FEATURES)], tf.float32, "numeric")
    _save(folder / "model", rank, spec)


def _save(folder: Path, function: Any, spec: dict[str, Any]) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(function)
    signature = module.serve.get_concrete_function(**spec)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": signature})


def retrieval(settings: Settings, run: str, day: date, seed: int = 1) -> artifact.Artifact:
    """A retrieval artifact with these towers."""
    as_of = datasets.end_of(day).isoformat()
    with artifact.draft(datasets.models_folder(settings), kind="retrieval", run=run, as_of=as_of) as draft:
        write_towers(draft.path, seed)
        draft.meta.update(dim=DIM, history_length=HISTORY_LENGTH, stats=list(names.ITEM_STATS))
    return draft.finished


def ranker(settings: Settings, run: str, day: date, retrieval_version: str) -> artifact.Artifact:
    """A ranker artifact with this ranker."""
    parents = {"retrieval": retrieval_version}
    as_of = datasets.end_of(day).isoformat()
    folder = datasets.models_folder(settings)
    with artifact.draft(folder, kind="ranker", run=run, as_of=as_of, parents=parents) as draft:
        write_ranker(draft.path)
        NOBODY.save(draft.path)
        draft.meta.update(
            features=list(transforms.RANKING_FEATURES), heads=["click", "cart", "purchase", "revenue"],
            blend={"click": 1.0, "cart": 2.0, "purchase": 4.0, "revenue": 0.0}, together="ease",
            amount={"purchases": 1, "mean": 10.0, "limit": 40.0},
        )  # fmt: skip
    return draft.finished


def untaught_ranker(settings: Settings, run: str, day: date, retrieval_version: str) -> artifact.Artifact:
    """A ranker of the real kind whose weights, and neighbours of the items, are random: every feature counts."""
    import tensorflow as tf

    from models import places
    from models import ranker as real

    rng = np.random.default_rng(3)
    features, shape = len(transforms.RANKING_FEATURES), real.Shape()
    edges = np.tile(np.linspace(-2, 10, shape.pieces + 1, dtype=np.float32), (features, 1))
    columns = np.arange(features, dtype=np.int32)
    scaling = real.Scaling(columns, np.zeros(features, np.float32), np.full(features, 0.3, np.float32), edges)
    told = {"category": CATEGORIES, "brand": [f"b{n}" for n in range(7)], "region": ["France"], "surface": ["home"]}
    words = real.Words(real.vocabulary({name: np.array(known, object) for name, known in told.items()}, floor=1))
    slots = places.Slots.learn(np.array([0, 1], np.int32), np.array([1, 0], np.float32))
    score, price = (transforms.RANKING_FEATURES.index(name) for name in ("retrieval_score", "item_price"))
    click, amount = real.Start(score, slope=2.0, shift=-1.0, usual=0.0), real.Start(price, 0.5, -1.0, usual=0.0)
    amounts = real.Amounts(1, mean=10.0, limit=40.0)
    model = real.Ranker(shape, scaling, words, slots, click, amount, amounts)
    model({"numeric": tf.zeros([1, features]), "words": tf.zeros([1, 5], tf.int32)})
    for weight in model.trainable_variables:
        weight.assign(rng.normal(0, 0.1, weight.shape))
    ids = [f"i{n}" for n in range(120)]
    links = Links(rng.integers(0, 120, (120, 8)).astype(np.int32), rng.uniform(0, 0.1, (120, 8)).astype(np.float32))
    parents, as_of = {"retrieval": retrieval_version}, datasets.end_of(day).isoformat()
    folder = datasets.models_folder(settings)
    with artifact.draft(folder, kind="ranker", run=run, as_of=as_of, parents=parents) as draft:
        calibration = np.tile([1.0, 0.0, 0.0], (len(real.HEADS), 1))
        real.Served(model, calibration).save(draft.path / "model", features)
        Neighbours(np.array(ids), dict.fromkeys(RELATIONS, links)).save(draft.path)
        draft.meta.update(
            features=list(transforms.RANKING_FEATURES), heads=list(real.HEADS), blend=dict(real.BLEND),
            amount=dataclasses.asdict(amounts),
        )  # fmt: skip
    return draft.finished


def write_shop(settings: Settings, day: date, items: int = 120, users: int = 40) -> None:
    """The lake tables of a day: item `i<n>` is in category n mod 4; user `u<n>` bought five of one category.

    Item i3 is not available. User u0 was last active 60 days ago. Statistics of two days; the older are stale.
    """
    lake = datasets.lake(settings)
    end = datasets.end_of(day)
    created = end - timedelta(days=100)
    rows = [
        {
            "item_id": f"i{n}", "title": f"Item {n}", "description": None, "category": CATEGORIES[n % 4],
            "tags": ["new"], "brand": f"b{n % 7}", "price": 1.0 + n, "currency": "GBP", "regions": [],
            "created_at": created, "available": n != 3,
        }
        for n in range(items)
    ]  # fmt: skip
    lake.write(datasets.ITEMS, day, pa.Table.from_pylist(rows, schema=events.ITEMS.arrow()))
    people = [
        {"user_id": f"u{n}", "region": "France", "age_group": "25-34", "language": "fr", "signup_date": created,
         "preferences": ["Toys"] if n % 2 else []}
        for n in range(users)
    ]  # fmt: skip
    lake.write(datasets.USERS, day, pa.Table.from_pylist(people, schema=events.USERS.arrow()))
    lake.write(datasets.SEQUENCES, day, _sequences(users, items, int(end.timestamp())))
    ranked = [
        {"scope": scope, "key": key, "rank": rank, "item_id": f"i{rank}", "score": 10.0 - rank}
        for scope, key in (("global", ""), ("region", "France"))
        for rank in (1, 0, 2)
    ]
    lake.write(datasets.TRENDING, day, pa.Table.from_pylist(ranked))
    for before, value in ((3, 1.0), (0, 5.0)):
        table = stats([f"i{n}" for n in range(items) if n % 10], value, end - timedelta(days=before))
        lake.write(datasets.feature_view("item_stats"), day - timedelta(days=before), table)


def _sequences(users: int, items: int, end: int) -> pa.Table:
    rows = []
    for n in range(users):
        bought = [f"i{(n % 4 + 4 * (n + 3 * k)) % items}" for k in range(5)]
        last = end - (60 if n == 0 else 1) * 86_400
        rows.append(
            {"visitor_id": f"u{n}", "is_user": True, "region": "France", "age_group": "25-34", "items": bought,
             "events": ["purchase"] * 5, "times": [last - 3600 * (5 - k) for k in range(5)], "values": [1.0] * 5}
        )  # fmt: skip
    rows.append(rows[1] | {"visitor_id": "s1", "is_user": False})
    return pa.Table.from_pylist(rows)


def stats(ids: list[str], value: float, stamp: datetime) -> pa.Table:
    columns: dict[str, Any] = {"item_id": ids, "event_timestamp": pa.array([stamp] * len(ids), pa.timestamp("us", UTC))}
    columns |= {name: pa.array([value] * len(ids), pa.float32()) for name in names.ITEM_STATS}
    times = ("item_first_event_time", "item_last_event_time", "stats_time")
    return pa.table(columns | {name: pa.array([int(stamp.timestamp())] * len(ids), pa.int64()) for name in times})
