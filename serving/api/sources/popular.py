"""Popular: what is popular now with the shopper's age group and region, in the region, and everywhere."""

from collections.abc import Sequence

from serving.api import trending
from serving.api.contract import Rung
from serving.api.sources.candidates import Candidates, Tag, listed
from serving.api.visit import Visit


async def propose(visit: Visit, quota: int) -> list[Candidates]:
    return await lists(visit, trending.of_visitor(visit.region, visit.shopper.profile.age_group))


async def lists(visit: Visit, keys: Sequence[trending.Key], tag: Tag = "popular") -> list[Candidates]:
    """Trending lists by scope and key, those of the online store or else those that the release was shipped with."""
    found, static = await visit.trending.lists(keys, visit.live, lambda names: visit.calls.lists(names, visit.trace))
    rung = Rung.STATIC if static else Rung.TRENDING
    return [listed(tag, rung, ranked, *key) for key, ranked in found]
