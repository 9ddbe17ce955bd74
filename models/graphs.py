"""Graphs of TensorFlow as serving calls them: thousands of times, with few rows, and always in the same way."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf


class Graph:
    """A concrete function that is called by position; thread-safe.

    A function that is called as such binds its arguments, casts them, asks whether a gradient is watched and packs what
    it answers, each time anew: a quarter of the CPU of retrieval's user tower (0.3 of 1.0 ms) and a sixth of the
    ranker's (0.6 of 4.0 ms), in Online Retail. This hands the tensors to the operation that such a call comes down to.
    """

    def __init__(self, function: Any) -> None:
        self._function = function  # owns the graph
        self._captured = list(function.captured_inputs)
        self._answers = [tensor.dtype for tensor in function.outputs]

    def __call__(self, *inputs: tf.Tensor) -> list[tf.Tensor]:
        """The answers in their order, for inputs of the types that the function was made for."""
        found: list[tf.Tensor] = tf.raw_ops.StatefulPartitionedCall(
            args=[*inputs, *self._captured], Tout=self._answers, f=self._function
        )
        return found


class Signature:
    """A signature of a SavedModel, whose inputs and outputs have names; thread-safe. Its model must outlive it."""

    def __init__(self, function: Any) -> None:
        self._graph = Graph(function)
        # TensorFlow lays out what has names in the order of the names.
        self._inputs = sorted(function.structured_input_signature[1])
        self._outputs = sorted(function.structured_outputs)

    def __call__(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Outputs by name. Raises KeyError for an input that is missing."""
        return dict(zip(self._outputs, self._graph(*(inputs[name] for name in self._inputs)), strict=True))
