"""What gate G2 asks of an index: pure functions over arrays, each answering with figures and with reasons to refuse.

A check says in words what is wrong and how much of it, so that its reason can stand alone in a log.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import index
from models.index import Index

DEPTHS = (20, 100, 500)
PAGE = 20
NEIGHBOURS = 10
Vectors = NDArray[np.float32]
Ids = NDArray[np.object_]


@dataclass(frozen=True)
class Limits:
    """Where an index stops being good enough.

    Attributes:
        recall: least share of the exact neighbours that search must find, at each depth.
        norm: most by which a length may differ from 1.
        reembedding: most by which a stored value may differ from the tower's answer.
        duplicates: largest share of items that may share their vector with another item.
        likeness: largest mean cosine between items; beyond it the space has collapsed.
        overlap: largest mean share of a page that two random users may have in common.
        overlap_slack: by how much that may exceed what exact search gives the same users.
        coverage: least share of what exact search reaches that search must reach.
        found: least share of items whose own vector must find them.
        p99_ms: slowest hundredth of single searches for 500 items.
        shrink: least item count as a share of the live index's.
        drift: neighbour overlap with the live index below which a warning is given.
    """

    recall: float = 0.95
    norm: float = 1e-3
    reembedding: float = 1e-4
    duplicates: float = 0.1
    likeness: float = 0.95
    overlap: float = 0.9
    overlap_slack: float = 0.05
    coverage: float = 0.9
    found: float = 0.99
    p99_ms: float = 30.0
    shrink: float = 0.5
    drift: float = 0.2


@dataclass
class Findings:
    """What the checks found; `metrics` are numbers, `reasons` refuse, `warnings` do not."""

    metrics: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self, wrong: bool, reason: str) -> None:
        if wrong:
            self.reasons.append(reason)

    @property
    def passed(self) -> bool:
        return not self.reasons


def vectors(found: Findings, stored: Vectors, dim: int, limits: Limits) -> None:
    """NaN, dimension, length, and vectors that say nothing: zero, equal, or all alike."""
    n = len(stored)
    found.metrics |= {"items": n, "dim": int(stored.shape[1]) if stored.ndim == 2 else 0}
    if stored.ndim != 2 or stored.shape[1] != dim:
        found.reasons.append(f"wrong dimension: vectors are {stored.shape}, the towers give [n, {dim}]")
        return
    finite = np.isfinite(stored).all(axis=1)
    norms = np.linalg.norm(np.nan_to_num(stored), axis=1)
    zero = np.flatnonzero(finite & (norms == 0))
    odd = finite & (norms > 0) & (np.abs(norms - 1) > limits.norm)
    shared = _shared(stored)
    likeness = _likeness(stored[finite])
    found.metrics["vectors"] = {
        "not_finite": int((~finite).sum()),
        "zero": len(zero),
        "not_unit": int(odd.sum()),
        "shared_share": shared,
        "mean_cosine": likeness,
    }
    found.refuse(not finite.all(), f"NaN: {int((~finite).sum())} of {n} vectors hold NaN or infinity")
    if len(zero):
        found.reasons.append(f"zeroed vectors: {len(zero)} of {n}, rows {zero[0]} to {zero[-1]}")
    found.refuse(
        bool(odd.any()), f"not unit vectors: {int(odd.sum())} of {n} lengths differ from 1 by over {limits.norm}"
    )
    found.refuse(
        shared > limits.duplicates, f"constant vectors: {shared:.0%} of the items share their vector with another item"
    )
    found.refuse(likeness > limits.likeness, f"collapsed space: the mean cosine between two items is {likeness:.3f}")


def _shared(stored: Vectors) -> float:
    """Share of rows that are equal to another row."""
    rows = np.ascontiguousarray(stored).view(np.dtype((np.void, stored.shape[1] * stored.itemsize))).ravel()
    _, counts = np.unique(rows, return_counts=True)
    return float(counts[counts > 1].sum() / len(stored))


def _likeness(stored: Vectors) -> float:
    """Mean cosine between two different rows, from the length of their sum."""
    n = len(stored)
    if n < 2:
        return 0.0
    squared = float(np.square(stored.sum(axis=0, dtype=np.float64)).sum())
    own = float(np.square(stored, dtype=np.float64).sum())
    return (squared - own) / (n * (n - 1))


def ids(found: Findings, stored: Ids, catalogue: Ids, available: Ids) -> None:
    """Ids are unique, in the catalogue's order, and are all the items that may be recommended."""
    twice = len(stored) - len(set(stored))
    missing = set(available) - set(stored)
    strange = set(stored) - set(available)
    share = 1 - len(missing) / max(len(available), 1)
    found.metrics["catalogue"] = {"available": len(available), "indexed_share": share, "strange": len(strange)}
    found.refuse(bool(twice), f"duplicate ids: {twice} ids occur twice")
    found.refuse(
        len(stored) != len(catalogue) or bool((stored != catalogue).any()),
        f"ids differ from the catalogue's: {len(stored)} rows against {len(catalogue)}; both must have one row order",
    )
    found.refuse(
        bool(missing),
        f"incomplete: {len(missing)} available items are not indexed, such as {min(missing, default='')!r}",
    )
    found.refuse(
        bool(strange),
        f"unknown items: {len(strange)} ids are not available items, such as {min(strange, default='')!r}",
    )


