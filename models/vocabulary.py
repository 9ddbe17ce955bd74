"""From strings to integers inside the graph: the vocabularies of the towers.

Index 0 is padding or an empty string, 1 is a value that training never saw, real entries start at 2. Title words
are hashed instead, so that a new word still finds a place and no word list has to be kept.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from feature_repo import events

FIRST = 2  # index of the first real entry
PARTS = 4  # parts of a category path that are looked at, general to special
WORDS = 16  # words of a title that are looked at
TITLE_BUCKETS = 8192
SEPARATOR = " > "


@dataclass(frozen=True)
class Vocabulary:
    """Every known value, most frequent first."""

    items: tuple[str, ...]
    parts: tuple[str, ...]
    tags: tuple[str, ...]
    brands: tuple[str, ...]
    regions: tuple[str, ...]
    age_groups: tuple[str, ...]
    events: tuple[str, ...] = field(default_factory=lambda: tuple(events.EVENT_TYPES))

    def sizes(self) -> dict[str, int]:
        """Rows of each embedding table, padding and unknown included."""
        return {name: len(values) + FIRST for name, values in vars(self).items()}


def most_common(values: Iterable[str | None], limit: int = 50_000, floor: int = 1) -> tuple[str, ...]:
    """Distinct non-empty values seen at least `floor` times, most frequent first, ties by name."""
    counts = Counter(value for value in values if value)
    kept = [(value, n) for value, n in counts.items() if n >= floor]
    return tuple(value for value, _ in sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:limit])


def learn(
    items: Sequence[str],
    catalogue: Mapping[str, Sequence[Any]],
    regions: Iterable[str | None],
    age_groups: Iterable[str | None],
) -> Vocabulary:
    """The vocabulary of a training run.

    Args:
        items: ids that get an embedding of their own, in row order.
        catalogue: columns category, tags and brand of all items.
        regions, age_groups: of all visitors, with repetition.
    """
    return Vocabulary(
        items=tuple(items),
        parts=most_common(part for path in catalogue["category"] for part in (path or "").split(SEPARATOR)),
        tags=most_common(tag for tags in catalogue["tags"] for tag in (tags if tags is not None else ())),
        brands=most_common(catalogue["brand"], floor=2),
        regions=most_common(regions),
        age_groups=most_common(age_groups),
    )


class Lookup(tf.Module):  # type: ignore[misc]
    """The vocabulary as tables of a graph."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._tables = {
            # An empty vocabulary is legal data (nobody has a brand), but not a legal table.
            name: keras.layers.StringLookup(vocabulary=list(values) or ["[NONE]"], mask_token="", num_oov_indices=1)
            for name, values in vars(vocabulary).items()
        }

    def __call__(self, name: str, values: tf.Tensor) -> tf.Tensor:
        """Indices of strings, int32, in the same shape."""
        return tf.cast(self._tables[name](values), tf.int32)

    def parts(self, paths: tf.Tensor) -> tf.Tensor:
        """[...] category paths → [..., PARTS] indices of their parts."""
        flat = tf.strings.split(tf.reshape(paths, [-1]), SEPARATOR)
        ids = self("parts", flat.to_tensor("", shape=[None, PARTS]))
        return tf.reshape(ids, tf.concat([tf.shape(paths), [PARTS]], 0))

    def words(self, titles: tf.Tensor) -> tf.Tensor:
        """[n] titles → [n, WORDS] hash buckets, 0 where there is no further word."""
        plain = tf.strings.regex_replace(tf.strings.lower(titles, encoding="utf-8"), r"[^\pL\pN]+", " ")
        words = tf.strings.split(plain).to_tensor("", shape=[None, WORDS])
        buckets = tf.strings.to_hash_bucket_fast(words, TITLE_BUCKETS - 1) + 1
        return tf.where(words == "", 0, tf.cast(buckets, tf.int32))

    def content(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Content of items as the item tower reads it, from the strings of its serving signature."""
        return {
            "parts": self.parts(inputs["category"]),
            "tags": self("tags", inputs["tags"]),
            "words": self.words(inputs["title"]),
            "brand": self("brands", inputs["brand"]),
            "price": inputs["price"],
        }

    def request(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """A request as the user tower reads it, from the strings of its serving signature."""
        stated = self.parts(inputs["preferences"])
        return {
            "items": self("items", inputs["history_items"]),
            "events": self("events", inputs["history_events"]),
            "ages": inputs["history_ages"],
            "region": self("regions", inputs["region"]),
            "age_group": self("age_groups", inputs["age_group"]),
            "preferences": tf.reshape(stated, [tf.shape(stated)[0], -1]),
            "hour": inputs["hour"],
            "weekday": inputs["weekday"],
        }


def encode(words: Vocabulary, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Content of a whole catalogue as integers, by the very graph that serving runs; for training."""
    lookup = Lookup(words)
    parts: list[dict[str, NDArray[Any]]] = []
    for start in range(0, len(inputs["title"]), 4096):
        tensors = {name: tf.constant(values[start : start + 4096]) for name, values in inputs.items()}
        parts.append({name: value.numpy() for name, value in lookup.content(tensors).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
