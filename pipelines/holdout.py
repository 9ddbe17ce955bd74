"""The holdout as the gate asks about it: who came back, what was known before, what they then did.

Every user with a positive event in the holdout is asked about once, at the time of the first of those events:
the moment at which production would have been asked. History and statistics are those before the cutoff.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_repo import events, names, standing, transforms
from models import two_tower
from pipelines import baselines, datasets, embedding, recall, sequences
from pipelines.datasets import Lake
from pipelines.split import Split
from recsys.errors import BadData


@dataclass(frozen=True)
class Trial:
    """Users of the holdout and the catalogue they are asked about.

    Attributes:
        item_ids: [items] ids of the catalogue before the cutoff.
        item_inputs: of the item tower, statistics as of the cutoff.
        truth: rows of `item_ids` per user; only items that were in the catalogue.
        histories: per user, (items, events, times) before the cutoff, oldest first.
        profile: region, age_group and preferences per user.
        asked: [users] epoch seconds of each request.
        interactions: of all visitors before the cutoff; `visitor` of a user of the trial is its row here, those of
            others come after.
    """

    item_ids: list[str]
    item_inputs: dict[str, NDArray[Any]]
    truth: recall.Truth
    histories: list[tuple[list[str], list[str], list[int]]]
    profile: dict[str, list[Any]]
    asked: NDArray[np.float64]
    interactions: baselines.Interactions

    def __len__(self) -> int:
        return len(self.histories)

    def embed_items(self, model: two_tower.Towers) -> NDArray[np.float32]:
        """[items, dim]."""
        return model.items(self.item_inputs)

    def embed_users(self, model: two_tower.Towers, history_length: int) -> NDArray[np.float32]:
        """[users, dim]."""
        past = dict(zip(names.HISTORY, zip(*self.histories, strict=True), strict=True))
        return embedding.embed_requests(model, {**past, **self.profile}, self.asked, history_length)


def load(lake: Lake, day: date, split: Split, limit: int, seed: int) -> Trial:
    """Read the trial of a data day.

    Args:
        limit: users asked about at most, a seeded sample.

    Raises:
        BadData: nobody has a target.
    """
    cutoff, end = split.cutoff.timestamp(), split.end.timestamp()
    catalogue = (
        lake.read(datasets.ITEMS, day).filter(pc.field("created_at") < pa.scalar(split.cutoff)).sort_by("item_id")
    )
    ids = [str(item) for item in catalogue.column("item_id").to_pylist()]
    row_of = {item: row for row, item in enumerate(ids)}
    asked = _asked(lake, day, row_of, cutoff, end)
    if not asked:
        raise BadData(f"no user has a positive event on a known item in {split.cutoff} – {split.end}; nothing to judge")
    if len(asked) > limit:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(asked))[:limit])
        asked = [asked[row] for row in chosen]
    found = interactions(lake, day, row_of, cutoff, {user["id"]: row for row, user in enumerate(asked)})
    popular = baselines.popularity(found, len(ids))
    truth = recall.Truth(
        seen=[_rows(user["had"], row_of) for user in asked],
        targets=[user["targets"] for user in asked],
        share=popular / max(float(popular.sum()), 1e-9),
    )
    stated = _preferences(lake, day)
    return Trial(
        item_ids=ids,
        item_inputs=_item_inputs(lake, catalogue, ids, split),
        truth=truth,
        histories=[(user["items"], user["events"], user["times"]) for user in asked],
        profile={
            "region": [user["region"] for user in asked],
            "age_group": [user["age_group"] for user in asked],
            "preferences": [stated.get(user["id"]) for user in asked],
        },
        asked=np.array([user["asked"] for user in asked], np.float64),
        interactions=found,
    )


def _batches(lake: Lake, day: date) -> Iterable[pa.RecordBatch]:
    return sequences.batches(lake, day, ["visitor_id", "is_user", "region", "age_group"], 20_000)


def _asked(lake: Lake, day: date, row_of: dict[str, int], cutoff: float, end: float) -> list[dict[str, Any]]:
    """Users with a target that still counts at the end, by id, with what was known of them before the cutoff."""
    found = []
    for batch in _batches(lake, day):
        last = np.array([times[-1] if times else 0.0 for times in batch.column("times").to_pylist()])
        users = batch.column("is_user").to_numpy(zero_copy_only=False).astype(bool)
        for row in batch.filter(pa.array(users & (last >= cutoff))).to_pylist():
            times = np.array(row["times"], np.float64)
            before, after = (int(np.searchsorted(times, moment)) for moment in (cutoff, end))
            targets = _rows([row["items"][k] for k in sequences.counting(row, end, before, after)], row_of)
            if len(targets):
                counted = sequences.counting(row, cutoff, 0, before)
                past = {name: [row[name][k] for k in counted] for name in sequences.LISTS}
                past["had"] = row["items"][:before]
                facts = {"region": row["region"], "age_group": row["age_group"], "asked": times[before]}
                found.append({"id": str(row["visitor_id"]), "targets": targets, **past, **facts})
    return sorted(found, key=lambda user: str(user["id"]))


def _rows(items: Iterable[str], row_of: dict[str, int]) -> NDArray[np.int64]:
    return np.array(sorted({row_of[item] for item in items if item in row_of}), np.int64)


def interactions(
    lake: Lake, day: date, row_of: Mapping[str, int], cutoff: float, user_row: Mapping[str, int] | None = None
) -> baselines.Interactions:
    """All positive events of a data day before a cutoff that count then.

    Args:
        row_of: row of an item; others are left out.
        cutoff: epoch seconds.
        user_row: rows of visitors that want certain ones, from 0 on; those of others come after.
    """
    parts: list[tuple[NDArray[Any], ...]] = []
    user_row = user_row or {}
    others = len(user_row)
    for batch in _batches(lake, day):
        owner = pc.list_parent_indices(batch.column("items")).to_numpy()
        items, kinds, times = (pc.list_flatten(batch.column(name)) for name in ("items", "events", "times"))
        visitors = _values(batch.column("visitor_id"))
        visitor = np.array([user_row.get(str(v), others + row) for row, v in enumerate(visitors)])
        others += len(visitors)
        item = _mapped(items, row_of, -1).astype(np.int64)
        weight = _mapped(kinds, events.SIGNAL_WEIGHT, 0.0)
        when = times.to_numpy().astype(np.float64)
        kept = (when < cutoff) & (item >= 0) & standing.counts(sequences.turns(batch), cutoff)
        parts.append((visitor[owner[kept]], item[kept], baselines.age_days(when[kept], cutoff), weight[kept]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    visitor, item, age, weight = (column[order] for column in columns)
    return baselines.Interactions(visitor, item, age, weight)


def _mapped(values: pa.Array, known: Mapping[str, float], default: float) -> NDArray[np.float64]:
    """[n] what each string stands for."""
    place = pc.index_in(values, value_set=pa.array(list(known), pa.string())).fill_null(len(known))
    found: NDArray[np.float64] = np.array([*known.values(), default], np.float64)[place.to_numpy()]
    return found


def _preferences(lake: Lake, day: date) -> dict[str, list[str]]:
    users = lake.read(datasets.USERS, day, ["user_id", "preferences"])
    stated = zip(users.column("user_id").to_pylist(), users.column("preferences").to_pylist(), strict=True)
    return {str(user): wishes for user, wishes in stated if wishes}


def _item_inputs(lake: Lake, catalogue: pa.Table, ids: list[str], split: Split) -> dict[str, NDArray[Any]]:
    columns = {name: catalogue.column(name).to_pylist() for name in ("title", "category", "brand", "tags", "price")}
    return transforms.item_tower_inputs(
        item_id=ids,
        **columns,
        created=np.array([moment.timestamp() for moment in _values(catalogue.column("created_at"))]),
        stats=stats_before(lake, ids, split),
        now=split.cutoff.timestamp(),
    )


def stats_before(lake: Lake, ids: list[str], split: Split) -> NDArray[np.float32]:
    """[items, S] statistics known at the cutoff; zeros where there are none."""
    view = datasets.feature_view("item_stats")
    days = [day for day in lake.days(view) if datasets.end_of(day) <= split.cutoff]
    out = np.zeros((len(ids), len(names.ITEM_STATS)), np.float32)
    if not days:
        return out
    table = lake.read(view, days[-1], ["item_id", "event_timestamp", *names.ITEM_STATS])
    limit = pa.scalar(split.cutoff, table.schema.field("event_timestamp").type)
    table = table.filter(pc.field("event_timestamp") <= limit).sort_by("event_timestamp")
    row_of = {item: row for row, item in enumerate(ids)}
    rows = np.array([row_of.get(item, -1) for item in _values(table.column("item_id"))], np.int64)
    values = np.stack([table.column(name).to_numpy() for name in names.ITEM_STATS], axis=1)
    out[rows[rows >= 0]] = np.nan_to_num(values[rows >= 0])
    return out


def _values(column: Any) -> list[Any]:
    """A column as Python values, whose types Arrow's stubs cannot know."""
    values: list[Any] = column.to_pylist()
    return values
