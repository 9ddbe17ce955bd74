"""The funnel: sources → filters → ranking → arrangement → exploration, and a ladder that never fails while a rung
stands.

What a surface is made of is configured (`serving.api.surfaces`). A stage has a deadline and a circuit breaker; when
it does not serve, the page stands on the next rung, and the trace says why:

    ranked → the order of the sources: retrieval → covisitation → history → feed → trending → static

A new visitor's home page is what is popular where they are: that is the rung `trending`, and no fall.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

import numpy as np

from feature_repo.events import EventType
from feature_repo.shoppers import Shopper
from models import rerank
from models.rerank import Filtered
from recsys.inference import Deed
from recsys.settings import Settings
from serving.api import dossiers, filters, ordering, quality, sources
from serving.api.calls import Calls
from serving.api.contract import Ask, Rung
from serving.api.dossiers import Dossier
from serving.api.explore import Explorer
from serving.api.live import LiveRelease
from serving.api.ordering import Ordered
from serving.api.slate import Slate
from serving.api.sources import candidates
from serving.api.sources.candidates import Pool
from serving.api.surfaces import MODELS, SourceName, Surface
from serving.api.trace import Trace
from serving.api.trending import Trending
from serving.api.visit import Snapshot, Visit


class Funnel:
    """Answers requests from the parts of the platform; holds the trending lists in memory."""

    def __init__(self, settings: Settings, calls: Calls, explorer: Explorer) -> None:
        self._settings, self._calls, self._explorer = settings, calls, explorer
        self._trending = Trending(settings.api.list_seconds)

    async def slate(
        self, ask: Ask, surface: Surface, last_item: str, live: LiveRelease, trace: Trace
    ) -> tuple[Slate, Dossier]:
        """The pages for a request, none laid out so far, and all that was known of the candidates; there are fewer
        items than asked for only where the catalogue has no more."""
        visit, stranger = await self._visit(ask, surface, last_item, live, trace)
        wanted, share = self._affordable(surface.newcomer if stranger and surface.newcomer else surface.sources, visit)
        behind = dict.fromkeys(surface.backfill, self._settings.api.slate)
        asked, filled = await asyncio.gather(sources.gather(wanted, visit), sources.gather(behind, visit))
        with trace.timed("rerank"):
            everyone = candidates.merged([*asked, *filled], live)
            retrieval = everyone.retrieval_scores(live.vectors)
            found = self._filtered(everyone, visit)
            pool = everyone.take(found.kept)
        rung, answer = pool.rung, None
        if surface.ranked and rung is Rung.RETRIEVAL:
            count = int((pool.part < len(asked)).sum())
            ids = live.catalogue.ids[pool.rows[:count]]
            request = visit.ranking(ids, retrieval[found.kept[:count]], pool.visitor)
            answer = await self._calls.rank(request, live, trace)
        if answer is not None:
            pool, rung = pool.scored(answer.scores), Rung.RANKED
        with trace.timed("rerank"):
            order = ordering.ordered(pool, len(answer.scores) if answer else 0, visit)
            dossier = dossiers.made(everyone, retrieval, found, answer, order, rung, share)
            return self.pages(order, trace.request_id), dossier

    def pages(self, order: Ordered, request_id: str, before: Sequence[int] = ()) -> Slate:
        """The pages of candidates that are in order, see `Slate`."""
        return Slate(order, self._explorer, request_id, self._settings.api.slate, before)

    def again(self, asked: Snapshot, surface: Surface, live: LiveRelease) -> Visit:
        """A request of the past, for whoever explains or replays it."""
        return asked.visit(surface, live, self._calls, self._trending)

    async def _visit(
        self, ask: Ask, surface: Surface, last_item: str, live: LiveRelease, trace: Trace
    ) -> tuple[Visit, bool]:
        """The request with who asks, and whether nothing is known of them.

        A visit of which this moment knows nothing is not called a stranger's: the feature store may know it.
        """
        known = await self._calls.shopper(ask.user_id, ask.session_id, live, trace)
        shopper = known or Shopper()
        at = time.time()
        looked = (Deed(int(at), EventType.VIEW, last_item),) if last_item else ()
        recent = (*shopper.recent, *looked)
        visit = Visit(ask, surface, shopper, recent, live, at, self._calls, self._trending, trace)
        trace.facts |= {"recent": [deed.encode() for deed in visit.recent], "stated": list(shopper.stated)}
        trace.facts["dismissed"] = [list(no) for no in shopper.dismissed]
        trace.notes += filters.unsubscribed(ask, shopper.dismissed)
        nothing = not visit.recent and not shopper.interactions and bool(ask.user_id or not ask.session_id)
        return visit, known is not None and nothing

    def _affordable(self, quotas: Mapping[SourceName, int], visit: Visit) -> tuple[Mapping[SourceName, int], float]:
        """What to ask of the sources, and the share of their quotas that this is; rules alone are quick."""
        wanted = quotas
        if MODELS & quotas.keys():
            wanted = quality.scaled(quotas, self._calls.quality.factor, visit.ask.count)
        share = round(sum(wanted.values()) / sum(quotas.values()), 3)
        visit.trace.facts["quality"] = share
        return wanted, share

    def _filtered(self, pool: Pool, visit: Visit) -> Filtered:
        """The candidates that may be shown."""
        live, rows = visit.live, pool.rows
        masks = {
            "unavailable": ~live.available[rows],
            "region": ~live.shown_in(visit.region)[rows],
            "this item": np.isin(rows, live.catalogue.rows(visit.anchors)),
            "request": ~filters.inside(visit.ask, live, rows),
            **filters.unwanted(visit.shopper.dismissed, live, rows),
            "seen": np.isin(rows, live.catalogue.rows(list(visit.seen))),
        }
        found = rerank.filtered(masks, len(pool))
        visit.trace.facts |= {"candidates": len(pool), "dropped": found.dropped}
        return found
