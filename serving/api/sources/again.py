"""Again: what the shopper had before, in a shop where people buy the same item again."""

import numpy as np

from recsys.inference import strings
from serving.api.contract import Rung
from serving.api.sources.candidates import Candidates, ordered
from serving.api.visit import Visit


async def propose(visit: Visit, quota: int) -> list[Candidates]:
    """Newest first; nothing where the data show that repeats do not pay."""
    known: np.ndarray = strings(visit.shopper.items) if visit.live.allow_repeats else strings([])
    return [ordered("again", Rung.HISTORY, known)] if len(known) else []
