"""A visitor without some items is who they would be had they never met them: by hand, and by the definition."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys import settings

settings.load()  # before TensorFlow is imported

import tensorflow as tf  # noqa: E402

from feature_repo import transforms  # noqa: E402
from models import two_tower  # noqa: E402
from models.versions import VISITOR, Versions  # noqa: E402

NOW, DAY = 1_000_000_000, 86_400
LENGTH = 3


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> two_tower.Towers:
    """A user tower of three events that answers with what it is told: items and the length of their events' names, one
    digit each, ages, and all the rest as one number."""

    @tf.function
    def answer(**inputs: Any) -> dict[str, Any]:
        items = tf.strings.to_number(tf.where(inputs["history_items"] == "", "0", inputs["history_items"]))
        events = tf.cast(tf.strings.length(inputs["history_events"]), tf.float32)
        texts = tf.stack([inputs["region"], inputs["age_group"], tf.strings.reduce_join(inputs["preferences"], 1)], 1)
        hash_ = tf.cast(tf.strings.to_hash_bucket_fast(tf.strings.reduce_join(texts, 1), 1000), tf.float32)
        rest = hash_ + inputs["hour"] + 100.0 * tf.cast(inputs["weekday"], tf.float32)
        return {"embedding": tf.concat([items, events, inputs["history_ages"], rest[:, None]], 1)}

    folder: Path = tmp_path_factory.mktemp("towers")
    module = tf.Module()
    module.answer = answer
    specs = {name: tf.TensorSpec([None, *spec.shape[1:]], spec.dtype, name) for name, spec in VISITOR.items()}
    signature = answer.get_concrete_function(**specs)
    tf.saved_model.save(module, str(folder), signatures={two_tower.SIGNATURE: signature})
    return two_tower.Towers(tf.saved_model.load(str(folder)), None)


@pytest.fixture(scope="module")
def versions(towers: two_tower.Towers) -> Versions:
    return Versions(towers, LENGTH)


def told(items: str, length: int, preferences: list[str] | None = None) -> dict[str, NDArray[Any]]:
    """A visitor who did something with each item, one a day, the last a day ago; a letter more each time."""
    n = len(items)
    return transforms.user_tower_inputs(
        items=[list(items)],
        events=[["v" * (1 + k) for k in range(n)]],
        times=[[NOW - DAY * (n - k) for k in range(n)]],
        region=["France"],
        age_group=[None],
        preferences=[preferences],
        now=np.array([NOW]),
        length=length,
    )


def test_a_version_lacks_an_item_and_has_room_for_an_older_one(versions: Versions) -> None:
    found = versions.embed(told("5713", length=4), ["3", "1", "5", "9"])
    items, events, ages = (found[:, LENGTH * k : LENGTH * (k + 1)].tolist() for k in range(3))
    assert items == [[3, 1, 7], [1, 7, 5], [3, 7, 5], [3, 1, 7], [3, 1, 7]]
    assert events == [[4, 3, 2], [3, 2, 1], [4, 2, 1], [4, 3, 2], [4, 3, 2]]
    assert ages == [[1, 2, 3], [2, 3, 4], [1, 3, 4], [1, 2, 3], [1, 2, 3]]
    assert len(set(found[:, -1])) == 1, "nothing else about the visitor changes"


def test_an_item_met_twice_is_gone_twice_and_nothing_takes_its_place(versions: Versions) -> None:
    found = versions.embed(told("717", length=LENGTH), ["7"])
    assert found[:, :LENGTH].tolist() == [[7, 1, 7], [1, 0, 0]]
    assert found[1, LENGTH:-1].tolist() == [2, 0, 0, 2, 0, 0]


def test_a_visitor_without_history_is_one_version(versions: Versions) -> None:
    assert versions.embed(told("", length=0), [])[:, :-1].tolist() == [[0.0] * 9]


@examples(deadline=None)  # TensorFlow takes what it takes
@given(
    st.text("123456", max_size=8),
    st.lists(st.sampled_from("123456"), unique=True),
    st.lists(st.text(), max_size=2),
    st.integers(0, 4),
)
def test_each_version_is_the_visitor_whose_history_never_had_the_item(
    towers: two_tower.Towers, versions: Versions, items: str, left_out: list[str], preferences: list[str], padding: int
) -> None:
    visitor = told(items, len(items) + padding, preferences)
    expected = []
    for lacking in ["", *left_out]:
        kept = [k for k, item in enumerate(visitor["history_items"][0]) if item not in ("", lacking)][:LENGTH]
        version = {name: visitor[name][:, kept] if name.startswith("history_") else visitor[name] for name in visitor}
        missing = LENGTH - len(kept)
        for name, nothing in (("history_items", ""), ("history_events", ""), ("history_ages", 0)):
            version[name] = np.pad(version[name], ((0, 0), (0, missing)), constant_values=nothing)
        expected.append(towers.users(version)[0])
    np.testing.assert_array_equal(versions.embed(visitor, left_out), np.stack(expected))
