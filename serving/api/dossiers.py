"""All that is known of a slate: for its later pages, and for whoever asks why an item is in it, or why not.

`serving.api.pages` keeps it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import ArrayLike, NDArray

from feature_repo.dismissals import ITEM, Dismissal
from feature_repo.events import EventType
from models import rerank
from recsys.inference import HEADS, RankingResponse, strings
from serving.api import filters, ordering
from serving.api.contract import Rung
from serving.api.explore import Pool as Arms
from serving.api.live import LiveRelease
from serving.api.ordering import Ordered
from serving.api.slate import Shown
from serving.api.sources.candidates import Candidates, Pool, Tag
from serving.api.trace import Exposure
from serving.api.visit import Snapshot, Visit

Floats = NDArray[np.float32]
NOWHERE = -1


class Proposer(NamedTuple):
    """A source, as `Candidates` has it."""

    source: Tag
    scope: str
    key: str


class Laid(NamedTuple):
    """What a page was made of besides the candidates.

    Attributes:
        edition: of the arms that it might explore with; "" where there were none.
        watched: those of them that the shopper had watched. Only these are kept; somebody may have watched thousands.
        dismissed: what the shopper had said no to when the page was made; between two pages they may say more.
    """

    edition: str
    watched: Sequence[str]
    dismissed: Sequence[Dismissal] = ()

    @staticmethod
    def read(edition: str, watched: Sequence[str], dismissed: Sequence[Sequence[Any]] = ()) -> "Laid":
        """From JSON."""
        return Laid(edition, watched, tuple(Dismissal(*no) for no in dismissed))


@dataclass(frozen=True)
class Facts:
    """What is the same for all candidates.

    Attributes:
        release_id, surface, rung, user_id: of the request.
        degraded, quality: of the response.
        parts: the sources, as `proposed` counts them.
        filters: names of the filters, as `dropped` counts them.
        count: items a page.
        fresh: per item that came in after the release, its row at that moment, which another change may move.
        visitor: who asked, as retrieval knew them and ranking was told; "" where retrieval was not asked.
        causes, cause_events: as `because` counts them, see RetrievalResponse.
        visit: who asked for what, so that it can be asked again.
        exposures: the experiments that concern the request.
        items: of the pages so far, in order.
        laid: of each page so far.
        ended: whether there are no more pages.
    """

    release_id: str
    surface: str
    rung: Rung
    user_id: str
    degraded: bool
    quality: float
    parts: Sequence[Proposer]
    filters: Sequence[str]
    count: int
    fresh: Mapping[str, int]
    visitor: str
    causes: Sequence[str]
    cause_events: Sequence[str]
    visit: Snapshot
    exposures: Sequence[Exposure] = ()
    items: Sequence[Shown] = ()
    laid: Sequence[Laid] = ()
    ended: bool = False

    @staticmethod
    def read(raw: Mapping[str, Any]) -> "Facts":
        """From JSON. Raises KeyError, TypeError or ValueError for what another version wrote."""
        read = dict(raw)
        read["rung"], read["visit"] = Rung(raw["rung"]), Snapshot.read(raw["visit"])
        for name, kind in (("parts", Proposer), ("exposures", Exposure), ("items", Shown), ("laid", Laid.read)):
            read[name] = [kind(*row) for row in raw[name]]
        return Facts(**read)


@dataclass(frozen=True, eq=False)
class Dossier:
    """The candidates of a request; unknown numbers are NaN.

    Attributes:
        facts: what is the same for all of them.
        rows: [n] catalogue rows.
        proposed: [n] bits of the sources that proposed each.
        because: [n] which of the causes is its own.
        dropped: [n] the first filter that dropped it, or NOWHERE.
        own: [n] the score of its first source.
        retrieval: [n] retrieval's score.
        heads: [n, heads] of the ranker. score: [n] their blend.
        relevance: [n] after the score rules.
        query: [dim] the vector that retrieval searched with; empty where it did not.
    """

    facts: Facts
    rows: NDArray[np.int32]
    proposed: NDArray[np.uint32]
    because: NDArray[np.int16]
    dropped: NDArray[np.int8]
    own: Floats
    retrieval: Floats
    heads: Floats
    score: Floats
    relevance: Floats
    query: Floats

    def with_page(self, items: Sequence[Shown], arms: Arms | None, visit: Visit, *, ended: bool) -> "Dossier":
        """The same with one page more.

        Args:
            items: of the page.
            arms: that it may explore with.
            visit: the request.
            ended: whether it is the last page.
        """
        facts, watched = self.facts, visit.shopper.watched.intersection(arms.item_ids) if arms else ()
        laid = Laid(arms.edition if arms else "", sorted(watched), visit.shopper.dismissed)
        facts = replace(facts, items=[*facts.items, *items], laid=[*facts.laid, laid], ended=ended)
        return replace(self, facts=facts)

    def holds(self, items: int) -> bool:
        """Whether the pages so far have so many items, or all that there are."""
        return self.facts.ended or len(self.facts.items) >= items

    def shown(self, live: LiveRelease) -> list[int]:
        """Catalogue rows of the items on the pages so far; NOWHERE for one that has left the catalogue."""
        rows: list[int] = live.catalogue.rows([item.item_id for item in self.facts.items]).tolist()
        return rows

    def pack(self) -> bytes:
        arrays = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "facts"]
        shapes = [[name, array.dtype.str, list(array.shape)] for name, array in arrays]
        head = orjson.dumps([self.facts, shapes], default=list)  # named tuples
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
            return Dossier(Facts.read(facts), **arrays)
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
        """The row that an item had; NOWHERE for a new one that was no candidate, and for one that has left."""
        now = live.catalogue.row_of.get(item_id, NOWHERE)
        return now if now < live.shipped else self.facts.fresh.get(item_id, NOWHERE)

    def ids(self, rows: NDArray[np.integer], live: LiveRelease) -> NDArray[np.object_]:
        """[k] item ids of catalogue rows as they were then."""
        fresh = {row: item_id for item_id, row in self.facts.fresh.items()}
        return strings([fresh.get(row) or str(live.catalogue.ids[row]) for row in rows.tolist()])


def made(
    everyone: Pool,
    retrieval: Floats,
    filtered: rerank.Filtered,
    answer: RankingResponse | None,
    order: Ordered,
    rung: Rung,
    quality: float,
) -> Dossier:
    """Write down what is known before the first page.

    Args:
        everyone: all candidates.
        retrieval: [n] their scores by retrieval.
        filtered: what the filters said of them.
        answer: of the ranker, for the first permitted candidates in the order of `filtered.kept`.
        order: those that may be shown, whose `pool.origin` are positions in `everyone`.
        rung, quality: of the response.
    """
    n, final, live = len(everyone), order.pool, order.visit.live
    heads, score, relevance = (np.full(shape, np.nan, np.float32) for shape in ((n, len(HEADS)), n, n))
    if answer is not None:
        ranked = filtered.kept[: len(answer.scores)]
        heads[ranked] = np.stack([getattr(answer, head) for head in HEADS], axis=1)
        score[ranked] = answer.scores
    relevance[final.origin] = order.relevance
    because, causes, events = _because(everyone)
    query = everyone.query if everyone.query is not None else np.empty(0, np.float32)
    fresh = everyone.rows[everyone.rows >= live.shipped].tolist()
    facts = Facts(
        release_id=live.release_id,
        surface=order.visit.ask.surface,
        rung=rung,
        user_id=order.visit.ask.user_id,
        degraded=bool(order.visit.trace.falls),
        quality=quality,
        parts=[Proposer(part.source, part.scope, part.key) for part in everyone.parts],
        filters=filtered.rules,
        count=order.visit.ask.count,
        fresh={str(live.catalogue.ids[row]): row for row in fresh},
        visitor=everyone.visitor,
        causes=causes,
        cause_events=events,
        visit=order.visit.snapshot(),
        exposures=order.visit.trace.exposures,
    )
    return Dossier(
        facts=facts,
        rows=everyone.rows.astype(np.int32),
        proposed=everyone.bits,
        because=because,
        dropped=filtered.rule,
        own=everyone.scores,
        retrieval=retrieval,
        heads=heads,
        score=score,
        relevance=relevance,
        query=query,
    )


def _because(everyone: Pool) -> tuple[NDArray[np.int16], list[str], list[str]]:
    """[n] which of the causes is each candidate's; the causes, and what was done with each."""
    because = np.zeros(len(everyone), np.int16)
    for number, part in enumerate(everyone.parts):
        if part.because is not None:
            own = everyone.part == number
            because[own] = part.because[everyone.place[own]]
            return because, list(part.causes), list(part.cause_events)
    return because, [], []


