"""What the towers learn from, read from the lake as of a cutoff: vocabulary, catalogue, histories.

Two passes over SEQUENCES, batch by batch: one that counts (vocabulary, popularity, co-occurrence), one that
turns strings into integers for `pipelines.examples`. Nothing at or after the cutoff is used, but the content of
items, which does not change with time. What was taken back before the cutoff is no example of what a visitor wants; a
history holds it until then.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse
from numpy.typing import NDArray

from feature_repo import events, names, standing, transforms
from models import two_tower, vocabulary
from models.vocabulary import FIRST
from pipelines import datasets, examples
from pipelines import sequences as stored
from pipelines.datasets import Lake

ROWS_AT_ONCE = 20_000  # visitors in memory
PAIRS = 30_000_000  # visitor-item pairs that the co-occurrence is estimated from, at most
STATS_BYTES = 512 * 2**20  # memory that the statistics of all moments may take
FADING = 0.01  # of its strength by which a direction of `identity` must pass the first one cut off to count in full
NEGLIGIBLE = 1e-6  # of the strongest: below it a direction is rounding
NO_STATED = vocabulary.PARTS * transforms.PREFERENCES
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The lake as of a cutoff.

    Attributes:
        lake, day: where to read; the snapshots of `day` are used.
        cutoff: UTC; events from here on are not seen.
        content: columns of `events.ITEMS` that the item tower reads, by name, and `created_at`; all items.
        preferences: stated categories by user.
    """

    lake: Lake
    day: date
    cutoff: datetime
    content: Mapping[str, list[Any]]
    preferences: Mapping[str, list[str]]

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from stored.batches(self.lake, self.day, ["visitor_id", "region", "age_group"], ROWS_AT_ONCE)


def source(lake: Lake, day: date, cutoff: datetime) -> Source:
    columns = ["item_id", "title", "category", "brand", "tags", "price", "created_at"]
    items = lake.read(datasets.ITEMS, day, columns).sort_by("item_id")
    users = lake.read(datasets.USERS, day, ["user_id", "preferences"])
    stated = zip(users.column("user_id").to_pylist(), users.column("preferences").to_pylist(), strict=True)
    content = {name: items.column(name).to_pylist() for name in columns}
    return Source(lake, day, cutoff, content, {str(user): wishes for user, wishes in stated if wishes})


@dataclass(frozen=True)
class Flat:
    """The events before the cutoff of some visitors, one element each, in order of visitor and time.

    Attributes:
        turns: [events, T] of `sequences.turns`, +inf from the cutoff on.
    """

    owner: NDArray[np.int64]
    items: NDArray[np.object_]
    events: NDArray[np.object_]
    times: NDArray[np.float64]
    turns: NDArray[np.float64]

    def standing(self) -> "Flat":
        """Those that count at the cutoff."""
        rows = standing.counts(self.turns, np.inf)
        return Flat(self.owner[rows], self.items[rows], self.events[rows], self.times[rows], self.turns[rows])


def flat(batch: pa.RecordBatch, cutoff: float) -> Flat:
    """Unnest the lists of a batch of SEQUENCES.

    Events of one moment (a basket paid at once) have no order of their own; they are put into a random but
    reproducible one, so that a cut through a basket is not a cut by item number.
    """
    owner = pc.list_parent_indices(batch.column("items")).to_numpy().astype(np.int64)
    lists = (
        pc.list_flatten(batch.column(name)).to_numpy(zero_copy_only=False) for name in ("items", "events", "times")
    )
    items, kinds, times = lists
    chance = np.random.default_rng(len(owner)).random(len(owner))
    order = np.lexsort((chance, times, owner))
    order = order[times[order] < cutoff]
    ends = stored.turns(batch)[order]
    ends = np.where(ends < cutoff, ends, np.inf)
    return Flat(owner[order], items[order], kinds[order], times[order].astype(np.float64), ends)


@dataclass(frozen=True)
class Census:
    """What the first pass found.

    Attributes:
        words: the vocabulary.
        share: [rows] float32, signal-weighted share of each item; sums to 1.
        seen: sparse [visitors, rows], 1 where a visitor had a positive event with an item.
        first_time: epoch seconds of the oldest event.
        events: how many there are.
    """

    words: vocabulary.Vocabulary
    share: NDArray[np.float32]
    seen: scipy.sparse.csr_matrix
    first_time: float
    events: int


