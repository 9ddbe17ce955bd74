"""From a pool of candidates to an order: score rules, then the arrangement; what each rule did is kept for later.

Relevance is on one scale: the ranker's scores where it served, and otherwise the place in the order of the sources.
Candidates behind the ranked ones continue below the least of these.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from feature_repo.dismissals import ITEM, MS, SAYS, Dismissal
from models import factors, rerank
from models.rerank import Arrangement
from serving.api import filters
from serving.api.sources.candidates import Pool
from serving.api.surfaces import Business
from serving.api.visit import Visit

Floats = NDArray[np.float64]
VIEWED = 5  # of the items of this moment, how many of the last the session rule looks at


@dataclass(frozen=True, eq=False)
class Ordered:
    """Candidates in order of relevance, for one page after another.

    Attributes:
        pool: the candidates.
        ranked: how many of them, the first ones, have the ranker's scores.
        relevance: [n] after the score rules.
        changed: candidates whose score a score rule changed, by rule.
        visit: the request.
    """

    pool: Pool
    ranked: int
    relevance: Floats
    changed: Mapping[str, int]
    visit: Visit

    @cached_property
    def hidden(self) -> NDArray[np.bool_]:
        """[n] candidates that the shopper has said no to since the filters looked."""
        return filters.hidden(self.visit.shopper.dismissed, self.visit.live, self.pool.rows)

    def refusing(self, dismissed: Sequence[Dismissal]) -> "Ordered":
        """The same candidates for a shopper who said no to these."""
        if tuple(dismissed) == self.visit.shopper.dismissed:
            return self
        return ordered(self.pool, self.ranked, self.visit.refusing(dismissed))

    def page(
        self, shown: Sequence[int], *, without: Collection[int] = (), tell_held: bool = False
    ) -> tuple[NDArray[np.int64], Arrangement]:
        """The candidates of the next page, and what the category rules and diversity did.

        Args:
            shown: catalogue rows on the pages before, in order; not all need be candidates, -1 is nobody.
            without: catalogue rows that the page may not show.
            tell_held: whether `held` is wanted.

        Returns:
            Positions in the pool, and the arrangement, whose `held` is [n].
        """
        live, count = self.visit.live, self.visit.ask.count
        rules = self.visit.surface.rules.of_page
        if self.visit.ask.category:
            rules = rerank.NO_RULES  # a page of one category has too much of it by its purpose
        rows, relevance, left, before = self.pool.rows, self.relevance, np.arange(len(self.pool)), 0
        if shown or without or self.hidden.any():
            worth = dict(zip(rows.tolist(), relevance.tolist(), strict=True))
            earlier = _mattering([row for row in shown if row >= 0], worth, max(rules.window, rules.max_run))
            before, left = len(earlier), np.flatnonzero(~(np.isin(rows, [*shown, *without]) | self.hidden))
            rows = np.concatenate([np.array(earlier, np.int64), rows[left]])
            relevance = np.concatenate([[worth.get(row, 0.0) for row in earlier], relevance[left]])
        made = rerank.arranged(
            relevance,
            live.categories[rows],
            live.tops[rows],
            live.vectors[rows] if rules.diversity != "none" else None,
            length=count,
            page=count,
            rules=rules,
            before=before,
            tell_held=tell_held,
        )
        if len(left) < len(self.pool) and tell_held:
            held = np.full(len(self.pool), rerank.NOT_HELD, np.int8)
            held[left] = made.held[before:]
            made = replace(made, held=held)
        return left[made.order - before], made


def _mattering(shown: Sequence[int], worth: Mapping[int, float], near: int) -> list[int]:
    """Of what was shown, all that the next page depends on: the last few, before them the most relevant, which makes
    the scale."""
    earlier = shown[-near:]
    best = max(shown, key=lambda row: worth.get(row, 0.0), default=-1)
    return [*earlier] if best < 0 or best in earlier else [best, *earlier]


def ordered(pool: Pool, ranked: int, visit: Visit) -> Ordered:
    """Apply the score rules of the surface.

    Args:
        pool: candidates, the first `ranked` with the ranker's scores.
        ranked: 0 where the ranker did not serve.
        visit: the request.
    """
    adjusted = factors.adjusted(relevance(pool, ranked), _factors(pool, visit))
    return Ordered(pool, ranked, adjusted.relevance, adjusted.changed, visit)


def relevance(pool: Pool, ranked: int) -> Floats:
    """[n] at least 0, the order of the pool: scores of the ranked ones, and the others below by their place."""
    if not ranked:
        return np.linspace(1, 0, len(pool), endpoint=False)
    scores = np.maximum(pool.scores[:ranked].astype(np.float64), 0)
    behind = scores.min() * np.linspace(1, 0, len(pool) - ranked + 1, endpoint=False)[1:]
    return np.concatenate([scores, behind])


def _factors(pool: Pool, visit: Visit) -> dict[str, Floats]:
    """The factors of the score rules that the surface has."""
    live, scores, found = visit.live, visit.surface.scores, dict[str, Floats]()
    if scores.fresh > 1:
        found["freshness"] = factors.freshness(live.created[pool.rows], live.now(visit.at), boost=scores.fresh)
    viewed = live.catalogue.rows(list(dict.fromkeys(deed.item_id for deed in reversed(visit.recent)))[:VIEWED])
    if scores.session and (viewed >= 0).any():
        vectors = live.vectors[pool.rows]
        found["session"] = factors.session(vectors, live.vectors[viewed[viewed >= 0]], strength=scores.session)
    if scores.dampen and (given := refused(visit)):
        found["dampening"] = dampening(pool.rows, visit, given)
    if scores.business:
        rules = {str(place): (_holds(rule, pool, visit), rule.factor) for place, rule in enumerate(scores.business)}
        found["business"] = factors.business(len(pool), rules)
    return found


def dampening(rows: NDArray[np.int64], visit: Visit, given: Sequence[tuple[float, str]]) -> Floats:
    """[n] factors of items that may be like refused ones, which are given as `refused` does."""
    vectors, names = visit.live.vectors, [name for _, name in given]
    weights, away = np.array([weight for weight, _ in given]), visit.live.catalogue.rows(names)
    return factors.dampening(vectors[rows], vectors[away], weights, strength=visit.surface.scores.dampen)


def refused(visit: Visit) -> list[tuple[float, str]]:
    """The refused items that are in the catalogue, each with what the strongest no to it still says of items alike;
    the strongest first, `factors.REFUSED` at most."""
    nos = [no for no in visit.shopper.dismissed if no.scope == ITEM and no.name in visit.live.catalogue.row_of]
    if not nos:
        return []
    age = visit.live.now(visit.at) - np.array([no.time for no in nos]) / MS
    weights = factors.weight(np.array([SAYS[no.event] for no in nos]), age).tolist()
    strongest: dict[str, float] = {}
    for no, weight in zip(nos, weights, strict=True):
        strongest[no.name] = max(weight, strongest.get(no.name, 0.0))
    return sorted(((weight, name) for name, weight in strongest.items()), reverse=True)[: factors.REFUSED]


def _holds(rule: Business, pool: Pool, visit: Visit) -> NDArray[np.bool_]:
    """[n] for whom a business rule holds: all that it names."""
    live, held = visit.live, np.ones(len(pool), bool)
    if rule.category:
        held &= live.inside(rule.category)[live.categories[pool.rows]]
    if rule.brand:
        held &= live.brands[pool.rows] == rule.brand
    if rule.items:
        held &= np.isin(pool.rows, live.catalogue.rows(rule.items))
    return held
