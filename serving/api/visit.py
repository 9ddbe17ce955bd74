"""A request with all that its sources need: who asks, for what, of which release."""

from dataclasses import dataclass

from feature_repo.shoppers import Shopper
from recsys.inference import Deed, RetrievalRequest
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
        calls, trending: the ways to other parts of the platform.
        trace: what happens on the way.
    """

    ask: Ask
    surface: Surface
    shopper: Shopper
    recent: tuple[Deed, ...]
    live: LiveRelease
    calls: Calls
    trending: Trending
    trace: Trace

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

    @property
    def last_item(self) -> str:
        """The item that the shopper was busy with last; "" if none is known."""
        if self.recent:
            return self.recent[-1].item_id
        return self.shopper.profile.items[-1] if self.shopper.profile.items else ""

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
