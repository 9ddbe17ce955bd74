"""The shape of a benchmark's output: one JSON line per figure, beside what it is measured against.

    {"name": "index.search_20000_p50", "value": 0.31, "unit": "ms", "limit": 5.0, "ratio": 0.062, "settings": {…}}

`limit` is what was promised, and null where nothing was; a figure that is measured against something else of its kind
has that one's figure as `peer` in its place. `ratio` is value per limit or peer.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np


def report(
    name: str,
    value: float,
    unit: str,
    *,
    limit: float | None = None,
    peer: float | None = None,
    **settings: object,
) -> None:
    """Print one figure.

    Args:
        name: the benchmark and the figure, joined by a dot.
        value: measured; three decimals are kept.
        unit: of value, limit and peer.
        limit: that was promised.
        peer: the same figure of something comparable.
        settings: under which it holds.

    Raises:
        ValueError: both a limit and a peer are given, so there are two ratios; print two figures.
    """
    if limit is not None and peer is not None:
        raise ValueError(f"{name} has a limit ({limit}) and a peer ({peer}); report it once against each")
    against = limit if peer is None else peer
    beside = {"limit": limit} if peer is None else {"peer": round(peer, 3)}
    ratio = round(value / against, 3) if against else None
    figure = {"name": name, "value": round(value, 3), "unit": unit, **beside, "ratio": ratio, "settings": settings}
    sys.stdout.write(json.dumps(figure) + "\n")
    sys.stdout.flush()


def milliseconds(calls: Iterable[Callable[[], object]]) -> tuple[float, float]:
    """p50 and p99 of the time that one call takes, over calls that are made one after another."""
    taken = []
    for call in calls:
        started = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - started))
    p50, p99 = np.percentile(taken, [50, 99]).tolist()
    return p50, p99