def reembedding(found: Findings, stored: Vectors, rows: NDArray[np.int64], again: Vectors, limits: Limits) -> None:
    """The run's item tower, asked again about a sample, gives the stored vectors.

    Where it does not, the reason tells two faults apart: if the answers are in the index under other ids, the ids
    are shuffled; if they are nowhere, another tower made the vectors.

    Args:
        stored: [n, dim] all vectors.
        rows: [sample] rows asked again.
        again: [sample, dim] the tower's answers.
    """
    if stored.ndim != 2 or stored.shape[1] != again.shape[1]:
        return  # `vectors` has refused it
    gap = np.abs(stored[rows] - again).max(axis=1)
    wrong = ~(gap <= limits.reembedding)
    found.metrics["reembedding"] = {"sample": len(rows), "wrong": int(wrong.sum()), "largest_gap": float(gap.max())}
    if not wrong.any():
        return
    nearest, _ = index.exact_search(np.nan_to_num(stored), again[wrong], 1)
    elsewhere = np.abs(stored[nearest[:, 0]] - again[wrong]).max(axis=1) <= limits.reembedding
    shuffled, count = int(elsewhere.sum()), int(wrong.sum())
    if shuffled:
        found.reasons.append(f"shuffled ids: {shuffled} of {len(rows)} sampled items have the vector of another item")
    found.refuse(
        count > shuffled,
        f"not the run's tower: {count - shuffled} of {len(rows)} sampled vectors are not its own, gap {gap.max():.2g}",
    )


def recall(found: Findings, given: Vectors, best: Vectors, limits: Limits) -> None:
    """Share of the exact neighbours that search found, at each depth.

    Args:
        given: [queries, k] exact scores of what search gave, -inf where it gave nothing.
        best: [queries, k] scores of the exact neighbours, best first.
    """
    k = best.shape[1]
    figures = {}
    for depth in (d for d in DEPTHS if d <= k or d == DEPTHS[0]):
        cut = min(depth, k)
        # An item as good as the last one counts: among ties there is no truth.
        figures[f"recall_{depth}"] = float((given[:, :cut] >= best[:, [cut - 1]] - 1e-6).mean())
    found.metrics |= figures | {"queries": len(given)}
    low = {name: value for name, value in figures.items() if value < limits.recall}
    found.refuse(
        bool(low), "low recall against exact search: " + ", ".join(f"{name} {value:.3f}" for name, value in low.items())
    )


