"""Which items of the catalogue a request leaves in play."""

import numpy as np
from numpy.typing import NDArray

from serving.api.contract import Ask
from serving.api.live import LiveRelease


def inside(ask: Ask, live: LiveRelease, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n] True for the items that meet the category, brand, prices and exclusions of a request.

    An item of unknown price meets no limit on prices. Where there are several currencies, neither does one of another
    than the limit's.
    """
    kept = np.ones(len(rows), bool)
    if ask.category:
        kept &= live.inside(ask.category)[live.categories[rows]]
    if ask.brand:
        kept &= live.brands[rows] == ask.brand
    if ask.min_price is not None:
        kept &= live.prices[rows] >= ask.min_price
    if ask.max_price is not None:
        kept &= live.prices[rows] <= ask.max_price
    if ask.currency and len(live.priced_in) > 1:
        kept &= live.currencies[rows] == ask.currency
    if ask.exclude:
        kept &= ~np.isin(rows, live.catalogue.rows(ask.exclude))
    return kept
