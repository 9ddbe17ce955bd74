"""A request with all that its sources need: who asks, for what, of which release; and what is kept of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.dismissals import Dismissal
from feature_repo.shoppers import Profile, Shopper
from recsys.inference import Deed, RankingRequest, RetrievalRequest
from serving.api.calls import Calls
from serving.api.contract import Ask
from serving.api.live import LiveRelease
from serving.api.surfaces import About, Surface
from serving.api.trace import Trace
from serving.api.trending import Trending


@dataclass(frozen=True, eq=False)
class Visit:
    """What the sources of one request read.

    Attributes:
        ask: as sent.
        surface: what it is for.
        shopper: who asks; a stranger's where the online store is away.
        recent: events of this moment, oldest first, the X-Last-Item header's view among them.
        live: the release that answers.
        at: the moment of the request, epoch seconds.
        calls, trending: the ways to other parts of the platform.
        trace: what happens on the way.
    """

    ask: Ask
    surface: Surface
    shopper: Shopper
    recent: tuple[Deed, ...]
    live: LiveRelease
    at: float
    calls: Calls
    trending: Trending
    trace: Trace

    def watched(self, items: Collection[str]) -> "Visit":
        """The same of a shopper who has watched these, and no others that matter."""
        return replace(self, shopper=replace(self.shopper, watched=frozenset(items)))

    def refusing(self, dismissed: Sequence[Dismissal]) -> "Visit":
        """The same of a shopper who said no to these."""
        return replace(self, shopper=replace(self.shopper, dismissed=tuple(dismissed)))

    @property
    def region(self) -> str:
        """Of the request, or else of the profile."""
        return self.ask.region or self.shopper.profile.region

    def retrieval(self, k: int, query_item: str = "") -> RetrievalRequest:
        """The request for candidates, personal or near an item."""
        return RetrievalRequest(
            user_id=self.ask.user_id,
            session_id=self.ask.session_id,
            query_item=query_item,
            recent=self.recent,
            preferences=self.shopper.stated,
            region=self.ask.region,
            k=k,
        )

    def ranking(
        self, item_ids: Sequence[str] | NDArray[np.object_], scores: NDArray[np.float32], visitor: str
    ) -> RankingRequest:
        """The request for the scores of candidates; of this moment it says only what `visitor` does not.

        Args:
            item_ids: [n] candidates.
            scores: [n] of retrieval; NaN where it gave none.
            visitor: who asks, as retrieval knew them; "" where it was not asked.
        """
        return RankingRequest(
            item_ids,
            scores,
            user_id=self.ask.user_id,
            session_id=self.ask.session_id,
            region=self.region,
            surface=self.ask.surface,
            recent=() if visitor else self.recent,
            preferences=() if visitor else self.shopper.stated,
            blend=self.surface.objectives,
            visitor=visitor,
        )

    def snapshot(self) -> "Snapshot":
        """What the same request can be made of again."""
        return Snapshot(
            self.trace.request_id,
            self.at,
            self.ask.model_dump(exclude_defaults=True, exclude={"cursor"}),
            self.surface.model_dump(mode="json", exclude_defaults=True),
            {met.experiment: met.variant for met in self.trace.exposures if not met.missed},
            vars(self.shopper.profile),
            self.shopper.stated,
            [deed.encode() for deed in self.recent],
            len(self.shopper.recent),
            self.shopper.dismissed,
        )

    @property
    def last_item(self) -> str:
        """The item that the shopper was busy with last; "" if none is known."""
        if self.recent:
            return self.recent[-1].item_id
        return next(iter(self.shopper.items), "")

    @property
    def seen(self) -> frozenset[str]:
        """Items that may not come again: what the shopper knows, where the surface minds and the shop's people do not
        buy the same item again."""
        if not self.surface.seen or self.live.allow_repeats:
            return frozenset()
        return self.shopper.watched.union(self.shopper.items, (deed.item_id for deed in self.recent))

    @property
    def anchors(self) -> tuple[str, ...]:
        """The items that the page is about, the most important first; those of the catalogue only."""
        match self.surface.about:
            case About.ITEM:
                found: tuple[str, ...] = (self.ask.item_id,)
            case About.LAST_ITEM:
                found = (self.last_item,)
            case About.CART:
                found = tuple(self.ask.cart) or self.shopper.cart
            case _:
                found = ()
        return tuple(item for item in found if item in self.live.catalogue.row_of)


@dataclass(frozen=True)
class Snapshot:
    """A visit in values that JSON holds, without its candidates, what the shopper watched, and the ways to other parts.

    Attributes:
        request_id, at, ask: of the visit; parameters that were left out are left out here.
        surface: as it was then, variants included.
        variants: by experiment, those that made the page.
        profile, stated: of the shopper.
        recent: events of this moment; the first `arrived` of them are the shopper's, the others the request's own.
        dismissed: what the shopper had said no to when the first page was made.
    """

    request_id: str
    at: float
    ask: Mapping[str, Any]
    surface: Mapping[str, Any]
    variants: Mapping[str, str]
    profile: Mapping[str, Any]
    stated: Sequence[str]
    recent: Sequence[str]
    arrived: int
    dismissed: Sequence[Dismissal] = ()

    @staticmethod
    def read(raw: Mapping[str, Any]) -> "Snapshot":
        """From JSON. Raises TypeError or ValueError for what another version wrote."""
        found = Snapshot(**{**raw, "dismissed": tuple(Dismissal(*no) for no in raw.get("dismissed", ()))})
        Ask(**found.ask), Surface(**found.surface)
        return found

    def visit(self, surface: Surface, live: LiveRelease, calls: Calls, trending: Trending) -> Visit:
        """The request once more, on a surface as it is now or was then."""
        recent = tuple(map(Deed.decode, self.recent))
        profile: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in self.profile.items()}
        shopper = Shopper(
            Profile(**profile), tuple(self.stated), recent[: self.arrived], dismissed=tuple(self.dismissed)
        )
        return Visit(Ask(**self.ask), surface, shopper, recent, live, self.at, calls, trending, Trace(self.request_id))