def census(found: Source) -> Census:
    """Count the events before the cutoff."""
    weight: Counter[str] = Counter()
    regions: Counter[str] = Counter()
    ages: Counter[str] = Counter()
    pairs: list[tuple[NDArray[np.int64], NDArray[np.object_]]] = []
    total, visitors, first = 0, 0, np.inf
    known = set(found.content["item_id"])
    for batch in found.batches():
        rows = flat(batch, found.cutoff.timestamp()).standing()
        signal = _signal(rows.events)
        ids, place = np.unique(rows.items.astype(str), return_inverse=True)
        for item, sum_ in zip(ids.tolist(), np.bincount(place, signal, len(ids)), strict=True):
            if item in known:
                weight[item] += float(sum_)  # type: ignore[assignment]
        regions.update(value for value in batch.column("region").to_pylist() if value)
        ages.update(value for value in batch.column("age_group").to_pylist() if value)
        if total < PAIRS:
            pairs.append((rows.owner + visitors, rows.items))
        total, visitors = total + len(rows.times), visitors + batch.num_rows
        first = min(first, rows.times.min(initial=np.inf))
    items = sorted(weight, key=lambda item: (-weight[item], item))
    words = vocabulary.learn(items, found.content, regions.elements(), ages.elements())
    share = np.zeros(len(items) + FIRST, np.float32)
    share[FIRST:] = [weight[item] for item in items]
    seen = _incidence(pairs, index(words.items), visitors)
    return Census(words, share / max(float(share.sum()), 1e-9), seen, float(first), total)


def _signal(kinds: NDArray[np.object_]) -> NDArray[np.float64]:
    return _codes(kinds, events.SIGNAL_WEIGHT, 0.0)


def _codes(values: NDArray[Any], code_of: Mapping[str, float], missing: float) -> NDArray[np.float64]:
    """Map strings to numbers, looking each distinct string up once."""
    distinct, place = np.unique(values.astype(str), return_inverse=True)
    codes = np.array([code_of.get(value, missing) for value in distinct.tolist()], np.float64)
    return codes[place] if len(codes) else np.zeros(0)


def index(values: tuple[str, ...]) -> dict[str, float]:
    """The integer of each entry of a vocabulary, as the lookup inside the SavedModel numbers them."""
    return {value: float(number) for number, value in enumerate(values, FIRST)}


def _incidence(
    pairs: list[tuple[NDArray[np.int64], NDArray[np.object_]]], row_of: Mapping[str, float], visitors: int
) -> scipy.sparse.csr_matrix:
    owner = np.concatenate([o for o, _ in pairs]) if pairs else np.zeros(0, np.int64)
    item = np.concatenate([_codes(i, row_of, 0.0) for _, i in pairs]) if pairs else np.zeros(0)
    known = item >= FIRST
    shape = (max(visitors, 1), len(row_of) + FIRST)
    ones = np.ones(int(known.sum()), np.float32)
    seen = scipy.sparse.csr_matrix((ones, (owner[known], item[known].astype(np.int64))), shape=shape)
    seen.sum_duplicates()
    seen.data[:] = 1.0
    return seen


def identity(seen: scipy.sparse.csr_matrix, dim: int, seed: int) -> NDArray[np.float32]:
    """[rows, dim] unit vectors: a truncated SVD of who saw what, damped by activity and popularity.

    Where id embeddings start: items that the same users like are neighbours before the first step.

    The same on every processor but for rounding. A singular vector is known up to its sign only, equal singular values
    leave theirs free to turn, and a cut between equal ones is arbitrary; a library's kernels decide such things by
    rounding, and training would follow. So the vectors are turned as near as a rotation brings them to a fixed random
    matrix (orthogonal Procrustes: Schönemann, Psychometrika 1966), which undoes signs and turns and keeps all inner
    products; and directions hardly stronger than the first one that is cut off fade out.
    """
    from sklearn.utils.extmath import randomized_svd

    rows = seen.shape[1]
    seen = seen.astype(np.float64)
    active, popular = (np.sqrt(np.maximum(np.asarray(seen.sum(axis)).ravel(), 1.0)) for axis in (1, 0))
    damped = scipy.sparse.diags(1.0 / active) @ seen @ scipy.sparse.diags(1.0 / popular)
    rank = min(dim, min(seen.shape) - 1)
    out = np.zeros((rows, dim))
    if rank >= 1 and seen.nnz:
        _, strength, right = randomized_svd(damped, rank + 1, n_iter=3, random_state=seed % 2**32)
        cut = max(strength[rank], NEGLIGIBLE * strength[0])
        kept = np.clip((strength[:rank] / cut - 1) / FADING, 0.0, 1.0)[:, None]
        fixed = np.random.default_rng(seed).standard_normal((rows, dim))
        left, _, turned = np.linalg.svd(kept * right[:rank] @ fixed, full_matrices=False)
        out = (strength[:rank, None] * kept * right[:rank]).T @ left @ turned
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), NEGLIGIBLE)
    out[:FIRST] = 0.0
    return out.astype(np.float32)


def moments(found: Source, first_time: float, items: int, wanted: int) -> list[date]:
    """Days whose statistics training looks back to, oldest first: at most `wanted`, evenly spread, none at or
    after the cutoff, and no more than fit into memory."""
    fitting = STATS_BYTES // (4 * len(names.ITEM_STATS) * max(items, 1))
    view = datasets.feature_view("item_stats")
    last = (found.cutoff - timedelta(days=1)).date()
    days = [day for day in found.lake.days(view, until=last) if datasets.end_of(day).timestamp() > first_time]
    # Cuts fall after a moment, so the last day before the cutoff has no example; it is left to serving.
    days = days[:-1]
    count = int(min(wanted, fitting, len(days)))
    return [days[round(k * (len(days) - 1) / max(count - 1, 1))] for k in range(count)]


