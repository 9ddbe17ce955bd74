"""Which items of the catalogue a request, and what its shopper does not want, leave in play."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feature_repo.dismissals import BRAND, CATEGORY, ITEM, Dismissal
from serving.api.contract import Ask
from serving.api.live import LiveRelease

Bools = NDArray[np.bool_]
DISMISSED, UNSUBSCRIBED = "dismissed", "unsubscribed"  # the filters, as decisions and explanations name them
BLOCK = 1_000  # rows that `wanted` looks at together


def inside(ask: Ask, live: LiveRelease, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n] True for the items that meet the category, brand, prices and exclusions of a request.

    An item of unknown price meets no limit on prices. Where there are several currencies, neither does one of another
    than the limit's.
    """
    kept = np.ones(len(rows), bool)
    if ask.category:
        kept &= live.inside(ask.category)[live.categories[rows]]
    if ask.brand:
        kept &= live.brands[rows] == ask.brand
    if ask.min_price is not None:
        kept &= live.prices[rows] >= ask.min_price
    if ask.max_price is not None:
        kept &= live.prices[rows] <= ask.max_price
    if ask.currency and len(live.priced_in) > 1:
        kept &= live.currencies[rows] == ask.currency
    if ask.exclude:
        kept &= ~np.isin(rows, live.catalogue.rows(ask.exclude))
    return kept


def unwanted(dismissed: Sequence[Dismissal], live: LiveRelease, rows: NDArray[np.int64]) -> dict[str, Bools]:
    """By filter, [n] True for the items that the shopper said no to, by the item or by its category or brand; nothing
    where they said none that hides. A row of -1 is no item."""
    masks: dict[str, Bools] = {}
    if items := _hidden(dismissed, ITEM):
        gone, away = live.catalogue.rows(list(items)), np.zeros(len(live.catalogue), bool)
        away[gone[gone >= 0]] = True
        masks[DISMISSED] = away[rows] & (rows >= 0)
    categories, brands = _hidden(dismissed, CATEGORY), _hidden(dismissed, BRAND)
    if categories or brands:
        masks[UNSUBSCRIBED] = _in_category(categories, live, rows) | _of_brand(brands, live, rows)
    return masks


def hidden(dismissed: Sequence[Dismissal], live: LiveRelease, rows: NDArray[np.int64]) -> Bools:
    """[n] True for the items that any of `unwanted` takes."""
    gone = np.zeros(len(rows), bool)
    for mask in unwanted(dismissed, live, rows).values():
        gone |= mask
    return gone


def wanted(dismissed: Sequence[Dismissal], live: LiveRelease, rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The first rows that the shopper did not say no to, so that a source does not spend its quota on the others."""
    if not dismissed:
        return rows[:most]
    found = np.empty(0, np.int64)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        found = np.concatenate([found, block[~hidden(dismissed, live, block)]])
        if len(found) >= most:
            break
    return found[:most]


def hiding(dismissed: Sequence[Dismissal], live: LiveRelease, row: int) -> Dismissal | None:
    """The no that keeps an item away: the latest to itself, or else to its category or brand."""
    item_id, path, brand = str(live.catalogue.ids[row]), live.category(row), live.brands[row]
    names = {(ITEM, item_id), (BRAND, brand), *((CATEGORY, name) for name in above(path))}
    found = [no for no in dismissed if no.hides and (no.scope, no.name) in names]
    return max(found, key=lambda no: (no.scope == ITEM, no.time), default=None)


def unsubscribed(ask: Ask, dismissed: Sequence[Dismissal]) -> list[str]:
    """Sentences for the caller who asks for a category or brand that the shopper does not want to see."""
    asked = {(BRAND, ask.brand), *((CATEGORY, name) for name in above(ask.category))}
    names = [no.name for no in dismissed if no.hides and (no.scope, no.name) in asked]
    return [f"the shopper unsubscribed from {name}; an undo of it shows its items again" for name in names]


def above(path: str) -> list[str]:
    """A category and every more general one above it."""
    parts = path.split(" > ")
    return [" > ".join(parts[: depth + 1]) for depth in range(len(parts))]


def _hidden(dismissed: Sequence[Dismissal], scope: str) -> set[str]:
    return {no.name for no in dismissed if no.hides and no.scope == scope}


def _in_category(names: set[str], live: LiveRelease, rows: NDArray[np.int64]) -> Bools:
    gone, codes = np.zeros(len(rows), bool), live.categories[rows]
    for name in names:
        gone |= live.inside(name)[codes]
    return gone & (rows >= 0)


def _of_brand(names: set[str], live: LiveRelease, rows: NDArray[np.int64]) -> Bools:
    if not names:
        return np.zeros(len(rows), bool)
    gone = np.fromiter((brand in names for brand in live.brands[rows].tolist()), bool, len(rows))
    return gone & (rows >= 0)
