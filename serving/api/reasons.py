"""Reasons: one true sentence per shown item, made from the source that proposed it.

A reason claims no more than its evidence. "Because you bought X" needs more than a past purchase of X: retrieval has
scored the candidate for the same shopper without X as well, and lower, and X is like the candidate. "You bought this
before" claims no cause, and needs the item itself in the history. Without evidence the reason is "Picked for you".

X may be of another general category. That two things are similar is for the reader to judge, who would judge by the
category; what caused what was tested, and a mug because of a kettle is as true as a mug because of a mug.
"""

from collections.abc import Set

from feature_repo.events import EventType
from serving.api.live import LiveRelease
from serving.api.sources.candidates import Candidates

NEUTRAL = "Picked for you"
DID = {
    EventType.PURCHASE: "bought {}",
    EventType.ADD_TO_CART: "put {} in your cart",
    EventType.COMPLETE: "watched {} to the end",
    EventType.LIKE: "liked {}",
    EventType.RATE: "rated {}",
    EventType.CLICK: "looked at {}",
    EventType.VIEW: "viewed {}",
}
LONGEST_TITLE = 60


def of(candidates: Candidates, place: int, row: int, live: LiveRelease, unnamed: Set[str] = frozenset()) -> str:
    """The reason for one item.

    Args:
        candidates: the source that proposed it.
        place: its position there.
        row: its row in the catalogue.
        live: the release, for titles and categories.
        unnamed: items that no reason may name, such as one that was returned.
    """
    match candidates.source:
        case "personal":
            return _personal(candidates, place, row, live, unnamed)
        case "similar" | "bought_with" | "viewed_with" if candidates.key in unnamed:
            return NEUTRAL
        case "similar":
            return f"Similar to {_title(candidates.key, live)}"
        case "bought_with":
            return f"Often bought with {_title(candidates.key, live)}"
        case "viewed_with":
            return f"Often viewed with {_title(candidates.key, live)}"
        case "popular":
            return _popular(candidates.scope, candidates.key)
        case "taste":
            return f"Because you like {leaf(candidates.key)}"
        case "again":
            return "From your history"
        case "new":
            return "New in the catalogue"
        case "catalogue" if candidates.key:
            return f"From {leaf(candidates.key)}"
        case "catalogue":
            return "From our catalogue"
        case _:
            return NEUTRAL


def explored(row: int, live: LiveRelease) -> str:
    """The reason for an item in an exploration slot."""
    return "New in the catalogue" if live.is_new[row] else "Exploring"


def leaf(path: str) -> str:
    """The most special part of a category path, as a shopper would name it."""
    return path.rsplit(" > ", 1)[-1]


def _personal(candidates: Candidates, place: int, row: int, live: LiveRelease, unnamed: Set[str]) -> str:
    if candidates.because is None:
        return NEUTRAL
    cause = candidates.because[place]
    item_id, did = candidates.causes[cause], DID.get(candidates.cause_events[cause])
    known = live.catalogue.row_of.get(item_id)
    if did is None or known is None or item_id in unnamed:
        return NEUTRAL
    if known == row:
        return f"You {did.format('this')} before"
    return f"Because you {did.format(_title(item_id, live))}"


def _popular(scope: str, key: str) -> str:
    match scope:
        case "global":
            return "Popular right now"
        case "region":
            return f"Popular in {key}"
        case "age_region":
            age, _, region = key.partition("|")
            return f"Popular with ages {age} in {region}"
        case "category" | "top_category":
            return f"Trending in {leaf(key)}"
        case _:
            return "Popular right now"


def _title(item_id: str, live: LiveRelease) -> str:
    row = live.catalogue.row_of.get(item_id)
    title = str(live.titles[row]) if row is not None else item_id
    return title if len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 1].rstrip()}…"