def corpus(found: Source, counted: Census, days: list[date], dim: int, seed: int) -> two_tower.Corpus:
    """The catalogue as training sees it. Moment 0 is before every event, moment k + 1 the end of `days[k]`."""
    words = counted.words
    place = {item: row for row, item in enumerate(found.content["item_id"])}
    chosen = [place[item] for item in words.items]
    inputs = transforms.item_tower_inputs(
        **{name: ["", ""] + [found.content[name][row] for row in chosen] for name in ("item_id", "title", "category")},
        **{name: [None, None] + [found.content[name][row] for row in chosen] for name in ("brand", "tags", "price")},
        created=np.zeros(len(chosen) + FIRST),
        stats=np.zeros((len(chosen) + FIRST, len(names.ITEM_STATS)), np.float32),
        now=0.0,
    )
    created = np.array([0.0, 0.0] + [found.content["created_at"][row].timestamp() for row in chosen])
    ends = np.array([datasets.end_of(day).timestamp() for day in days])
    begins = np.concatenate([[counted.first_time], ends])
    until = np.append(ends, found.cutoff.timestamp())
    ages = np.maximum(begins[:, None] - created, 0.0) / transforms.SECONDS_PER_DAY
    ages = np.where(created >= until[:, None], -1.0, ages)
    stats = np.zeros((len(days) + 1, len(created), len(names.ITEM_STATS)), np.float32)
    for number, day in enumerate(days, 1):
        stats[number] = known_stats(found.lake, day, words.items)
    content = vocabulary.encode(words, inputs)
    start = identity(counted.seen, dim, seed)
    return two_tower.Corpus(content, stats, ages.astype(np.float32), counted.share, start)


def known_stats(lake: Lake, day: date, items: tuple[str, ...]) -> NDArray[np.float32]:
    """[rows, S] statistics of items as they were known at the end of a day; zeros where nothing had happened."""
    view = datasets.feature_view("item_stats")
    table = lake.read(view, day, ["item_id", "event_timestamp", *names.ITEM_STATS])
    end = pa.scalar(datasets.end_of(day), table.schema.field("event_timestamp").type)
    table = table.filter(pc.field("event_timestamp") <= end).sort_by("event_timestamp")
    rows = _codes(table.column("item_id").to_numpy(), index(items), 0.0).astype(np.int64)
    out = np.zeros((len(items) + FIRST, len(names.ITEM_STATS)), np.float32)
    for column, name in enumerate(names.ITEM_STATS):
        out[rows, column] = table.column(name).to_numpy()
    out[:FIRST] = 0.0
    return out


def sequences(found: Source, words: vocabulary.Vocabulary) -> Iterator[examples.Sequences]:
    """The second pass: histories as integers, batch by batch. Items that the vocabulary lacks are left out."""
    codes = {name: index(getattr(words, name)) for name in ("items", "events", "regions", "age_groups")}
    stated = stated_codes(found.preferences, words)
    for batch in found.batches():
        rows = flat(batch, found.cutoff.timestamp())
        items = _codes(rows.items, codes["items"], 0.0).astype(np.int64)
        kept = items >= FIRST
        owner = rows.owner[kept]
        visitors = [str(value) for value in batch.column("visitor_id").to_pylist()]
        region, age_group = (
            _codes(np.array([v or "" for v in batch.column(name).to_pylist()], object), codes[f"{name}s"], 0.0)
            for name in ("region", "age_group")
        )
        yield examples.Sequences(
            offsets=np.searchsorted(owner, np.arange(batch.num_rows + 1)),
            items=items[kept],
            events=_codes(rows.events[kept], codes["events"], 0.0).astype(np.int64),
            times=rows.times[kept],
            turns=rows.turns[kept],
            signal=_signal(rows.events[kept]),
            region=region.astype(np.int64),
            age_group=age_group.astype(np.int64),
            preferences=np.stack([stated.get(v, np.zeros(NO_STATED, np.int64)) for v in visitors]),
            validates=np.array([examples.validates(v) for v in visitors]),
        )


def stated_codes(preferences: Mapping[str, list[str]], words: vocabulary.Vocabulary) -> dict[str, NDArray[np.int64]]:
    """Per user, the indices of the parts of the stated categories, as `Lookup.request` numbers them."""
    part_of = index(words.parts)
    out = {}
    for user, wishes in preferences.items():
        codes = np.zeros((transforms.PREFERENCES, vocabulary.PARTS), np.int64)
        for row, path in enumerate(wishes[: transforms.PREFERENCES]):
            parts = path.split(vocabulary.SEPARATOR)[: vocabulary.PARTS]
            codes[row, : len(parts)] = [int(part_of.get(part, 1.0)) for part in parts]
        out[user] = codes.ravel()
    return out
