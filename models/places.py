"""Places in a list: what they add to a click, and how to keep that out of what an item is worth.

A module without TensorFlow, because the parameters of the stage `train_ranker` name `Debias`, and are read in a moment.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

POSITIONS = 64  # slots with a bias of their own; later ones share the last
SELDOM = 0.1  # propensities below it count as this: few labels must not outweigh all others
SMALLEST = 1e-6  # chances, spreads and sums are taken to be at least this, here and in the ranker
Debias = Literal["tower", "propensity", "none"]


@dataclass(frozen=True)
class Slots:
    """Places in a list, [POSITIONS] each.

    Attributes:
        share: of the impressions.
        start: what a place adds to the log odds of a click, as training starts.
        propensity: how often a place is looked at, in proportion to the place that is looked at most.
    """

    share: NDArray[np.float32]
    start: NDArray[np.float32]
    propensity: NDArray[np.float32]

    @staticmethod
    def learn(position: NDArray[np.int32], clicked: NDArray[np.float32]) -> "Slots":
        """From rows; -1 is no place. The start is the log odds of a click at each place, smoothed by 50 impressions:
        what items do to it is left to learn, and few steps would not move it far from 0."""
        shown = position >= 0
        place = np.minimum(position[shown], POSITIONS - 1)
        count = np.bincount(place, minlength=POSITIONS).astype(np.float64)
        rate = min(max(float(clicked[shown].mean()), SMALLEST), 1 - SMALLEST) if shown.any() else 0.5
        smooth = (np.bincount(place, clicked[shown], POSITIONS) + 50.0 * rate) / (count + 50.0)
        odds = np.log(smooth / (1 - smooth)) - np.log(rate / (1 - rate))
        share = count / max(count.sum(), 1.0)
        propensity = np.maximum(smooth / smooth.max(), SELDOM)
        return Slots(*(values.astype(np.float32) for values in (share, odds, propensity)))
