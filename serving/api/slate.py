"""A slate: the candidates of one request in order of relevance, and its pages, each laid out when it is asked for.

Few shoppers look at a second page, and to lay it out takes as long as the first.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from feature_repo.dismissals import Dismissal
from serving.api import explore, reasons
from serving.api.explore import Explorer, Slot
from serving.api.live import LiveRelease
from serving.api.ordering import Ordered
from serving.api.sources.candidates import Pool
from serving.api.visit import Visit


class Shown(NamedTuple):
    """One item of a page, as it is kept.

    Attributes:
        score: of the stage that ordered it; 0 for an item that explores.
        propensity: how likely its place was to show it, given the places before.
        policy: name, version and edition of the policy that explored with it; empty where the order placed it.
        context: what its outcome will teach with, see `serving.api.contexts`; empty where the order placed it.
    """

    item_id: str
    score: float
    source: str
    sources: Sequence[str]
    reason: str
    propensity: float
    policy: Mapping[str, str]
    context: Sequence[float] = ()


class Slate:
    """Lays out the pages of one request.

    Args:
        order: the candidates.
        explorer: mixes arms into the pages.
        request_id: of the first page; chance comes from it alone.
        most: items of all pages.
        before: catalogue rows on the pages before, in order; -1 for an item that has left the catalogue.
    """

    def __init__(
        self, order: Ordered, explorer: Explorer, request_id: str, most: int, before: Sequence[int] = ()
    ) -> None:
        self._order, self._explorer, self._request_id = order, explorer, request_id
        self._most, self._rows = most, list(before)

    @property
    def visit(self) -> Visit:
        return self._order.visit

    @property
    def ended(self) -> bool:
        """Whether there are no more pages."""
        left = ~(np.isin(self._order.pool.rows, self._rows) | self._order.hidden)
        return len(self._rows) >= self._most or not left.any()

    def page(self, watched: Collection[str] | None = None, dismissed: Sequence[Dismissal] | None = None) -> list[Shown]:
        """The next page, shorter than asked for if it is the last one. The trace says what the rules did.

        Args:
            watched: the arms that the shopper has watched; None: the visit says it.
            dismissed: what the shopper said no to by then; None: the visit says it.
        """
        if dismissed is not None:
            self._order = self._order.refusing(dismissed)
        visit = self.visit if watched is None else self.visit.watched(watched)
        order, made = self._order.page(self._rows)
        request = f"{self._request_id}/{len(self._rows) // visit.ask.count}"
        shown = self._taken(self._explorer.mixed(request, order.tolist(), self._order.pool, self._rows, visit))
        visit.trace.facts |= {
            "relaxed": dict(made.relaxed),
            "changed": {**self._order.changed, **made.changed},
            "explored": sum(1 for item in shown if item.policy),
        }
        return shown

    def page_with(
        self, explored: Mapping[int, Slot], others: Collection[int], dismissed: Sequence[Dismissal]
    ) -> list[Shown]:
        """The next page with these exploration slots.

        Args:
            explored: by their place on the page.
            others: catalogue rows in the exploration slots of other pages.
            dismissed: what the shopper said no to by then.
        """
        self._order = self._order.refusing(dismissed)
        order, _ = self._order.page(self._rows, without=others)
        return self._taken(explore.as_before(order.tolist(), self._order.pool, explored, self.visit.ask.count))

    def _taken(self, slots: Sequence[Slot]) -> list[Shown]:
        slots = slots[: max(self._most - len(self._rows), 0)]
        self._rows += [slot.row for slot in slots]
        live = self.visit.live
        placed = iter(_placed([slot for slot in slots if not slot.policy], self._order.pool, self.visit))
        return [_explored(slot, live, self.visit.at) if slot.policy else next(placed) for slot in slots]


def _placed(slots: Sequence[Slot], pool: Pool, visit: Visit) -> list[Shown]:
    """Those that the order placed. No reason names what the shopper refused, unless the page is about it."""
    live, unnamed = visit.live, visit.shopper.refused.difference(visit.ask.cart, [visit.ask.item_id])
    at = [slot.position for slot in slots]
    columns = pool.scores[at], pool.part[at], pool.place[at], live.catalogue.ids[pool.rows[at]]
    values = zip(slots, pool.tags(at), *(column.tolist() for column in columns), strict=True)
    return [
        Shown(
            item_id,
            round(score, 6),
            pool.parts[part].source,
            tags,
            reasons.of(pool.parts[part], place, slot.row, live, visit.at, unnamed),
            1.0,
            {},
        )
        for slot, tags, score, part, place, item_id in values
    ]


def _explored(slot: Slot, live: LiveRelease, at: float) -> Shown:
    item_id, reason = str(live.catalogue.ids[slot.row]), reasons.explored(slot.row, live, at)
    return Shown(item_id, 0.0, "explore", ["explore"], reason, slot.propensity, slot.policy, slot.context)
