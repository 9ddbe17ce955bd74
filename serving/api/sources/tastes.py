"""Tastes: what is popular in the categories that the shopper stated, or else was busy with."""

from collections import Counter

from feature_repo.dismissals import CATEGORY
from feature_repo.events import top_category
from serving.api.filters import above
from serving.api.sources import popular
from serving.api.sources.candidates import Candidates
from serving.api.visit import Visit

CATEGORIES = 5  # as many as a survey asks for and a page can show


async def propose(visit: Visit, quota: int) -> list[Candidates] | None:
    """The categories take turns, so that each has its share of a quota."""
    gone = {no.name for no in visit.shopper.dismissed if no.scope == CATEGORY and no.hides}
    stated = [name for name in visit.shopper.preferences if name in visit.live.known and gone.isdisjoint(above(name))]
    names = [name for name in stated or _favourites(visit) if gone.isdisjoint(above(name))][:CATEGORIES]
    if not names:
        return []
    each = -(-quota // len(names))
    keys = [("category", name) if " > " in name else ("top_category", name) for name in names]
    found = await popular.lists(visit, keys, "taste" if stated else "popular")
    return [candidates.first(each) for candidates in found]


def _favourites(visit: Visit) -> list[str]:
    """General categories that the shopper was busy with, the heaviest first."""
    if visit.shopper.profile.favourites:
        return list(visit.shopper.profile.favourites)
    live = visit.live
    liked = visit.shopper.watched - visit.shopper.refused
    rows = [row for item_id in liked if (row := live.catalogue.row_of.get(item_id)) is not None]
    counts = Counter(top_category(live.category(row)) for row in rows)
    return sorted(counts, key=lambda name: (-counts[name], name))
