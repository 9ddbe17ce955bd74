"""Related: the nearest items to the item that the page is about."""

from serving.api.contract import Rung
from serving.api.sources.candidates import Candidates
from serving.api.visit import Visit


async def propose(visit: Visit, quota: int) -> list[Candidates] | None:
    """For a cart, items near the one that was put there last."""
    if not visit.anchors:
        return []
    key = visit.anchors[0]
    found = await visit.calls.retrieve(visit.retrieval(quota, key), visit.live, visit.trace)
    if found is None:
        return None
    return [
        Candidates(
            "similar",
            Rung.RETRIEVAL,
            found.item_ids,
            found.scores,
            key=key,
            query=found.query,
            visitor=found.visitor,
        )
    ]
