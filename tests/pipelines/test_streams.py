"""How the trainings' streams run: as they were, but that nothing tunes them."""

import tensorflow as tf

from pipelines import streams


def numbers() -> tf.data.Dataset:
    return tf.data.Dataset.range(5).batch(2).prefetch(4)


def test_a_steady_stream_is_not_tuned() -> None:
    tuned = numbers()
    assert streams.steady(tuned).options().autotune.enabled is False
    assert tuned.options().autotune.enabled is not False, "the stream that was given stays as it was"


def test_a_steady_stream_brings_the_same_batches_in_the_same_order_every_time() -> None:
    found = streams.steady(numbers())
    for _ in range(2):
        assert [batch.numpy().tolist() for batch in found] == [[0, 1], [2, 3], [4]]


def test_what_else_was_asked_of_a_stream_stays() -> None:
    asked = tf.data.Options()
    asked.deterministic, asked.threading.private_threadpool_size = False, 3
    found = streams.steady(numbers().with_options(asked)).options()
    assert (found.deterministic, found.threading.private_threadpool_size) == (False, 3)
