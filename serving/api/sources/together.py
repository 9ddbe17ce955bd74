"""Together: what others bought or viewed with the items of the page, or with those that the shopper saw last."""

from collections.abc import Iterable

from feature_repo import online
from serving.api.contract import Rung
from serving.api.sources.candidates import Candidates, Tag, listed
from serving.api.visit import Visit

KINDS: dict[str, Tag] = {"bought": "bought_with", "viewed": "viewed_with"}
ANCHORS = 10  # items whose lists are read: a cart, or what a shopper has in mind


async def propose(visit: Visit, quota: int) -> Iterable[Candidates] | None:
    """The lists of one item before those of the next, bought before viewed."""
    anchors = (visit.anchors or _lately(visit))[:ANCHORS]
    keys = {online.covisit_key(kind, item): (tag, item) for item in anchors for kind, tag in KINDS.items()}
    lists = await visit.calls.lists(list(keys), visit.trace) if keys else {}
    if lists is None:
        return None
    # A generator: of twenty lists a page of forty needs the first or two.
    named = ((tag, lists[key], item) for key, (tag, item) in keys.items() if lists[key])
    return (listed(tag, Rung.COVISITATION, ranked, key=item) for tag, ranked, item in named)


def _lately(visit: Visit) -> tuple[str, ...]:
    newest = [deed.item_id for deed in reversed(visit.recent)]
    return tuple(dict.fromkeys([*newest, *visit.shopper.items]))
