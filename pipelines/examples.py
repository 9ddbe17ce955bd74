"""Training examples of the towers: cuts through histories, as fixed-length records on disk that tf.data streams.

An example is one moment of one visitor: the history before it, and the bag of items that came next. One pass
through the user tower thus learns from a whole basket, which is what makes training quick. Records are arrays of
32-bit words, written by numpy and decoded by one op. They lie in one file per moment of the item statistics, so that
all examples of a batch share the statistics that were known when they happened.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo import standing, transforms
from pipelines import streams

VISIT_GAP = 1800.0  # seconds without an event that end a visit
WORD = 4
SHUFFLE = 8192  # examples per open file that are in memory to be shuffled
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """Where the fields of a record lie, in words: name → (width, is it a float)."""

    history: int
    targets: int
    preferences: int

    @property
    def fields(self) -> dict[str, tuple[int, bool]]:
        return {
            "items": (self.history, False),
            "events": (self.history, False),
            "ages": (self.history, True),
            "targets": (self.targets, False),
            "weights": (self.targets, True),
            "preferences": (self.preferences, False),
            "region": (1, False),
            "age_group": (1, False),
            "weekday": (1, False),
            "moment": (1, False),
            "hour": (1, True),
            "importance": (1, True),
        }

    @property
    def words(self) -> int:
        return sum(width for width, _ in self.fields.values())


@dataclass(frozen=True)
class Sequences:
    """Histories of some visitors, flat; visitor v owns [offsets[v], offsets[v + 1]).

    Attributes:
        items, events: indices of the vocabulary.
        times: epoch seconds, ascending within a visitor.
        turns: [events, T] when each stopped and began again to count, +inf where there is none.
        signal: weight of each event as a target.
        region, age_group: [visitors] indices; preferences: [visitors, width] indices.
        validates: [visitors] whose last days are kept out, to watch the loss there.
    """

    offsets: Ints
    items: Ints
    events: Ints
    times: Floats
    turns: Floats
    signal: Floats
    region: Ints
    age_group: Ints
    preferences: Ints
    validates: NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """How examples are cut.

    Attributes:
        layout: of the records.
        moments: epoch seconds of the item statistics, ascending; the first is before every event.
        validate_from: epoch seconds from which the examples of validating visitors are kept out.
        chunk: events after which a long visit is cut again.
        horizon: days in which the weight of a target halves, counted from the cut.
        fade: events in which it halves besides.
    """

    layout: Layout
    moments: Floats
    validate_from: float
    chunk: int
    horizon: float
    fade: float


def validates(visitor_id: str) -> bool:
    """Whether a visitor is one of the tenth whose last days are kept out; the same in every run."""
    return zlib.crc32(visitor_id.encode()) % 10 == 0


def cuts(sequences: Sequences, chunk: int, random: np.random.Generator) -> tuple[Ints, Ints]:
    """Flat positions at which a history ends and its targets begin, and the visitor of each.

    At the start of every visit, and inside a visit every `chunk` events or at one random place.
    """
    n = len(sequences.times)
    owner = np.repeat(np.arange(len(sequences.offsets) - 1), np.diff(sequences.offsets))
    starts = np.ones(n, bool)
    starts[1:] = (np.diff(sequences.times) > VISIT_GAP) | (np.diff(owner) > 0)
    visit = np.cumsum(starts) - 1
    first = np.flatnonzero(starts)
    length = np.diff(np.append(first, n))
    within = np.arange(n) - first[visit]
    # The phase moves all cuts of a visit together; in a short visit it is the one random place.
    phase = 1 + (random.random(len(first)) * np.minimum(chunk, np.maximum(length - 1, 1))).astype(np.int64)
    again = (within > 0) & ((within - phase[visit]) % chunk == 0) & (within >= phase[visit])
    at = np.flatnonzero(starts | again)
    return at, owner[at]


def records(sequences: Sequences, plan: Plan, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """All examples of some visitors, by field; also `valid`, which of them are kept out.

    An item of the history is no target again. To name it takes no model, and one that is rewarded for it learns less of
    what goes with what. A history holds what counted at its moment; a target still counts at the end.
    """
    at, owner = cuts(sequences, plan.chunk, random)
    begin, end = sequences.offsets[owner], sequences.offsets[owner + 1]
    now = sequences.times[at]
    past = at[:, None] - 1 - np.arange(plan.layout.history)
    known = past >= begin[:, None]
    past, known = _counting(sequences.turns, np.where(known, past, 0), known, now)
    future = at[:, None] + np.arange(plan.layout.targets)
    real = future < end[:, None]
    future = np.where(real, future, 0)
    items, targets = np.where(known, sequences.items[past], 0), np.where(real, sequences.items[future], 0)
    since = now[:, None] - sequences.times[past]
    real &= ~contained(targets, items) & standing.counts(sequences.turns, np.inf)[future]
    wait = (sequences.times[future] - now[:, None]) / transforms.SECONDS_PER_DAY
    later = np.arange(plan.layout.targets) / plan.fade
    days = np.floor(now / transforms.SECONDS_PER_DAY)
    return {
        "items": items,
        "events": np.where(known, sequences.events[past], 0),
        "ages": np.where(known, since / transforms.SECONDS_PER_DAY, 0.0),
        "targets": np.where(real, targets, 0),
        "weights": np.where(real, sequences.signal[future] * np.exp2(-wait / plan.horizon - later), 0.0),
        "preferences": sequences.preferences[owner],
        "region": sequences.region[owner],
        "age_group": sequences.age_group[owner],
        "weekday": ((days + transforms.EPOCH_WEEKDAY) % 7).astype(np.int64),
        "moment": np.searchsorted(plan.moments, now, side="right") - 1,
        "hour": now / 3600.0 - days * 24.0,
        # A basket says more than a single item, but not as much more.
        "importance": np.sqrt((real * np.exp2(-later)).sum(axis=1)),
        "valid": sequences.validates[owner] & (now >= plan.validate_from),
    }


def _counting(turns: Floats, past: Ints, known: NDArray[np.bool_], now: Floats) -> tuple[Ints, NDArray[np.bool_]]:
    """Histories [n, H] without what had stopped to count at the moment of each; what is older moves up."""
    if not turns.size:
        return past, known
    known = known & standing.counts(turns[past], now[:, None])
    order = np.argsort(~known, axis=1, kind="stable")
    return np.take_along_axis(past, order, 1), np.take_along_axis(known, order, 1)


def contained(values: Ints, sets: Ints) -> NDArray[np.bool_]:
    """[n, m] whether each value is among those of its row of `sets` [n, k]."""
    out = np.zeros(values.shape, bool)
    for column in sets.T:
        out |= values == column[:, None]
    return out


def pack(layout: Layout, fields: dict[str, NDArray[Any]]) -> NDArray[np.int32]:
    """[n, words] int32; floats keep their bits."""
    columns = []
    for name, (width, floating) in layout.fields.items():
        values = np.ascontiguousarray(fields[name], np.float32 if floating else np.int32)
        columns.append(values.view(np.int32).reshape(len(values), width))
    return np.concatenate(columns, axis=1)


def write(folder: Path, batches: Iterator[Sequences], plan: Plan, seed: int) -> dict[str, int]:
    """Write the examples of all visitors; returns how many there are, by `train` and `valid`."""
    random = np.random.default_rng(seed)
    counts = {"train": 0, "valid": 0}
    for name in counts:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for sequences in batches:
        fields = records(sequences, plan, random)
        order = random.permutation(len(fields["valid"]))
        order = order[fields["importance"][order] > 0]  # where nothing new came next, there is nothing to learn
        packed, valid = pack(plan.layout, fields)[order], fields["valid"][order]
        file = fields["moment"][order]
        for name, chosen in (("train", ~valid), ("valid", valid)):
            counts[name] += int(chosen.sum())
            for number in np.unique(file[chosen]):
                with (folder / name / f"{number:05d}.records").open("ab") as stream:
                    packed[chosen & (file == number)].tofile(stream)
    return counts


def dataset(
    folders: Sequence[Path], layout: Layout, batch: int, seed: int | None, worker: int = 0, workers: int = 1
) -> Any:
    """A tf.data.Dataset of batches as `two_tower.TwoTower` takes them; each is of one moment.

    Args:
        folders: of the two that `write` made.
        batch: examples in a batch of all workers together.
        seed: shuffles anew each epoch, reproducibly; None keeps the order.
        worker, workers: the number of a worker, from 0, whose part of each batch is wanted, of how many.
    """
    import tensorflow as tf

    files = [str(path) for path in _files(folders)]

    def one(file: Any) -> Any:
        rows = tf.data.FixedLengthRecordDataset(file, layout.words * WORD)
        return (rows if seed is None else rows.shuffle(SHUFFLE, seed=seed)).batch(batch)

    if seed is None:
        found = tf.data.Dataset.from_tensor_slices(files).flat_map(one)
    else:
        mixed = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), seed=seed)
        found = mixed.interleave(one, cycle_length=8, num_parallel_calls=1, deterministic=True).shuffle(64, seed=seed)
    if workers > 1:
        found = found.map(lambda rows: part(layout, rows, worker, workers), num_parallel_calls=1, deterministic=True)
    found = found.map(lambda rows: unpack(layout, rows), num_parallel_calls=1, deterministic=True)
    return streams.steady(found.prefetch(4))


def batches(folders: Sequence[Path], layout: Layout, batch: int) -> int:
    """How many batches `dataset` yields."""
    return sum(-(-path.stat().st_size // (layout.words * WORD * batch)) for path in _files(folders))


def _files(folders: Sequence[Path]) -> list[Path]:
    return sorted(path for folder in folders for path in folder.glob("*.records"))


def part(layout: Layout, rows: Any, worker: int, workers: int) -> Any:
    """The raw records of a batch that one of several workers learns from: each `workers`-th one.

    All workers have equally many; the last of some is blank, without targets and of no importance, so that a batch of
    fewer rows than workers still leaves none without a row.
    """
    import tensorflow as tf

    blank = tf.fill([-tf.size(rows) % workers], bytes(layout.words * WORD))
    return tf.concat([rows, blank], 0)[worker::workers]


def unpack(layout: Layout, rows: Any) -> dict[str, Any]:
    """Decode a batch of raw records in the graph; histories and targets are cut to the longest of the batch."""
    import tensorflow as tf

    words = tf.reshape(tf.io.decode_raw(rows, tf.int32), [-1, layout.words])
    found: dict[str, Any] = {}
    start = 0
    for name, (width, floating) in layout.fields.items():
        values = words[:, start : start + width]
        values = tf.bitcast(values, tf.float32) if floating else values
        found[name] = values[:, 0] if width == 1 else values
        start += width
    for names in (("items", "events", "ages"), ("targets", "weights")):
        filled = tf.reduce_any(found[names[0]] > 0, axis=0)
        longest = tf.reduce_max(tf.where(filled, tf.range(1, tf.size(filled) + 1), 1))
        found |= {name: found[name][:, :longest] for name in names}
    outside = ("targets", "weights", "moment", "importance")
    return {name: found.pop(name) for name in outside} | {"request": found}
