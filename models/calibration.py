"""What makes the heads of the ranker right on rows that training did not see, and gives the trees their share."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def calibrate(
    outputs: Floats, trees: Floats, labels: Floats, amount: Floats, log_rate: Floats, fewest: int = 20
) -> Floats:
    """Slope, share of the trees, and shift [heads, 3] that make the heads right on rows which training did not see.

    Platt scaling of each conditional logit, with that of the trees beside it (stacking, Wolpert, 1992), on the rows
    where it counts: all rows for the first head, the rows with the label before for the next. A head with fewer than
    `fewest` of either outcome stays as it is. The amount has a shift alone, the log of what purchases brought in over
    what was expected, with `fewest` as expected on top.

    Args:
        outputs: [n, heads] of the model, without position. trees: [n] their logit. labels: [n, chain].
        amount: [n] in average purchases. log_rate: [n] of the sampling.
    """
    found = np.tile([1.0, 0.0, 0.0], (outputs.shape[1], 1))
    for head in range(labels.shape[1]):
        rows = labels[:, head - 1] > 0 if head else np.ones(len(labels), bool)
        offset = -log_rate[rows] if head == 0 else np.zeros(int(rows.sum()))
        wins = labels[rows, head].sum()
        if min(wins, rows.sum() - wins) >= fewest:
            found[head] = platt(outputs[rows, head], trees[rows], labels[rows, head], offset)
    known = amount > 0
    found[-1, -1] = np.log((amount[known].sum() + fewest) / (np.exp(outputs[known, -1]).sum() + fewest))
    return found


def platt(logits: Floats, trees: Floats, labels: Floats, offset: Floats) -> Floats:
    """Slope a, share s ≥ 0 and shift b of labels ~ sigmoid(a * logit + s * trees + b + offset).

    Newton's method, with a light pull towards (1, 0, 0). All [n]; trees of zeros are none.
    """
    design = np.column_stack([logits, trees, np.ones(len(logits))])
    start = found = np.array([1.0, 0.0, 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ found + offset, -30, 30)))
        gradient = design.T @ (p - labels) + found - start
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.eye(3)
        step = np.linalg.solve(curvature, gradient)
        found = found - np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-8:
            break
    if found[1] < 0:  # what the network says more of than the trees: noise
        return platt(logits, np.zeros(len(trees)), labels, offset)
    return np.array([max(found[0], 0.05), *found[1:]])  # a slope of 0 or below would turn the order round