def sameness(found: Findings, searched: NDArray[np.int64], exact: NDArray[np.int64], limits: Limits) -> None:
    """Different people get different items.

    Two limits: an absolute one, and what exact search gives the very same people, so that people who are alike by
    nature do not count against the index.

    Args:
        searched, exact: [users, k] rows, best first.
    """
    n = int(found.metrics["items"])
    page = max(min(PAGE, searched.shape[1], n // 5), 1)  # of a tiny catalogue, pages overlap by chance
    here, there = overlap(searched[:, :page]), overlap(exact[:, :page])
    distinct = len(np.unique(searched[:, :page]))
    found.metrics["sameness"] = {"overlap": here, "exact_overlap": there, "distinct_items": distinct, "page": page}
    if len(searched) < 2:
        return
    limit = min(limits.overlap, there + limits.overlap_slack)
    found.refuse(
        here > limit,
        f"same items for everyone: two random users share {here:.0%} of their first {page}, limit {limit:.0%}",
    )


def overlap(pages: NDArray[np.int64]) -> float:
    """Mean share of a page that two different rows have in common, exactly, by counting who has each item."""
    users, page = pages.shape
    if users < 2:
        return 0.0
    _, owners = np.unique(pages[pages >= 0], return_counts=True)
    return float((owners * (owners - 1)).sum() / (users * (users - 1) * page))


def coverage(found: Findings, searched: NDArray[np.int64], exact: NDArray[np.int64], limits: Limits) -> None:
    """Search reaches about as much of the catalogue as exact search does."""
    n = int(found.metrics["items"])
    here, there = (len(np.unique(rows[rows >= 0])) / n for rows in (searched, exact))
    found.metrics["coverage"] = {"share": here, "exact_share": there}
    found.refuse(
        here < limits.coverage * there,
        f"low coverage: search reaches {here:.0%} of the items, exact search {there:.0%}",
    )


def own_vectors(found: Findings, built: Index, rows: NDArray[np.int64], limits: Limits) -> None:
    """An item's own vector finds it, or one just like it: nothing in the index is out of reach."""
    own = np.asarray(built.vectors[rows])
    nearest, _ = built.search(own, 1)
    reached = (own * built.vectors[nearest[:, 0]]).sum(axis=1)  # by the stored vectors, not by what ScaNN says
    share = float((reached >= np.square(own).sum(axis=1) - 1e-4).mean())
    found.metrics["found_by_own_vector"] = share
    found.refuse(share < limits.found, f"unreachable items: only {share:.1%} are found by their own vector")


def latency(found: Findings, built: Index, queries: Vectors, limits: Limits) -> None:
    """Single searches, as a request makes them, on this machine."""
    built.search(queries[:1], DEPTHS[-1])
    taken = []
    for query in queries[:300]:
        started = time.perf_counter()
        built.search(query[None], DEPTHS[-1])
        taken.append(1000 * (time.perf_counter() - started))
    p50, p99 = np.percentile(taken, [50, 99])
    found.metrics["latency_ms"] = {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}
    found.refuse(p99 > limits.p99_ms, f"slow search: p99 is {p99:.1f} ms, limit {limits.p99_ms:g} ms")


def against_live(
    found: Findings, here: tuple[Ids, Vectors], live: tuple[Ids, Vectors], limits: Limits, rng: np.random.Generator
) -> None:
    """Size and drift against the index that serves.

    Two trainings give spaces that are rotated against each other, so vectors cannot be compared; neighbourhoods
    can: for items that both hold, the share of the ten nearest that they agree on. Taste moves slowly, so little
    agreement points at data or training; it is a warning, because a new model may be right to differ.
    """
    n, before = len(here[0]), len(live[0])
    found.metrics["live"] = {"items": before, "share_of_size": n / before}
    found.refuse(n < limits.shrink * before, f"shrunk: {n} items against {before} in the live index")
    common, rows, live_rows = np.intersect1d(
        here[0].astype(str), live[0].astype(str), assume_unique=True, return_indices=True
    )
    if len(common) <= 2 * NEIGHBOURS:
        found.warnings.append(f"no drift figure: only {len(common)} items are in both this index and the live one")
        return
    asked = rng.choice(len(common), min(500, len(common)), replace=False)
    agreed = [
        _neighbours(np.nan_to_num(stored[rows_]), asked) for stored, rows_ in ((here[1], rows), (live[1], live_rows))
    ]
    share = float(np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(*agreed, strict=True)]))
    found.metrics["live"]["neighbour_overlap"] = share
    if share < limits.drift:
        found.warnings.append(f"drift: items keep only {share:.0%} of their neighbours in the live index")


def _neighbours(stored: Vectors, asked: NDArray[np.int64]) -> list[Sequence[int]]:
    """The nearest rows of some rows, themselves left out."""
    rows, _ = index.exact_search(stored, stored[asked], NEIGHBOURS + 1)
    return [[int(r) for r in line if r != own][:NEIGHBOURS] for line, own in zip(rows, asked, strict=True)]


def summary(found: Findings) -> dict[str, Any]:
    """The verdict as every gate gives it, and the warnings."""
    return {
        "passed": found.passed,
        "reasons": found.reasons,
        "warnings": found.warnings,
        "metrics": found.metrics,
    }
