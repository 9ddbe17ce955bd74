"""Which values a row may hold: one declaration, from which the API and the quality gate both derive their checks.

What the gate would put aside the API refuses, so that nothing is acknowledged, served for a night, and gone after it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from feature_repo.events import ITEM_OPTIONAL, EventType

# An id: some characters, none of them a control character, no space around them. As regular expressions of Python, of
# pydantic and JSON Schema, and of Spark; Spark's \\s knows fewer spaces, so the gate takes what the API takes.
_SHAPE = r"[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?"
ID, ID_OR_NONE = f"^{_SHAPE}$", f"^({_SHAPE})?$"
ID_LENGTH = 200
IDS = ("event_id", "user_id", "session_id", "item_id", "request_id")
ID_SAYS = f"an id has 1 to {ID_LENGTH} characters, no control characters, and no space around it"
# What exports write for a visitor who was not logged in, in lower case. Any of them may be a real user all the same.
STANDS_FOR_NOBODY = (
    *("0", "-1", "null", "none", "nil", "nan", "n/a", "na", "#n/a", "(not set)", "not set", "undefined", "unknown"),
    *("anonymous", "guest", "00000000-0000-0000-0000-000000000000"),
)
_ID = re.compile(ID)
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which UTF-8 cannot hold

OLDEST = date(1990, 1, 1)  # no web shop existed; catches epoch 0 and two-digit years
MAX_QUANTITY = 100_000  # the largest honest order line of UCI Online Retail has 80,995 pieces
MAX_SECONDS = 7 * 24 * 3600  # a session that lasts a week is a clock that jumped
MAX_POSITION = 100_000  # no page is as long

# The highest price in a currency of which one unit is worth about as much as a euro; what is above is a number that
# slipped.
MAX_PRICE = 1e7
# How many units are worth about a euro, by the power of ten, for currencies of small units.
SMALL_UNITS: dict[str, float] = {
    **dict.fromkeys(("CZK", "INR", "MXN", "PHP", "RUB", "THB", "TRY", "TWD", "UAH", "UYU", "ZAR"), 1e1),
    **dict.fromkeys(("BDT", "DZD", "EGP", "HUF", "ISK", "JPY", "KES", "KZT", "LKR", "NPR", "PKR", "RSD"), 1e2),
    **dict.fromkeys(("AMD", "ARS", "CLP", "CRC", "IQD", "KRW", "MNT", "NGN", "XAF", "XOF", "YER"), 1e3),
    **dict.fromkeys(("COP", "KHR", "MMK", "PYG", "RWF", "TZS", "UGX", "UZS", "MGA", "BIF", "GNF"), 1e4),
    **dict.fromkeys(("IDR", "LAK", "SLL", "VND"), 1e5),
    **dict.fromkeys(("IRR", "LBP"), 1e6),
}
MAX_VALUE = MAX_PRICE * max(SMALL_UNITS.values())  # of an event, which names no currency


def max_price(currency: str | None) -> float:
    """The highest price of an item; ISO 4217, empty for a shop that names none."""
    return MAX_PRICE * SMALL_UNITS.get(currency or "", 1.0)


@dataclass(frozen=True)
class Bounds:
    """The numbers that a column may hold, both ends included."""

    low: float
    high: float


EVENT_BOUNDS: dict[str, Bounds] = {
    "value": Bounds(0, MAX_VALUE),
    "quantity": Bounds(1, MAX_QUANTITY),
    "duration_sec": Bounds(0, MAX_SECONDS),
    "position": Bounds(0, MAX_POSITION),
}


def is_id(text: str) -> bool:
    """Whether a text may be the id of a user, session, item, event or request."""
    return len(text) <= ID_LENGTH and _ID.fullmatch(text) is not None and not _SURROGATE.search(text)


def missing(event: Mapping[str, Any]) -> tuple[str, str] | None:
    """The column that an event of its type must fill and does not, and what it is for; None where all is there.

    `unnamed` is the same rule for Spark.
    """
    kind = event["event"]
    if kind == EventType.SEARCH:
        return None if _filled(event, "query") else ("query", "a search says what was asked for")
    if _filled(event, "item_id") or (kind in ITEM_OPTIONAL and (_filled(event, "category") or _filled(event, "brand"))):
        return None
    if kind in ITEM_OPTIONAL:
        return "item_id", f"{kind} is about an item, or else names a category or a brand"
    return "item_id", f"{kind} is about an item; only {', '.join(ITEM_OPTIONAL)} need none"


def unnamed() -> str:
    """SQL: an event without item is about nothing."""
    blank = {name: f"coalesce(trim({name}), '') = ''" for name in ("item_id", "query", "category", "brand")}
    others = ", ".join(f"'{kind}'" for kind in ITEM_OPTIONAL if kind != EventType.SEARCH)
    return (
        f"event = '{EventType.SEARCH}' AND {blank['query']}"
        f" OR event IN ({others}) AND {blank['item_id']} AND {blank['category']} AND {blank['brand']}"
    )


def _filled(event: Mapping[str, Any], name: str) -> bool:
    return bool((event.get(name) or "").strip())
