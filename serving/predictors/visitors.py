"""Who is asking: a visitor's features from the feature store, in one read, or a stranger's where it is away.

Both predictors read through here, so that retrieval and ranking see the same history for the same request.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feast.types import Array

from feature_repo import store
from recsys.errors import Retryable

HISTORY = ("history_items", "history_events", "history_times")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Visitor:
    """What is known about one visitor at the moment of a request.

    Attributes:
        values: features by name, as Feast returns them, with the history of this moment.
        known: the feature store holds the user or the session.
        degraded: the feature store did not answer; `values` are a stranger's.
    """

    values: Mapping[str, Any]
    known: bool
    degraded: bool

    @property
    def items(self) -> list[str]:
        """Item ids of the history, oldest first."""
        return list(self.values["history_items"])

    @property
    def events(self) -> list[str]:
        return list(self.values["history_events"])

    @property
    def times(self) -> list[int]:
        """Epoch seconds of each event, all before the moment of the request."""
        return list(self.values["history_times"])

    def text(self, name: str) -> str:
        """A string feature, "" where unknown."""
        return self.values.get(name) or ""


class Reader:
    """Reads visitors for one feature service; thread-safe.

    Args:
        features: the feature store, from `store.connect`.
        service: name of the feature service of users.
    """

    def __init__(self, features: Any, service: str) -> None:
        self._features, self._service = features, service
        projections = features.get_feature_service(service).feature_view_projections
        fields = [field for projection in projections for field in projection.features]
        # A stranger has the same names as a user.
        self._stranger: dict[str, Any] = {f.name: [] if isinstance(f.dtype, Array) else None for f in fields}

    def read(self, user_id: str, session_id: str, last_item: str, now: float) -> Visitor:
        """One visitor at `now`, epoch seconds.

        A user without history, and an anonymous visitor, is known by the session. `last_item` counts as a view at
        this moment, which the stream may not have brought to the store yet.
        """
        values, degraded = dict(self._stranger), False
        try:
            if user_id:
                values |= store.online_user(self._features, user_id, self._service)
            if session_id and not values["history_items"]:
                values |= store.online_session(self._features, session_id)
        except Retryable as error:
            log.warning("serving a stranger: %s", error)
            values, degraded = dict(self._stranger), True
        known = not degraded and any(value not in (None, []) for value in values.values())
        return Visitor(values | _history(values, last_item, now), known, degraded)


def _history(values: Mapping[str, Any], last_item: str, now: float) -> dict[str, list[Any]]:
    """The history as of now, oldest first.

    The store holds only what has happened, but "now" stands still a day after the data of the release end
    (`transforms.request_time`). Events of the wall clock's later days are moved to the last second, in their
    order, so that they count as what they are: the newest.
    """
    items, events, times = (list(values[name]) for name in HISTORY)
    if last_item:
        items, events, times = [*items, last_item], [*events, "view"], [*times, int(now)]
    latest = int(now) - 1
    return {"history_items": items, "history_events": events, "history_times": [min(t, latest) for t in times]}
