"""Newest: items that came into the catalogue lately."""

from serving.api import filters
from serving.api.contract import Rung
from serving.api.sources.candidates import Candidates, ordered
from serving.api.visit import Visit


async def propose(visit: Visit, quota: int) -> list[Candidates]:
    fresh = filters.wanted(visit.shopper.dismissed, visit.live, visit.live.newest, quota)
    return [ordered("new", Rung.TRENDING, visit.live.catalogue.ids[fresh])] if len(fresh) else []
