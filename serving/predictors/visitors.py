"""Who is asking, and when: a visitor's features from the feature store, in one read, or a stranger's where it is away.

Retrieval reads, and hands on what it knew (`Visitor.to_json`): ranking sees the same history at the same moment, and
reads itself only where nothing is handed to it. A feature that was not handed on, because the other predictor was
started with older definitions, is unknown, as a stranger's is: no page shall fall for it.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

import orjson
from feast.types import Array

from feature_repo import names, store, transforms
from models.release import Release
from recsys.errors import Retryable
from recsys.inference import Deed, RankingRequest, Refused, RetrievalRequest
from serving.predictors import stages

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Visitor:
    """What is known about one visitor at the moment of a request.

    Attributes:
        values: features by name, as Feast returns them, with the history of this moment.
        known: the feature store holds the user or the session.
        degraded: the feature store did not answer; `values` are a stranger's.
        now: the moment of the request, epoch seconds, as `transforms.request_time` gives it.
    """

    values: Mapping[str, Any]
    known: bool
    degraded: bool
    now: float

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

    def to_json(self) -> str:
        """All of it, for the predictor that is asked next."""
        return orjson.dumps(self).decode()

    @staticmethod
    def from_json(text: str) -> "Visitor":
        """What `to_json` wrote. Raises Refused for anything else."""
        try:
            raw = orjson.loads(text)
            return Visitor({**raw["values"]}, raw["known"], raw["degraded"], raw["now"])
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"visitor is not what retrieval answered with: {error!r}") from None


class Reader:
    """Reads visitors for one release; thread-safe.

    Args:
        features: the feature store, from `store.connect`.
        service: name of the feature service of users.
        as_of: epoch seconds up to which the data of the release reach.
        clock: epoch seconds now.
    """

    def __init__(self, features: Any, service: str, as_of: float, clock: Callable[[], float] = time.time) -> None:
        self._features, self._service = features, service
        self._as_of, self._clock = as_of, clock
        projections = features.get_feature_service(service).feature_view_projections
        fields = [field for projection in projections for field in projection.features]
        # A stranger has the same names as a user.
        self._stranger: dict[str, Any] = {f.name: [] if isinstance(f.dtype, Array) else None for f in fields}
        self._away = False  # as far as the last read tells

    @classmethod
    def of(cls, release: Release, features: Any) -> Self:
        return cls(features, release.feature_service, datetime.fromisoformat(release.as_of).timestamp())

    def read(self, request: RetrievalRequest | RankingRequest, watch: stages.Watch) -> Visitor:
        """Who asks, at this moment; timed as the stage `features`, and counted where the store does not answer.

        Raises:
            Refused: `visitor` is not what retrieval answered with.
        """
        if isinstance(request, RankingRequest) and request.visitor:
            return self._handed(request)
        now = transforms.request_time(self._clock(), self._as_of)
        with watch.stage("features"):
            visitor = self._at(now, request)
        if visitor.degraded:
            stages.DEGRADED.labels(request.model).inc()
        return visitor

    def _handed(self, request: RankingRequest) -> Visitor:
        visitor = Visitor.from_json(request.visitor)
        missing = sorted(self._stranger.keys() - visitor.values.keys())
        if missing:
            log.warning("scoring without what retrieval did not hand on: %s", ", ".join(missing))
            stages.DEGRADED.labels(request.model).inc()
        return replace(visitor, values=self._stranger | dict(visitor.values))

    def _at(self, now: float, request: RetrievalRequest | RankingRequest) -> Visitor:
        """One visitor at `now`, epoch seconds.

        A user without history, and an anonymous visitor, is known by the session. What the request says of this
        moment comes on top of what the store knows, or is all there is where the store is away.
        """
        values, problem = dict(self._stranger), None
        try:
            if request.user_id:
                values |= store.online_user(self._features, request.user_id, self._service)
            if request.session_id and not values["history_items"]:
                values |= store.online_session(self._features, request.session_id)
        except Retryable as error:
            values, problem = dict(self._stranger), error
        if request.user_id or request.session_id:
            self._noted(problem)
        known = problem is None and any(value not in (None, []) for value in values.values())
        stated = {"preferences": list(request.preferences)} if request.preferences else {}
        told = values | _history(values, request.recent, now) | stated
        return Visitor(told, known, problem is not None, now)

    def _noted(self, problem: Retryable | None) -> None:
        """Log the first and the last moment of an outage; a line for each request would be all that a log shows."""
        if problem is not None and not self._away:
            log.warning("everybody is served as a stranger until further notice: %s", problem)
        if problem is None and self._away:
            log.info("the feature store answers again")
        self._away = problem is not None


def _history(values: Mapping[str, Any], recent: Sequence[Deed], now: float) -> dict[str, list[Any]]:
    """The history as of now with what was done this moment, oldest first, as long as training knows them.

    The store holds only what has happened, but "now" stands still a day after the data of the release end
    (`transforms.request_time`). Events of the wall clock's later days are moved to the last second, in their
    order, so that they count as what they are: the newest.
    """
    columns: Any = (values[name] for name in ("history_times", "history_events", "history_items"))
    held = [Deed(*deed) for deed in zip(*columns, strict=True)]
    known = set(held)
    held += [deed for deed in recent if deed not in known]
    latest = int(now) - 1
    held = held[-names.HISTORY_LENGTH :]
    return {
        "history_items": [deed.item_id for deed in held],
        "history_events": [deed.event for deed in held],
        "history_times": [min(deed.time, latest) for deed in held],
    }