def pool(dossier: Dossier, scores: Floats, live: LiveRelease) -> tuple[Pool, int]:
    """The candidates that might be shown, in the order of the ranker, and how many of them it scored; without those
    that have left the catalogue.

    Args:
        dossier: of the request.
        scores: [r] of the ranker, for `dossier.ranked`, as they were or as they are now.
        live: the release that made the slate, with the catalogue as it is now.
    """
    facts = dossier.facts
    rows = live.catalogue.rows(dossier.ids(dossier.rows[dossier.kept], live))
    there = rows >= 0
    kept, given = dossier.kept[there], scores[there[: len(scores)]]
    proposed = (dossier.proposed[kept, None] >> np.arange(len(facts.parts), dtype=np.uint32) & 1).astype(bool)
    found = Pool(
        parts=[_proposer(part, dossier) for part in facts.parts],
        rows=rows[there],
        part=proposed.argmax(axis=1) if len(facts.parts) else np.zeros(len(kept), np.int64),
        place=dossier.because[kept].astype(np.int64),
        scores=dossier.own[kept],
        proposed=proposed,
        origin=np.arange(len(kept)),
    )
    return found.scored(given) if len(given) else found, len(given)


def _proposer(part: Proposer, dossier: Dossier) -> Candidates:
    """A source as far as it is known still: what it proposed stands in the pool, whose `place` counts its causes."""
    facts, personal = dossier.facts, part.source == "personal"
    return Candidates(
        part.source,
        facts.rung,
        np.empty(0, object),
        np.empty(0, np.float32),
        part.scope,
        part.key,
        np.arange(len(facts.causes)) if personal else None,
        facts.causes,
        facts.cause_events,
        dossier.query if len(dossier.query) else None,
        facts.visitor,
    )


