"""The parts of the towers whose arithmetic a reader can do by hand, and the gradient that is written out."""

import numpy as np
import pytest

from recsys import settings

settings.load()  # before TensorFlow is imported

import tensorflow as tf  # noqa: E402

from models import history, towers, two_tower  # noqa: E402


def test_a_bag_is_the_mean_of_what_is_there() -> None:
    bag = towers.Bag(4, 2)
    bag(tf.zeros([1, 3], tf.int32))  # makes the table
    bag.embeddings.assign([[9.0, 9.0], [1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
    assert bag(tf.constant([[1, 2, 0], [0, 0, 0], [0, 3, 3]])).numpy().tolist() == [[2, 1], [0, 0], [5, 5]]


def test_bags_that_are_all_empty_leave_the_table_as_it_is() -> None:
    bag = towers.Bag(80, 32)
    bag(tf.zeros([1, 3], tf.int32))
    memory = [tf.fill([80, 32], np.nan) for _ in range(50)]
    del memory  # what is allocated next is likely to lie there
    with tf.GradientTape() as tape:
        found = bag(tf.zeros([256, 8], tf.int32))
    assert not found.numpy().any()
    assert not tf.convert_to_tensor(tape.gradient(found, bag.embeddings)).numpy().any()


def pooled(scale: tuple[float, float], ages: list[float], present: list[bool]) -> list[float]:
    """How much of each event is in the mean: the events are unit vectors."""
    layer = history.DecayPooling([scale], event_types=1)
    n = len(ages)
    return (
        layer(tf.eye(n)[None], tf.zeros([1, n], tf.int32), tf.constant([ages]), tf.constant([present]))
        .numpy()[0, 0]
        .tolist()
    )


def test_pooling_forgets_by_days_or_by_events() -> None:
    all_there = [True, True, True]
    by_days = pooled((1.0, 1e9), [0.0, 1.0, 1.0], all_there)
    assert by_days == pytest.approx([0.5, 0.25, 0.25], abs=1e-5)
    by_events = pooled((1e9, 1.0), [0.0, 0.0, 0.0], all_there)
    assert by_events == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=1e-5)


def test_a_hidden_event_does_not_make_the_older_ones_older() -> None:
    assert pooled((1e9, 1.0), [0.0, 0.0, 0.0], [True, False, True]) == pytest.approx([2 / 3, 0, 1 / 3], abs=1e-5)
    assert pooled((1e9, 1.0), [0.0], [False]) == [0.0]


def test_short_histories_are_the_newest_events_of_any_number() -> None:
    tf.random.set_seed(1)
    sizes = {"events": 3, "regions": 3, "age_groups": 3, "parts": 3}
    tower = towers.UserTower(towers.Shape(history_dropout=0.0, short_histories=0.5), sizes)
    hidden = tower._hide(tf.ones([20_000, 100], tf.bool)).numpy()
    length = hidden.sum(axis=1)
    assert (np.diff(hidden.astype(int), axis=1) <= 0).all(), "what is kept is the newest"
    assert set(length) == {*range(1, 16), 100}
    assert np.mean(length < 100) == pytest.approx(0.5, abs=0.01)
    assert np.mean(length == 1) == pytest.approx(0.5 / 4, abs=0.01), "each doubling is as likely"


@pytest.mark.parametrize("lengths", [[3, 0, 100, 1, 7, 7, 40, 2, 5], [4]])
def test_a_batch_by_length_has_the_queries_of_the_batch_as_it_is(lengths: list[int]) -> None:
    tf.random.set_seed(1)
    sizes = {"events": 3, "regions": 3, "age_groups": 3, "parts": 3}
    tower, table = towers.UserTower(towers.Shape(), sizes), tf.random.normal([50, 128])
    n, there = len(lengths), tf.sequence_mask(lengths, 100)
    request = {
        "items": tf.where(there, tf.random.uniform([n, 100], 2, 50, tf.int32), 0),
        "events": tf.cast(there, tf.int32),
        "ages": tf.where(there, tf.cumsum(tf.random.uniform([n, 100]), axis=1), 0.0),
        "region": tf.ones([n], tf.int32),
        "age_group": tf.ones([n], tf.int32),
        "preferences": tf.zeros([n, 4], tf.int32),
        "hour": tf.random.uniform([n], 0.0, 24.0),
        "weekday": tf.zeros([n], tf.int32),
    }
    plain = tower(request, tf.gather(table, request["items"])).numpy()
    np.testing.assert_allclose(tower.by_length(request, lambda ids: tf.gather(table, ids)), plain, atol=1e-5)


def plain_loss(
    logits: tf.Tensor, columns: list[list[int]], absent: list[bool], weights: list[list[float]], importance: list[float]
) -> tf.Tensor:
    """The softmax loss target by target, as its docstring says, for autodiff to differentiate."""
    rows = []
    for row, targets in enumerate(columns):
        real = [column for column in targets if column >= 0]
        rivals = [c for c in range(logits.shape[1]) if c not in real and not absent[c]]
        negatives = tf.reduce_logsumexp(tf.gather(logits[row], rivals))
        each = [-tf.math.log_sigmoid(logits[row, column] - negatives) for column in real]
        held = weights[row][: len(real)]
        rows.append(sum(w * one for w, one in zip(held, each, strict=True)) / sum(held))
    return sum(i * one for i, one in zip(importance, rows, strict=True)) / sum(importance)


def test_the_loss_and_its_gradient_are_those_of_the_definition() -> None:
    random = np.random.default_rng(5)
    logits = tf.constant(random.normal(0, 4, (3, 9)), tf.float32)
    columns = [[2, 5, -1], [0, -1, -1], [8, 1, 3]]
    weights = [[1.0, 3.0, 7.0], [2.0, 0.0, 0.0], [1.0, 0.5, 4.0]]
    absent = [False, False, False, False, True, False, False, True, False]
    importance = [1.0, 2.0, 0.5]
    shares = [one / sum(importance) for one in importance]
    found = []
    for loss, given in (
        (plain_loss, (columns, absent, weights, importance)),
        (two_tower.softmax_loss, tuple(map(tf.constant, (columns, absent, weights, shares)))),
    ):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits, *given)
        found.append((float(value), tape.gradient(value, logits).numpy()))
    (expected, slope), (value, gradient) = found
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)
    assert not gradient[:, absent].any()
