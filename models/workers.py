"""Several processes that train one model, each on its part of every batch; TF_CONFIG says who they are.

TensorFlow reads that variable itself. Where it names no second process nothing here does anything, so that a model
and its training are written once. Gradients are summed by the optimizer: the losses of the workers must add up to
that of the whole batch.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from recsys.errors import Permanent


def strategy() -> Any:
    """The tf.distribute.Strategy to train under; of several workers, each waits here for the others.

    To be called before anything else of TensorFlow, which then could no longer reach the other processes.

    Raises:
        Permanent: a worker sees several GPUs.
    """
    cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    named = cluster.cluster_spec()
    workers = sum(map(named.num_tasks, named.jobs))
    if workers < 2:
        return tf.distribute.get_strategy()
    found = tf.distribute.MultiWorkerMirroredStrategy(cluster)
    if found.num_replicas_in_sync != workers:
        devices = found.num_replicas_in_sync // workers
        raise Permanent(
            f"a worker takes one GPU, and this one sees {devices}; start one with CUDA_VISIBLE_DEVICES each"
        )
    return found


def is_chief(found: Any) -> bool:
    """Whether this process is the one that keeps what a strategy has trained."""
    cluster = found.cluster_resolver
    if cluster is None:
        return True
    first = "chief" if "chief" in cluster.cluster_spec().jobs else "worker"
    return bool(cluster.task_type == first and cluster.task_id == 0)


def count() -> int:
    """How many train together, where a model asks within its loss."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def shared(found: Any, read: Callable[[int, int], Any]) -> Any:
    """What Keras' fit reads, in the same order whatever the number of workers.

    Args:
        read: makes a tf.data.Dataset of what a worker learns from, from its number and how many there are.
    """

    def part(worker: Any) -> Any:
        dataset = read(worker.input_pipeline_id, worker.num_input_pipelines)
        if worker.num_input_pipelines == 1:
            return dataset
        # Keras opens a dataset twice before the first epoch and once before each other, and each time it is shuffled
        # anew; one that is distributed it opens once, and reads on.
        iter(dataset)
        return dataset.repeat()

    return found.distribute_datasets_from_function(part)


def total(value: tf.Tensor) -> tf.Tensor:
    """The sum of a value over all workers."""
    if count() == 1:
        return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def gathered(values: tf.Tensor) -> tf.Tensor:
    """The values [n] of all workers, n of each, one after another."""
    if count() == 1:
        return values
    return tf.distribute.get_replica_context().all_gather(values, axis=0)