def explained(dossier: Dossier, item_id: str, visit: Visit) -> dict[str, Any]:
    """Why an item is on the pages so far, or the first thing that kept it away.

    Args:
        dossier: of the request.
        item_id: of the catalogue.
        visit: the request once more, of the release that made the slate, with the catalogue as it is now.
    """
    live = visit.live
    now, row = live.catalogue.row_of[item_id], dossier.row_then(item_id, live)
    found = np.flatnonzero(dossier.rows == row)
    place = next((k for k, item in enumerate(dossier.facts.items) if item.item_id == item_id), None)
    shown = None if place is None else dossier.facts.items[place]
    answer: dict[str, Any] = {
        "position": place,
        "retrieval": _retrieval(dossier, now, live),
        "sources": [],
        "ranker": None,
        "relevance": None,
        "exploration": {**shown.policy, "propensity": shown.propensity} if shown and shown.policy else None,
    }
    if len(found):
        at = int(found[0])
        bits = int(dossier.proposed[at])
        answer["sources"] = list(dict.fromkeys(tag for k, (tag, *_) in enumerate(dossier.facts.parts) if bits >> k & 1))
        answer["relevance"] = _number(dossier.relevance[at])
        if np.isfinite(dossier.score[at]):
            heads = {head: _number(value) for head, value in zip(HEADS, dossier.heads[at], strict=True)}
            answer["ranker"] = heads | {"score": _number(dossier.score[at])}
    answer |= {"dampened": None} | _verdict(dossier, found, place, now, visit)
    if answer["verdict"] in ORDERED and (dampened := _dampened(dossier, place, now, visit)):
        answer |= {"dampened": dampened, "because": f"{answer['because']}; {dampened['because']}"}
    return answer


ORDERED = ("shown", "held_back", "outranked")  # verdicts in which relevance had its say
REFUSED: Mapping[str, str] = {
    EventType.SKIP: "skipped",
    EventType.DISLIKE: "disliked",
    EventType.REMOVE_FROM_CART: "removed from the cart",
    EventType.RETURN: "returned",
    EventType.REFUND: "returned",
}


def _hidden(no: Dismissal) -> dict[str, Any]:
    """The verdict on what the shopper does not want to see."""
    if no.scope != ITEM:
        because = f"hidden: you unsubscribed from {no.name}"
        return {"verdict": "filtered", "rule": filters.UNSUBSCRIBED, "because": because}
    because = "hidden: you dismissed it" + (f" ({REFUSED[no.event]})" if no.event in REFUSED else "")
    return {"verdict": "filtered", "rule": filters.DISMISSED, "because": because}


