"""Requests to try a release with: recent ones from the decision log, else visitors of the lake."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.dataset

from models.catalogue import Catalogue
from pipelines import datasets
from recsys import bus
from recsys.inference import Deed, RetrievalRequest
from recsys.settings import Settings

DECISIONS = "decisions"  # the topic to which the API logs its responses
_POOL = 10_000  # visitors read from the lake to draw from


@dataclass(frozen=True)
class Request:
    """One recommendation as the API would ask the predictors for it."""

    retrieval: RetrievalRequest
    surface: str = "home"


def recent(settings: Settings, count: int, k: int) -> list[Request]:
    """The last requests that the API answered, newest first, at most `count`; empty if it has answered none."""
    found: list[Request] = []
    for segment in reversed(bus.closed(Path(settings.storage.root), DECISIONS)):
        found.extend(reversed([_replayed(line, k) for line in bus.read(segment) if "ask" in line]))
        if len(found) >= count:
            break
    return found[:count]


def sampled(settings: Settings, catalogue: Catalogue, day: date, count: int, k: int) -> list[Request]:
    """Requests of visitors drawn from the lake: three in four personal, one in four for similar items."""
    draw = random.Random(f"{settings.seed}-{day}")
    visitors = known_users(settings, day) or [""]
    items = catalogue.ids
    return [
        Request(RetrievalRequest(query_item=str(draw.choice(items)), k=k), "similar")
        if place % 4 == 3
        else Request(RetrievalRequest(user_id=draw.choice(visitors), k=k))
        for place in range(count)
    ]


def known_users(settings: Settings, day: date) -> list[str]:
    """Users with a history in the lake, some thousands at most; empty where the day has no sequences."""
    folder = datasets.lake(settings).path(datasets.SEQUENCES, day)
    if not folder.exists():
        return []
    rows = pyarrow.dataset.dataset(folder, format="parquet")
    found = rows.head(_POOL, columns=["visitor_id"], filter=pyarrow.dataset.field("is_user"))
    return sorted(str(user) for user in found.column("visitor_id").to_pylist())


def _replayed(line: Mapping[str, Any], k: int) -> Request:
    """A request of the log with what the shopper had done at that moment."""
    ask, facts = line["ask"], line.get("facts", {})
    request = RetrievalRequest(
        user_id=ask.get("user_id", ""),
        session_id=ask.get("session_id", ""),
        query_item=ask.get("item_id", ""),
        recent=tuple(map(Deed.decode, facts.get("recent", ()))),
        preferences=tuple(facts.get("stated", ())),
        region=ask.get("region", ""),
        k=k,
    )
    return Request(request, ask.get("surface", "home"))
