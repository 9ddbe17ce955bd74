"""The funnel: sources → filters → ranking → arrangement, and the ladder that never fails while a rung stands.

What a surface is made of is configured (`serving.api.surfaces`). A stage has a deadline and a circuit breaker; when
it does not serve, the page stands on the next rung, and the trace says why:

    ranked → the order of the sources: retrieval → covisitation → history → feed → trending → static

A new visitor's home page is what is popular where they are: that is the rung `trending`, and no fall.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from feature_repo.events import EventType
from feature_repo.shoppers import Shopper
from models import rerank
from recsys.inference import Deed, RankingRequest
from recsys.settings import Settings
from serving.api import filters, quality, reasons, sources
from serving.api.calls import Calls
from serving.api.contract import Ask, Rung
from serving.api.live import LiveRelease
from serving.api.sources import candidates
from serving.api.sources.candidates import Pool
from serving.api.surfaces import MODELS, SourceName, Surface
from serving.api.trace import Trace
from serving.api.trending import Trending
from serving.api.visit import Visit


class Shown(NamedTuple):
    """One item of a slate, as it is kept for later pages."""

    item_id: str
    score: float
    source: str
    sources: Sequence[str]
    reason: str


@dataclass(frozen=True)
class Slate:
    """The items for all pages of one request, best first; `quality` is the share of candidates that was looked at."""

    rung: Rung
    items: list[Shown]
    degraded: bool = False
    quality: float = 1.0


class Funnel:
    """Answers requests from the parts of the platform; holds the trending lists in memory."""

    def __init__(self, settings: Settings, calls: Calls) -> None:
        self._settings, self._calls = settings, calls
        self._trending = Trending(settings.api.list_seconds)

    async def slate(self, ask: Ask, surface: Surface, last_item: str, live: LiveRelease, trace: Trace) -> Slate:
        """All items for a request, in order; fewer than asked for only where the catalogue has no more."""
        visit, stranger = await self._visit(ask, surface, last_item, live, trace)
        wanted, share = self._affordable(surface.newcomer if stranger and surface.newcomer else surface.sources, visit)
        behind = dict.fromkeys(surface.backfill, self._settings.api.slate)
        asked, filled = await asyncio.gather(sources.gather(wanted, visit), sources.gather(behind, visit))
        with trace.timed("rerank"):
            pool = self._permitted(candidates.merged([*asked, *filled], live), visit)
        rung = pool.rung
        if surface.ranked and rung is Rung.RETRIEVAL:
            ranked = await self._ranked(pool, int((pool.part < len(asked)).sum()), visit)
            pool, rung = (pool, rung) if ranked is None else (ranked, Rung.RANKED)
        with trace.timed("rerank"):
            return Slate(rung, self._arranged(pool, visit), degraded=bool(trace.falls), quality=share)

    async def _visit(
        self, ask: Ask, surface: Surface, last_item: str, live: LiveRelease, trace: Trace
    ) -> tuple[Visit, bool]:
        """The request with who asks, and whether nothing is known of them.

        A visit of which this moment knows nothing is not called a stranger's: the feature store may know it.
        """
        known = await self._calls.shopper(ask.user_id, ask.session_id, live, trace)
        shopper = known or Shopper()
        looked = (Deed(int(time.time()), EventType.VIEW, last_item),) if last_item else ()
        visit = Visit(ask, surface, shopper, (*shopper.recent, *looked), live, self._calls, self._trending, trace)
        trace.facts |= {"recent": [deed.encode() for deed in visit.recent], "stated": list(shopper.stated)}
        stranger = known is not None and not visit.recent and not shopper.interactions and not ask.session_id
        return visit, stranger

    def _affordable(self, quotas: Mapping[SourceName, int], visit: Visit) -> tuple[Mapping[SourceName, int], float]:
        """What to ask of the sources, and the share of their quotas that this is; rules alone are quick."""
        wanted = quotas
        if MODELS & quotas.keys():
            wanted = quality.scaled(quotas, self._calls.quality.factor, visit.ask.count)
        share = round(sum(wanted.values()) / sum(quotas.values()), 3)
        visit.trace.facts["quality"] = share
        return wanted, share

    def _permitted(self, pool: Pool, visit: Visit) -> Pool:
        """The candidates that may be shown."""
        live, rows = visit.live, pool.rows
        masks = {
            "unavailable": ~live.available[rows],
            "region": ~live.shown_in(visit.region)[rows],
            "this item": np.isin(rows, live.catalogue.rows(visit.anchors)),
            "request": ~filters.inside(visit.ask, live, rows),
        }
        if visit.surface.seen and not live.allow_repeats:
            seen = visit.shopper.watched.union(visit.shopper.items, (deed.item_id for deed in visit.recent))
            masks["seen"] = np.isin(rows, live.catalogue.rows(list(seen)))
        found = rerank.filtered(masks, len(pool))
        visit.trace.facts |= {"candidates": len(pool), "dropped": dict(found.dropped)}
        return pool.take(found.kept)

    async def _ranked(self, pool: Pool, count: int, visit: Visit) -> Pool | None:
        """The first candidates in the order of the ranker, the others behind; None if the ranker does not serve."""
        request = RankingRequest(
            visit.live.catalogue.ids[pool.rows[:count]],
            pool.retrieval_scores(count, visit.live.vectors),
            user_id=visit.ask.user_id,
            session_id=visit.ask.session_id,
            region=visit.region,
            surface=visit.ask.surface,
            recent=visit.recent,
            preferences=visit.shopper.stated,
            blend=visit.surface.objectives,
        )
        answer = await self._calls.rank(request, visit.live, visit.trace)
        return None if answer is None else pool.scored(answer.scores)

    def _arranged(self, pool: Pool, visit: Visit) -> list[Shown]:
        live = visit.live
        made = rerank.arranged(
            np.linspace(1, 0, len(pool)),  # by place: scores of different sources have no scale in common
            live.categories[pool.rows],
            live.tops[pool.rows],
            length=self._settings.api.slate,
            page=visit.ask.count,
            rules=rerank.NO_RULES if visit.ask.category else visit.surface.rules.of_page,
        )
        visit.trace.facts["relaxed"] = dict(made.relaxed)
        chosen = pool.take(made.order)
        return [
            Shown(
                str(live.catalogue.ids[row]),
                round(float(score), 6),
                pool.parts[part].source,
                chosen.tags(position),
                reasons.of(pool.parts[part], int(place), int(row), live),
            )
            for position, (row, score, part, place) in enumerate(
                zip(chosen.rows, chosen.scores, chosen.part, chosen.place, strict=True)
            )
        ]
