"""All that was known when a slate was made, for whoever asks why an item is in it, or why not.

A dossier is kept in Redis for a while (`why:<request_id>`, arrays) and written as pages are: nobody waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import orjson
from numpy.typing import ArrayLike, NDArray

from models import rerank
from recsys.inference import HEADS, RankingResponse, strings
from serving.api import explore, ordering
from serving.api.contract import Rung
from serving.api.explore import Slot
from serving.api.live import LiveRelease
from serving.api.ordering import Ordered
from serving.api.sources import candidates
from serving.api.sources.candidates import Candidates, Pool
from serving.api.visit import Snapshot, Visit

Floats = NDArray[np.float32]
NOWHERE = -1


@dataclass(frozen=True)
class Facts:
    """What is the same for all candidates.

    Attributes:
        release_id, surface, rung, user_id: of the request.
        parts: tags of the sources, as `proposed` counts them.
        filters: names of the filters, as `dropped` counts them.
        count: items a page.
        policies: per explored place of the slate, the policy that chose and its propensity.
        fresh: per item that came in after the release, its row at that moment, which another change may move.
        edition: of the arms of exploration; "" where there were none.
        visitor: who asked, as retrieval knew them and ranking was told; "" where retrieval was not asked.
        visit: who asked for what, so that it can be asked again.
    """

    release_id: str
    surface: str
    rung: str
    user_id: str
    parts: list[str]
    filters: list[str]
    count: int
    policies: dict[str, dict[str, Any]]
    fresh: dict[str, int]
    edition: str
    visitor: str
    visit: Snapshot


@dataclass(frozen=True, eq=False)
class Dossier:
    """The candidates of a request; unknown numbers are NaN.

    Attributes:
        facts: what is the same for all of them.
        rows: [n] catalogue rows.
        proposed: [n] bits of the sources that proposed each.
        dropped: [n] the first filter that dropped it, or NOWHERE.
        retrieval: [n] retrieval's score.
        heads: [n, heads] of the ranker. score: [n] their blend.
        relevance: [n] after the score rules.
        slate: [slots] catalogue rows of the slate.
        query: [dim] the vector that retrieval searched with; empty where it did not.
    """

    facts: Facts
    rows: NDArray[np.int32]
    proposed: NDArray[np.uint32]
    dropped: NDArray[np.int8]
    retrieval: Floats
    heads: Floats
    score: Floats
    relevance: Floats
    slate: NDArray[np.int32]
    query: Floats

    def pack(self) -> bytes:
        arrays = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "facts"]
        shapes = [[name, array.dtype.str, list(array.shape)] for name, array in arrays]
        head = orjson.dumps([self.facts, shapes])
        body = b"".join(np.ascontiguousarray(array).tobytes() for _, array in arrays)
        return head + b"\n" + body

    @staticmethod
    def unpack(data: bytes) -> "Dossier | None":
        """What `pack` wrote; None for what another version of it wrote, minutes ago."""
        try:
            start = data.index(b"\n") + 1
            facts, shapes = orjson.loads(data[:start])
            arrays = {}
            for name, kind, shape in shapes:
                size = int(np.prod(shape))
                arrays[name] = np.frombuffer(data, np.dtype(kind), size, start).reshape(shape)
                start += arrays[name].nbytes
            return Dossier(Facts(**facts | {"visit": Snapshot.read(facts["visit"])}), **arrays)
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def kept(self) -> NDArray[np.int64]:
        """[m] candidates that might be shown, in the order of the sources."""
        return np.flatnonzero(self.dropped == NOWHERE)

    @property
    def ranked(self) -> NDArray[np.int64]:
        """[r] the first of them, which the ranker scored."""
        return np.flatnonzero(np.isfinite(self.score))

    def retrieval_score(self, item_id: str, live: LiveRelease) -> float:
        """What retrieval gave an item, or would have; NaN where it was not asked."""
        row = live.catalogue.row_of[item_id]
        found = np.flatnonzero(self.rows == self.row_then(item_id, live))
        if len(found):
            return float(self.retrieval[found[0]])
        return float(live.vectors[np.array([row])][0] @ self.query) if len(self.query) else float("nan")

    def row_then(self, item_id: str, live: LiveRelease) -> int:
        """The row that an item of the catalogue had; NOWHERE for a new one that was neither candidate nor shown."""
        now = live.catalogue.row_of[item_id]
        return now if now < live.shipped else self.facts.fresh.get(item_id, NOWHERE)

    def ids(self, rows: NDArray[np.integer], live: LiveRelease) -> NDArray[np.object_]:
        """[k] item ids of catalogue rows as they were then."""
        fresh = {row: item_id for item_id, row in self.facts.fresh.items()}
        return strings([fresh.get(row) or str(live.catalogue.ids[row]) for row in rows.tolist()])


def made(
    everyone: Pool,
    retrieval: Floats,
    filtered: rerank.Filtered,
    final: Pool,
    answer: RankingResponse | None,
    order: Ordered,
    slate: Sequence[Slot],
    rung: str,
    arms: explore.Pool | None,
    visit: Visit,
) -> Dossier:
    """Write down what was known.

    Args:
        everyone: all candidates.
        retrieval: [n] their scores by retrieval.
        filtered: what the filters said of them.
        final: those that may be shown, in the order of the ranker; `final.origin` are positions in `everyone`.
        answer: of the ranker, for the first permitted candidates in the order of `filtered.kept`.
        order: what the rules made of `final`.
        slate: what is shown.
        arms: that it may have explored with.
        rung, visit: of the request.
    """
    n = len(everyone)
    heads, score, relevance = (np.full(shape, np.nan, np.float32) for shape in ((n, len(HEADS)), n, n))
    if answer is not None:
        ranked = filtered.kept[: len(answer.scores)]
        heads[ranked] = np.stack([getattr(answer, head) for head in HEADS], axis=1)
        score[ranked] = answer.scores
    relevance[final.origin] = order.relevance
    query = everyone.query if everyone.query is not None else np.empty(0, np.float32)
    return Dossier(
        facts=_facts(everyone, filtered, slate, rung, arms, visit),
        rows=everyone.rows.astype(np.int32),
        proposed=everyone.bits,
        dropped=filtered.rule,
        retrieval=retrieval,
        heads=heads,
        score=score,
        relevance=relevance,
        slate=np.array([slot.row for slot in slate], np.int32),
        query=query,
    )


def _facts(
    everyone: Pool,
    filtered: rerank.Filtered,
    slate: Sequence[Slot],
    rung: str,
    arms: explore.Pool | None,
    visit: Visit,
) -> Facts:
    """Arguments as in `made`."""
    live = visit.live
    rows = np.concatenate([everyone.rows, np.array([slot.row for slot in slate], np.int64)])
    return Facts(
        release_id=live.release_id,
        surface=visit.ask.surface,
        rung=rung,
        user_id=visit.ask.user_id,
        parts=[part.source for part in everyone.parts],
        filters=list(filtered.rules),
        count=visit.ask.count,
        policies={
            str(place): {**slot.policy, "propensity": slot.propensity}
            for place, slot in enumerate(slate)
            if slot.policy
        },
        fresh={str(live.catalogue.ids[row]): int(row) for row in rows[rows >= live.shipped]},
        edition=arms.edition if arms else "",
        visitor=everyone.visitor,
        visit=visit.snapshot(arms.item_ids if arms else ()),
    )


def pool(dossier: Dossier, scores: Floats, live: LiveRelease) -> tuple[Pool, int]:
    """The candidates that might be shown, in the order of the ranker, and how many of them it scored; without those
    that have left the catalogue.

    Args:
        dossier: of the request.
        scores: [r] of the ranker, for `dossier.ranked`, as they were or as they are now.
        live: the release that made the slate, with the catalogue as it is now.
    """
    ids = dossier.ids(dossier.rows[dossier.kept], live)
    there = live.catalogue.rows(ids) >= 0
    query = dossier.query if len(dossier.query) else None
    kept = Candidates("personal", Rung.RETRIEVAL, ids[there], dossier.retrieval[dossier.kept[there]], query=query)
    found, given = candidates.merged([kept], live), scores[there[: len(scores)]]
    return found.scored(given) if len(given) else found, len(given)


def explained(dossier: Dossier, item_id: str, visit: Visit) -> dict[str, Any]:
    """Why an item is in the slate, or the first thing that kept it out.

    Args:
        dossier: of the request.
        item_id: of the catalogue.
        visit: the request once more, of the release that made the slate, with the catalogue as it is now.
    """
    live = visit.live
    now, row = live.catalogue.row_of[item_id], dossier.row_then(item_id, live)
    found = np.flatnonzero(dossier.rows == row)
    place = np.flatnonzero(dossier.slate == row)
    answer: dict[str, Any] = {
        "position": int(place[0]) if len(place) else None,
        "retrieval": _retrieval(dossier, now, live),
        "sources": [],
        "ranker": None,
        "relevance": None,
        "exploration": dossier.facts.policies.get(str(place[0])) if len(place) else None,
    }
    if len(found):
        at = int(found[0])
        bits = int(dossier.proposed[at])
        answer["sources"] = list(dict.fromkeys(tag for k, tag in enumerate(dossier.facts.parts) if bits >> k & 1))
        answer["relevance"] = _number(dossier.relevance[at])
        if np.isfinite(dossier.score[at]):
            heads = {head: _number(value) for head, value in zip(HEADS, dossier.heads[at], strict=True)}
            answer["ranker"] = heads | {"score": _number(dossier.score[at])}
    return answer | _verdict(dossier, found, place, now, visit)


def _verdict(
    dossier: Dossier, found: NDArray[np.intp], place: NDArray[np.intp], row: int, visit: Visit
) -> dict[str, Any]:
    page = dossier.facts.count
    if len(place):
        slot = int(place[0])
        if str(slot) in dossier.facts.policies:
            return {"verdict": "explored", "because": f"an exploration slot, place {slot + 1}, drew it"}
        return {"verdict": "shown", "because": f"it is in place {slot + 1}, page {slot // page + 1}"}
    if not len(found):
        return {"verdict": "not_retrieved", "because": "no source proposed it"}
    at = int(found[0])
    if dossier.dropped[at] != NOWHERE:
        rule = dossier.facts.filters[int(dossier.dropped[at])]
        return {"verdict": "filtered", "rule": rule, "because": FILTERS[rule]}
    rule = _held(dossier, row, visit)
    if rule:
        return {"verdict": "held_back", "rule": rule, "because": f"the rule {rule} let others pass it"}
    return _outranked(dossier, at)


def _held(dossier: Dossier, row: int, visit: Visit) -> str:
    """The rule that held an item back, "" for none. Found by arranging the page once more: few ask, and those who
    only want the page need not wait for it."""
    final, ranked = pool(dossier, dossier.score[dossier.ranked], visit.live)
    held = ordering.ordered(final, ranked, visit, len(dossier.slate), tell_held=True).made.held
    code = int(held[np.flatnonzero(final.rows == row)[0]])
    return "" if code == rerank.NOT_HELD else rerank.HOLDING[code]


FILTERS = {
    "unavailable": "it is not available",
    "region": "it may not be shown in the shopper's region",
    "this item": "it is what the page is about",
    "request": "the request's own filters or exclusions leave it out",
    "seen": "the shopper knows it already",
}


def _outranked(dossier: Dossier, at: int) -> dict[str, Any]:
    """By how much it missed the slate."""
    shown = dossier.relevance[np.isin(dossier.rows, dossier.slate)]
    least = float(np.nanmin(shown)) if np.isfinite(shown).any() else float("nan")
    better = int((dossier.relevance > dossier.relevance[at]).sum())
    gap = _number(least - float(dossier.relevance[at]))
    because = f"{better} candidates are more relevant; the slate has {len(dossier.slate)} places"
    return {"verdict": "outranked", "because": because, "missed_by": gap}


def _retrieval(dossier: Dossier, row: int, live: LiveRelease) -> dict[str, Any] | None:
    """Its score and rank among all items, whether retrieval returned it or not."""
    if not len(dossier.query):
        return None
    scores = live.vectors @ dossier.query
    return {"score": _number(scores[row]), "rank": int((scores > scores[row]).sum()) + 1, "of": len(scores)}


def alike(now: ArrayLike, then: ArrayLike) -> NDArray[np.bool_]:
    """Where two numbers of the ranker differ by no more than sums of float32 in another order do."""
    return np.isclose(now, then, rtol=1e-4, atol=1e-7)


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
