"""What the visitor is up to in this visit, or was in the last: block "visit"."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.blocks.repeat import LEAST_GAP_DAYS, MOST_DUE
from feature_repo.groups import Floats, Ints
from feature_repo.moments import Moments
from feature_repo.ranking_table import RUN_SCOPES, SCOPES

MINUTES = 1_440.0  # a day
RUNS = [SCOPES.index(scope) for scope in RUN_SCOPES]


def visit(m: Moments) -> Iterator[NDArray[Any]]:
    past = m.histories
    last = past.visit == 0
    begun = m.visitors.most(np.where(last, past.age, 0.0))[m.visitor]
    known = m.visitor < len(m.visitors.keys)
    idle = np.where(known, m.idle, 0.0)
    sums = m.visitors.total(np.column_stack([last, last & past.wanted]))[m.visitor]
    events = np.maximum(sums[:, 0], 1.0)
    span = m.visitors.most(past.age)[m.visitor] - begun
    gap = span / np.maximum(m.visits - 1.0, 1.0)
    due = np.where(m.visits >= 2, idle / np.maximum(gap, LEAST_GAP_DAYS), 0.0)
    yield m.per_row(
        m.visiting,
        np.log1p(sums[:, 0]),
        np.log1p((begun - idle) * MINUTES),
        _categories(m) / events,
        sums[:, 1] / events,
        np.log1p(m.visits),
        np.log1p(gap),
        np.minimum(due, MOST_DUE),
    )
    yield _runs(m)


def _categories(m: Moments) -> Ints:
    """[requests] distinct categories of the last visit."""
    past = m.histories
    code = m.items.code("category")[past.item]
    chosen = (past.visit == 0) & (code > 0)
    width = int(code.max(initial=0)) + 1
    pairs = np.unique(past.request[chosen] * width + code[chosen])
    return np.bincount(pairs // width, minlength=len(m.requests))


def _runs(m: Moments) -> Floats:
    """[n, RUN_SCOPES] log1p of the latest events in a row that share the candidate's code."""
    past = m.histories
    code, wanted = (m.items.codes[RUNS, rows[:, None]] for rows in (past.item, m.candidates.item))
    last = m.of_last(code, 0)
    other = np.where(code != last[past.request], past.ago[:, None], np.inf)
    length = np.minimum(m.visitors.least(other)[m.visitor], np.diff(past.bounds)[:, None])
    same = (wanted > 0) & (wanted == last[m.candidates.request])
    return np.where(same, np.log1p(length)[m.candidates.request], 0.0)
