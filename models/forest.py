"""Boosted trees as a TensorFlow graph, so that one SavedModel holds the network and the trees beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


@dataclass(frozen=True)
class Forest:
    """T trees of one depth D, each laid out like a heap: the children of node i are 2i + 1 and 2i + 2.

    Attributes:
        column: [T, 2^D - 1] of the numbers, which a node looks at.
        threshold: [T, 2^D - 1] a smaller number goes to the first child.
        leaf: [T, 2^D] what a tree answers.
    """

    column: NDArray[np.int32]
    threshold: NDArray[np.float32]
    leaf: NDArray[np.float32]

    @staticmethod
    def of_xgboost(raw: bytes, depth: int) -> "Forest":
        """From `Booster.save_raw("json")` of numbers that are never missing, grown to at most `depth`."""
        trees = json.loads(raw)["learner"]["gradient_booster"]["model"]["trees"]
        column = np.zeros((len(trees), 2**depth - 1), np.int32)
        # Below a leaf that comes early all numbers go the first way, and both ways lead to what it answers.
        threshold = np.full((len(trees), 2**depth - 1), np.inf, np.float32)
        leaf = np.zeros((len(trees), 2**depth), np.float32)
        for k, tree in enumerate(trees):
            _lay_out(tree, 0, 0, column[k], threshold[k], leaf[k])
        return Forest(column, threshold, leaf)


NO_TREES = Forest(np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32), np.zeros((0, 2), np.float32))


def _lay_out(
    tree: Mapping[str, Any],
    node: int,
    place: int,
    column: NDArray[np.int32],
    threshold: NDArray[np.float32],
    leaf: NDArray[np.float32],
) -> None:
    """Copy a node of XGBoost's, and all below it, to its place in the heap."""
    first = tree["left_children"][node]
    if first >= 0:
        column[place], threshold[place] = tree["split_indices"][node], tree["split_conditions"][node]
        for child, below in ((first, 2 * place + 1), (tree["right_children"][node], 2 * place + 2)):
            _lay_out(tree, child, below, column, threshold, leaf)
        return
    lowest = place
    while lowest < len(column):
        lowest = 2 * lowest + 1
    leaf[lowest - len(column)] = tree["split_conditions"][node]  # a leaf has its answer where others have a threshold


class Logit(tf.Module):  # type: ignore[misc]
    """Numbers [n, F] → the sum [n] of what the trees answer.

    All nodes are asked at once and the answers folded from the leaves up: long rows of equal work take less than half
    the time of walking down each tree.
    """

    def __init__(self, forest: Forest) -> None:
        super().__init__()
        self._nodes = forest.column.shape[1]
        # Node by node, not tree by tree: what is folded lies in one piece.
        self._column = tf.constant(forest.column.T.ravel())
        self._threshold = tf.constant(forest.threshold.T.reshape(-1, 1))
        self._leaves = [tf.constant(leaf[:, None]) for leaf in forest.leaf.T]

    def __call__(self, numeric: tf.Tensor) -> tf.Tensor:
        second = tf.split(tf.gather(tf.transpose(numeric), self._column) >= self._threshold, self._nodes)
        below = self._leaves
        while len(below) > 1:
            first = len(below) // 2 - 1  # of the nodes on the level above
            pairs = zip(below[::2], below[1::2], strict=True)
            below = [tf.where(second[first + k], right, left) for k, (left, right) in enumerate(pairs)]
        return tf.reduce_sum(below[0], axis=0)
