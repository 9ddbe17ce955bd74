"""Candidate sources: each a coroutine in a module of its own that turns a visit into what it proposes.

A source answers with its lists, best first; none where it has nothing to propose for this visit; and None where the
part of the platform that it needs did not serve in time. It is then left out and named, never waited for.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import chain
from typing import Any

from serving.api.sources import again, catalogue, category, feed, newest, personal, popular, related, tastes, together
from serving.api.sources.candidates import Candidates
from serving.api.surfaces import SourceName
from serving.api.visit import Visit

Source = Callable[[Visit, int], Coroutine[Any, Any, Iterable[Candidates] | None]]

SOURCES: Mapping[SourceName, Source] = {
    SourceName.PERSONAL: personal.propose,
    SourceName.RELATED: related.propose,
    SourceName.TOGETHER: together.propose,
    SourceName.FEED: feed.propose,
    SourceName.AGAIN: again.propose,
    SourceName.TASTES: tastes.propose,
    SourceName.POPULAR: popular.propose,
    SourceName.CATEGORY: category.propose,
    SourceName.NEWEST: newest.propose,
    SourceName.CATALOGUE: catalogue.propose,
}


async def gather(wanted: Mapping[SourceName, int], visit: Visit) -> list[Candidates]:
    """What the sources propose, in their order; all are asked at once, and the slowest deadline bounds the wait.

    Args:
        wanted: sources and the most candidates that each may give.
        visit: the request; the trace names the sources that did not serve.
    """
    answers = await asyncio.gather(*(SOURCES[name](visit, quota) for name, quota in wanted.items()))
    visit.trace.missing.update(
        (name.value, None) for name, answer in zip(wanted, answers, strict=True) if answer is None
    )
    given = zip(wanted.values(), answers, strict=True)
    return list(chain.from_iterable(_within(quota, answer or ()) for quota, answer in given))


def _within(quota: int, lists: Iterable[Candidates]) -> list[Candidates]:
    """The lists of one source, cut where the quota ends."""
    kept = []
    for found in lists:
        if quota <= 0:
            break
        kept.append(found.first(quota))
        quota -= len(found.item_ids)
    return kept