def _refused(dossier: Dossier, place: int | None, visit: Visit) -> Sequence[Dismissal]:
    """What the shopper had said no to when an item's page was made, or the last page where it is on none."""
    laid = dossier.facts.laid
    if not laid:
        return visit.shopper.dismissed
    return laid[-1 if place is None else min(place // dossier.facts.count, len(laid) - 1)].dismissed


def _dampened(dossier: Dossier, place: int | None, row: int, visit: Visit) -> dict[str, Any] | None:
    """Which refused item took relevance from one like it, and how much."""
    then = visit.refusing(_refused(dossier, place, visit))
    each = [(float(ordering.dampening(np.array([row]), then, [one])[0]), one[1]) for one in ordering.refused(then)]
    factor, name = min(each, default=(1.0, ""))
    if factor == 1:
        return None
    title = str(visit.live.titles[visit.live.catalogue.row_of[name]])
    because = f"dampened: similar to {title}, which you dismissed"
    return {"item_id": name, "factor": _number(factor), "because": because}


def _verdict(dossier: Dossier, found: NDArray[np.intp], place: int | None, row: int, visit: Visit) -> dict[str, Any]:
    if place is not None:
        if dossier.facts.items[place].policy:
            return {"verdict": "explored", "because": f"an exploration slot, place {place + 1}, drew it"}
        page = place // dossier.facts.count + 1
        return {"verdict": "shown", "because": f"it is in place {place + 1}, page {page}"}
    at = int(found[0]) if len(found) else NOWHERE
    if at != NOWHERE and dossier.dropped[at] != NOWHERE:
        rule = dossier.facts.filters[int(dossier.dropped[at])]
        if rule not in FILTERS and (no := filters.hiding(visit.shopper.dismissed, visit.live, row)):
            return _hidden(no)
        return {"verdict": "filtered", "rule": rule, "because": FILTERS.get(rule, "hidden: you dismissed it")}
    if no := filters.hiding(_refused(dossier, place, visit), visit.live, row):
        return _hidden(no)  # the sources leave it out, or the shopper said so between two pages
    if at == NOWHERE:
        return {"verdict": "not_retrieved", "because": "no source proposed it"}
    rule = _held(dossier, row, visit)
    if rule:
        return {"verdict": "held_back", "rule": rule, "because": f"the rule {rule} let others pass it"}
    return _outranked(dossier, at, visit.live)


def _held(dossier: Dossier, row: int, visit: Visit) -> str:
    """The first rule that held an item back, "" for none. Found by arranging the pages once more: few ask, and those
    who only want a page need not wait for it."""
    final, ranked = pool(dossier, dossier.score[dossier.ranked], visit.live)
    order, shown = ordering.ordered(final, ranked, visit), dossier.shown(visit.live)
    at = int(np.flatnonzero(final.rows == row)[0])
    # strict=False: a page that a no made empty has no first place of its own.
    for first, laid in zip(range(0, len(shown), dossier.facts.count), dossier.facts.laid, strict=False):
        order = order.refusing(laid.dismissed)
        _, made = order.page(shown[:first], tell_held=True)
        if made.held[at] != rerank.NOT_HELD:
            return rerank.HOLDING[made.held[at]]
    return ""


FILTERS = {
    "unavailable": "it is not available",
    "region": "it may not be shown in the shopper's region",
    "this item": "it is what the page is about",
    "request": "the request's own filters or exclusions leave it out",
    "seen": "the shopper knows it already",
}


def _outranked(dossier: Dossier, at: int, live: LiveRelease) -> dict[str, Any]:
    """By how much it missed the places of the pages so far, those aside that explore."""
    items = dossier.facts.items
    placed = [dossier.row_then(item.item_id, live) for item in items if not item.policy]
    relevance = dossier.relevance[np.isin(dossier.rows, placed)]
    least = float(np.nanmin(relevance)) if np.isfinite(relevance).any() else float("nan")
    better = int((dossier.relevance > dossier.relevance[at]).sum())
    because = f"{better} candidates are more relevant; the pages so far have {len(items)} places"
    if len(placed) < len(items):
        because += f", of which {len(items) - len(placed)} explore"
    gap = _number(least - float(dossier.relevance[at]))
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
