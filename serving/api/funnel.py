"""The funnel: sources → filters → ranking → arrangement, and the ladder that never fails while a rung stands.

    home       ranked → retrieval → feed → trending → static
    similar    retrieval → covisitation → trending → static
    trending, category           trending → static

A stage has a deadline and a circuit breaker; when it does not serve, the next rung does, and the trace says why. A
new visitor's home page is what is popular where they are: that is the rung `trending`, and no fall.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from feature_repo import online
from feature_repo.events import top_category
from models import rerank
from models.rerank import NO_RULES, Rules
from recsys.inference import RankingRequest, RetrievalRequest
from recsys.settings import Settings
from serving.api import reasons, sources, trending
from serving.api.calls import Calls
from serving.api.contract import Ask, Rung, Surface
from serving.api.live import LiveRelease
from serving.api.sources import Candidates, Pool
from serving.api.trace import Trace

RULES: Mapping[Surface, Rules] = {
    Surface.HOME: Rules(),
    Surface.TRENDING: Rules(),
    # Of one category, or near one item, by their purpose.
    Surface.SIMILAR: NO_RULES,
    Surface.CATEGORY: NO_RULES,
}


class Shown(NamedTuple):
    """One item of a slate, as it is kept for later pages."""

    item_id: str
    score: float
    source: str
    reason: str


@dataclass(frozen=True)
class Slate:
    """The items for all pages of one request, best first."""

    rung: Rung
    items: list[Shown]
    degraded: bool = False


@dataclass(frozen=True, eq=False)
class Proposal:
    """What the sources of a surface propose.

    Attributes:
        rung: that the sources stand on.
        parts: the sources, the first before all others.
        region: of the request, or else of the profile.
        seen: items that the shopper knows already.
        rank: whether the first source is to be ranked.
        without: items that may not appear.
    """

    rung: Rung
    parts: Sequence[Candidates]
    region: str = ""
    seen: frozenset[str] = frozenset()
    rank: bool = False
    without: frozenset[str] = field(default_factory=frozenset)


class Funnel:
    """Answers requests from the parts of the platform; holds the trending lists in memory."""

    def __init__(self, settings: Settings, calls: Calls) -> None:
        self._settings, self._calls = settings, calls
        self._trending = trending.Trending(settings.api.list_seconds)

    async def slate(self, ask: Ask, last_item: str, live: LiveRelease, trace: Trace) -> Slate:
        """All items for a request, in order; fewer than asked for only where the catalogue has no more."""
        match ask.surface:
            case Surface.HOME:
                proposal = await self._home(ask, last_item, live, trace)
            case Surface.SIMILAR:
                proposal = await self._similar(ask, live, trace)
            case _:
                proposal = await self._listed(ask, live, trace)
        pool = self._permitted(proposal, ask, live, trace)
        rung = proposal.rung
        if proposal.rank:
            ranked = await self._ranked(pool, proposal.region, ask, last_item, live, trace)
            pool, rung = (pool, rung) if ranked is None else (ranked, Rung.RANKED)
        with trace.timed("rerank"):
            return Slate(rung, self._arranged(pool, ask, live, trace), degraded=bool(trace.falls))

    # Sources of each surface.

    async def _home(self, ask: Ask, last_item: str, live: LiveRelease, trace: Trace) -> Proposal:
        request = RetrievalRequest(
            ask.user_id, ask.session_id, "", last_item, ask.region, self._settings.api.candidates
        )
        found, snapshot = await asyncio.gather(
            self._calls.retrieve(request, live, trace), self._calls.visitor(ask.user_id, live, trace)
        )
        region = ask.region or (found.profile.region if found else "")
        age_group = found.profile.age_group if found else ""
        lists, static = await self._lists(trending.of_visitor(region, age_group), live, trace)
        below = [*lists, self._catalogue(live)]
        rung = Rung.STATIC if static else Rung.TRENDING
        if found is not None and found.profile.history_size > 0:
            parts = [sources.personal(found), *below]
            # A session has no watched set, and an item viewed this moment is in none yet.
            seen = snapshot.watched | {last_item, *found.profile.recent}
            return Proposal(Rung.RETRIEVAL, parts, region, seen, rank=True)
        if found is not None:
            return Proposal(rung, below, region, snapshot.watched)
        if snapshot.feed:
            return Proposal(Rung.FEED, [sources.listed("feed", snapshot.feed), *below], region, snapshot.watched)
        favourite = await self._favourite(snapshot.watched, live, trace)
        return Proposal(rung, [*favourite, *below], region, snapshot.watched)

    async def _similar(self, ask: Ask, live: LiveRelease, trace: Trace) -> Proposal:
        request = RetrievalRequest(
            ask.user_id, ask.session_id, ask.item_id, "", ask.region, self._settings.api.candidates
        )
        kinds: dict[str, sources.Source] = {"bought": "bought_with", "viewed": "viewed_with"}
        keys = {online.covisit_key(kind, ask.item_id): source for kind, source in kinds.items()}
        found, snapshot = await asyncio.gather(
            self._calls.retrieve(request, live, trace), self._calls.read(list(keys), "", live, trace)
        )
        region = ask.region or (found.profile.region if found else "")
        category = live.category(live.catalogue.row_of[ask.item_id])
        lists, static = await self._lists(
            [*trending.of_category(category), ("top_category", top_category(category))], live, trace
        )
        together = snapshot.lists if snapshot else {}
        covisited = [sources.listed(s, together[key], key=ask.item_id) for key, s in keys.items() if together.get(key)]
        below = [*covisited, *lists, self._catalogue(live, category)]
        without = frozenset([ask.item_id])
        if found is not None:
            parts = [sources.similar(found, ask.item_id), *below]
            return Proposal(Rung.RETRIEVAL, parts, region, without=without)
        if covisited:
            return Proposal(Rung.COVISITATION, below, region, without=without)
        return Proposal(Rung.STATIC if static else Rung.TRENDING, below, region, without=without)

    async def _listed(self, ask: Ask, live: LiveRelease, trace: Trace) -> Proposal:
        snapshot = await self._calls.visitor(ask.user_id, live, trace)
        keys = trending.of_category(ask.category) if ask.category else trending.of_visitor(ask.region, "")
        lists, static = await self._lists(keys, live, trace)
        parts = [*lists, self._catalogue(live, ask.category)]
        return Proposal(Rung.STATIC if static else Rung.TRENDING, parts, ask.region, snapshot.watched)

    async def _lists(
        self, keys: Sequence[trending.Key], live: LiveRelease, trace: Trace
    ) -> tuple[list[Candidates], bool]:
        return await self._trending.lists(keys, live, lambda names: self._calls.read(names, "", live, trace))

    async def _favourite(self, watched: frozenset[str], live: LiveRelease, trace: Trace) -> list[Candidates]:
        """The list of the general category that somebody was busy with most."""
        rows = [row for item_id in watched if (row := live.catalogue.row_of.get(item_id)) is not None]
        if not rows:
            return []
        counts = Counter(top_category(live.category(row)) for row in rows)
        category = min(counts, key=lambda name: (-counts[name], name))
        lists, _ = await self._lists([("top_category", category)], live, trace)
        return lists

    def _catalogue(self, live: LiveRelease, category: str = "") -> Candidates:
        """The catalogue itself by popularity; the last source, so that no page is short while there are items."""
        rows = live.below(category) if category else live.by_popularity
        return sources.rows(live, rows[: self._settings.api.slate], category)

    # Rules and ranking.

    def _permitted(self, proposal: Proposal, ask: Ask, live: LiveRelease, trace: Trace) -> Pool:
        with trace.timed("rerank"):
            pool = sources.merged(proposal.parts, live)
            rows = pool.rows
            masks = {
                "unavailable": ~live.available[rows],
                "region": ~live.shown_in(proposal.region)[rows],
                "this item": np.isin(rows, live.catalogue.rows(list(proposal.without))),
            }
            if not live.allow_repeats:
                masks["seen"] = np.isin(rows, live.catalogue.rows(list(proposal.seen)))
            found = rerank.filtered(masks, len(pool))
            trace.facts |= {"candidates": len(pool), "dropped": dict(found.dropped)}
            return pool.take(found.kept)

    async def _ranked(
        self, pool: Pool, region: str, ask: Ask, last_item: str, live: LiveRelease, trace: Trace
    ) -> Pool | None:
        """The first source in the order of the ranker, the others behind it; None if the ranker does not serve."""
        count = int((pool.part == 0).sum())
        request = RankingRequest(
            live.catalogue.ids[pool.rows[:count]],
            pool.scores[:count],
            ask.user_id,
            ask.session_id,
            region,
            ask.surface,
            last_item,
        )
        answer = await self._calls.rank(request, live, trace) if count else None
        return None if answer is None else pool.scored(answer.scores)

    def _arranged(self, pool: Pool, ask: Ask, live: LiveRelease, trace: Trace) -> list[Shown]:
        made = rerank.arranged(
            np.linspace(1, 0, len(pool)),  # by place: scores of different sources have no scale in common
            live.categories[pool.rows],
            live.tops[pool.rows],
            length=self._settings.api.slate,
            page=ask.count,
            rules=NO_RULES if ask.category else RULES[ask.surface],
        )
        trace.facts["relaxed"] = dict(made.relaxed)
        chosen = pool.take(made.order)
        ids = live.catalogue.ids[chosen.rows]
        columns = (ids, chosen.scores, chosen.part, chosen.place, chosen.rows)
        return [
            Shown(
                str(item_id),
                round(float(score), 6),
                pool.parts[part].source,
                reasons.of(pool.parts[part], int(place), int(row), live),
            )
            for item_id, score, part, place, row in zip(*columns, strict=True)
        ]
