"""Category: what is popular now in the category that the page, or its item, is of."""

from feature_repo.events import top_category
from serving.api import trending
from serving.api.sources import popular
from serving.api.sources.candidates import Candidates
from serving.api.visit import Visit


async def propose(visit: Visit, quota: int) -> list[Candidates]:
    """The category's own list; for an item, also that of its most general category."""
    if visit.anchors:
        path = visit.live.category(visit.live.catalogue.row_of[visit.anchors[0]])
        keys = [*trending.of_category(path), ("top_category", top_category(path))]
        return await popular.lists(visit, list(dict.fromkeys(keys)))
    if visit.ask.category:
        return await popular.lists(visit, trending.of_category(visit.ask.category))
    return []
