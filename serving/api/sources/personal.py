"""Personal: the nearest items to the shopper's own vector."""

from serving.api.contract import Rung
from serving.api.sources.candidates import Candidates
from serving.api.visit import Visit


async def propose(visit: Visit, quota: int) -> list[Candidates] | None:
    """Nothing for a shopper without a history: their vector knows where they are, and popularity knows that better."""
    found = await visit.calls.retrieve(visit.retrieval(quota), visit.live, visit.trace)
    if found is None:
        return None
    if found.profile.history_size == 0:
        return []
    return [
        Candidates(
            "personal",
            Rung.RETRIEVAL,
            found.item_ids,
            found.scores,
            because=found.because,
            causes=found.causes,
            cause_events=found.cause_events,
            query=found.query,
            visitor=found.visitor,
        )
    ]
