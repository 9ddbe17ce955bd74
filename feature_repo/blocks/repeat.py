"""Whether it is time to have an item again: block "repeat"."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.groups import Floats, Groups
from feature_repo.moments import Histories, Moments, table
from feature_repo.ranking_table import REPEAT_SCOPES

MOST_DUE = 4.0
LEAST_GAP_DAYS = 1.0  # purchases of one day are one errand


def repeat(m: Moments) -> Iterator[NDArray[Any]]:
    past, groups = m.histories, m.scopes.groups
    bought, carted = (np.where(past.of_kind(kind), past.age, np.inf) for kind in ("bought", "carted"))
    latest, in_cart = groups.least(np.column_stack([bought, carted])).T
    gaps = table(1.0 / (1.0 + latest), *_gaps(groups, past, latest))
    for scope in REPEAT_SCOPES:
        yield m.scopes.per_row(scope, gaps)
    yield m.scopes.per_row("item", table(*_in_visits(m, groups), in_cart < latest))
    since = groups.counted(past.age[groups.order] < latest[groups.group])
    yield m.scopes.per_row("category", np.log1p(since))


def _gaps(groups: Groups, past: Histories, latest: Floats) -> tuple[Floats, Floats, Floats]:
    """[groups + 1] each: how due a purchase is, the mean gap between purchases, and how the gaps spread.

    Args:
        latest: [groups + 1] days since the last purchase, infinite without one.
    """
    bought = past.of_kind("bought")[groups.order]
    group, age = groups.group[bought], past.age[groups.order[bought]]
    gap = np.where(group[1:] == group[:-1], age[:-1] - age[1:], 0.0)
    size = len(groups.keys) + 1
    times = np.bincount(group, minlength=size)
    count = np.maximum(times - 1, 1)
    mean, square = (np.bincount(group[1:], power, size) / count for power in (gap, gap**2))
    usual = np.maximum(mean, LEAST_GAP_DAYS)
    due = np.where(times >= 2, latest, 0.0) / usual
    spread = np.sqrt(np.maximum(square - mean**2, 0.0)) / usual
    return np.minimum(due, MOST_DUE), np.log1p(np.maximum(mean, 0.0)), np.minimum(spread, MOST_DUE)


def _in_visits(m: Moments, groups: Groups) -> tuple[Floats, Floats]:
    """[groups + 1] each: how many visits ago, and how due by the usual number of visits in between."""
    past = m.histories
    since, last = groups.least(np.column_stack([past.visit + 1 - m.visiting[past.request], past.visit])).T
    begun = groups.of_each(past.visit)
    twice = begun >= 2
    usual = (groups.most(past.visit) - np.where(twice, last, 0.0)) / np.maximum(begun - 1.0, 1.0)
    due = np.where(twice, since, 0.0) / np.maximum(usual, 1.0)
    return 1.0 / (1.0 + since), np.minimum(due, MOST_DUE)
