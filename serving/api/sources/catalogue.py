"""Catalogue: its items by popularity; the last source, so that no page is short while there are items."""

from serving.api import filters
from serving.api.contract import Rung
from serving.api.sources.candidates import Candidates, ordered
from serving.api.visit import Visit


async def propose(visit: Visit, quota: int) -> list[Candidates]:
    """Of the category that the page is about, if it is about one, of what the filters of the request leave, and of what
    the shopper did not dismiss."""
    live, category = visit.live, visit.ask.category
    if not category and visit.anchors:
        category = live.category(live.catalogue.row_of[visit.anchors[0]])
    rows = live.below(category) if category else live.by_popularity
    rows = rows[filters.inside(visit.ask, live, rows)]
    rows = filters.wanted(visit.shopper.dismissed, live, rows, quota)
    return [ordered("catalogue", Rung.STATIC, live.catalogue.ids[rows], category)]
