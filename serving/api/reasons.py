"""Reasons: one true sentence per shown item, made from the source that proposed it.

A reason claims no more than its evidence. "Because you bought X" needs more than a past purchase of X: retrieval has
scored the candidate for the same shopper without X as well, and lower, and X is like the candidate. "You bought this
before" claims no cause, and needs the item itself in the history. Without evidence the reason is "Picked for you".

X may be of another general category. That two things are similar is for the reader to judge, who would judge by the
category; what caused what was tested, and a mug because of a kettle is as true as a mug because of a mug.

What is new, and what is so now, is judged by the clock of the shopper who reads it, not by that of the data, which the
choice of the items goes by (docs/decisions/0005): a release may be months old.
"""

from collections.abc import Set

from feature_repo.events import EventType
from feature_repo.transforms import SECONDS_PER_DAY
from serving.api.live import NEW_DAYS, LiveRelease
from serving.api.sources.candidates import Candidates

NEUTRAL = "Picked for you"
NEW = "New in the catalogue"
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
NOW_DAYS = 7.0  # a list says what is so now until its events count half


def of(
    candidates: Candidates, place: int, row: int, live: LiveRelease, at: float, unnamed: Set[str] = frozenset()
) -> str:
    """The reason for one item.

    Args:
        candidates: the source that proposed it.
        place: its position there.
        row: its row in the catalogue.
        live: the release, for titles and categories.
        at: the moment of the request, epoch seconds.
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
            return _popular(candidates.scope, candidates.key, now=at - live.as_of < NOW_DAYS * SECONDS_PER_DAY)
        case "taste":
            return f"Because you like {leaf(candidates.key)}"
        case "again":
            return "From your history"
        case "new":
            return NEW if _is_new(row, live, at) else "Among the latest in the catalogue"
        case "catalogue" if candidates.key:
            return f"From {leaf(candidates.key)}"
        case "catalogue":
            return "From our catalogue"
        case _:
            return NEUTRAL


def explored(row: int, live: LiveRelease, at: float) -> str:
    """The reason for an item in an exploration slot."""
    return NEW if _is_new(row, live, at) else "Exploring"


def _is_new(row: int, live: LiveRelease, at: float) -> bool:
    """Whether an item is new to who asks at a moment; one of unknown age is not."""
    return bool(at - live.created[row] < NEW_DAYS * SECONDS_PER_DAY)


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


def _popular(scope: str, key: str, *, now: bool) -> str:
    match scope:
        case "region":
            return f"Popular in {key}"
        case "age_region":
            age, _, region = key.partition("|")
            return f"Popular with ages {age} in {region}"
        case "category" | "top_category":
            return f"{'Trending' if now else 'Popular'} in {leaf(key)}"
        case _:
            return "Popular right now" if now else "Popular overall"


def _title(item_id: str, live: LiveRelease) -> str:
    row = live.catalogue.row_of.get(item_id)
    title = str(live.titles[row]) if row is not None else item_id
    return title if len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 1].rstrip()}…"
