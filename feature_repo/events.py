"""THE schema of events, items and users. Arrow, Spark (DDL) and JSON schemas are all derived from it.

Light on purpose: `feast apply` imports every module of this folder.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import pyarrow as pa

from recsys.errors import Permanent
from recsys.settings import CustomEvent

Type = Literal["string", "double", "long", "int", "boolean", "timestamp", "array<string>"]

ARROW: dict[Type, pa.DataType] = {
    "string": pa.string(),
    "double": pa.float64(),
    "long": pa.int64(),
    "int": pa.int32(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "array<string>": pa.list_(pa.string()),
}
JSON: dict[Type, dict[str, Any]] = {
    "string": {"type": "string"},
    "double": {"type": "number"},
    "long": {"type": "integer"},
    "int": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "timestamp": {"type": "string", "format": "date-time"},
    "array<string>": {"type": "array", "items": {"type": "string"}},
}


class EventType(StrEnum):
    """What a user did. New types go to the end: a model knows a type by its place."""

    IMPRESSION = "impression"
    CLICK = "click"
    VIEW = "view"
    ADD_TO_CART = "add_to_cart"
    PURCHASE = "purchase"
    COMPLETE = "complete"
    LIKE = "like"
    SKIP = "skip"
    RATE = "rate"
    REMOVE_FROM_CART = "remove_from_cart"
    ADD_TO_WISHLIST = "add_to_wishlist"
    BEGIN_CHECKOUT = "begin_checkout"
    SHARE = "share"
    SEARCH = "search"
    DISLIKE = "dislike"
    RETURN = "return"
    REFUND = "refund"
    UNSUBSCRIBE = "unsubscribe"
    UNDO = "undo"


# How much one event says in favour of an item. Purchase and completion count for more than a click, so that a model
# cannot win by clickbait; an impression or a search alone says nothing of an item.
_YES: dict[str, float] = {
    EventType.PURCHASE: 4.0,
    EventType.ADD_TO_CART: 3.0,
    EventType.BEGIN_CHECKOUT: 3.0,
    EventType.COMPLETE: 3.0,
    EventType.LIKE: 3.0,
    EventType.ADD_TO_WISHLIST: 2.0,
    EventType.SHARE: 2.0,
    EventType.RATE: 2.0,
    EventType.CLICK: 1.0,
    EventType.VIEW: 1.0,
}
# How much one event says against an item, on the same scale. A return takes back what its purchase said, a removal from
# the cart what putting it there said; `undo` takes back every earlier no of the same user to the same item, category or
# brand.
_NO: dict[str, float] = {
    EventType.DISLIKE: 4.0,
    EventType.RETURN: 4.0,
    EventType.REFUND: 4.0,
    EventType.UNSUBSCRIBE: 4.0,
    EventType.REMOVE_FROM_CART: 3.0,
    EventType.SKIP: 1.0,
}


class Names(Sequence[str]):
    """Names of event types, as `configure` last left them: who keeps the object sees a shop's own types, too."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(str(name) for name in names)

    def __getitem__(self, place: Any) -> Any:
        return self.names[place]

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __repr__(self) -> str:
        return repr(self.names)


# What the process knows. `configure` changes their content, and nothing else does.
EVENT_TYPES = Names(EventType)
SIGNAL_WEIGHT: dict[str, float] = dict.fromkeys(EVENT_TYPES, 0.0) | _YES
POSITIVE = Names(_YES)
DISLIKE_WEIGHT: dict[str, float] = dict(_NO)
NEGATIVE = Names(_NO)


def configure(custom: Mapping[str, CustomEvent]) -> None:
    """Add a shop's own event types; once in a process, at its edge, before anything is derived from the types.

    Their place is behind the built-in ones, for a model knows a type by its place, and in order of their names.

    Raises:
        Permanent: a name is that of a built-in type.
    """
    if taken := sorted(set(custom) & set(EventType)):
        raise Permanent(f"events.custom: {taken[0]!r} is built in and keeps its meaning; choose another name")
    chosen = dict(sorted(custom.items()))
    yes = {name: event.weight for name, event in chosen.items() if event.polarity == "positive"}
    no = {name: event.weight for name, event in chosen.items() if event.polarity == "negative"}
    EVENT_TYPES.names = (*(str(kind) for kind in EventType), *chosen)
    for weights, content in ((SIGNAL_WEIGHT, dict.fromkeys(EVENT_TYPES, 0.0) | _YES | yes), (DISLIKE_WEIGHT, _NO | no)):
        weights.clear()
        weights.update(content)
    POSITIVE.names = tuple(str(kind) for kind, weight in SIGNAL_WEIGHT.items() if weight > 0)
    NEGATIVE.names = tuple(str(kind) for kind in DISLIKE_WEIGHT)


def custom() -> dict[str, float]:
    """The types that `configure` added, with their weights; those against an item are below 0."""
    return {kind: SIGNAL_WEIGHT[kind] or -DISLIKE_WEIGHT[kind] for kind in EVENT_TYPES[len(EventType) :]}


def yes() -> dict[str, float]:
    """What the types weigh that speak for an item."""
    return {kind: SIGNAL_WEIGHT[kind] for kind in POSITIVE}


def no() -> dict[str, float]:
    """What the types weigh that speak against an item."""
    return {kind: DISLIKE_WEIGHT[kind] for kind in NEGATIVE}


# These need no item: a search has its `query`; one unsubscribes from a `category` or a `brand`, and may undo that.
ITEM_OPTIONAL: tuple[str, ...] = (EventType.SEARCH, EventType.UNSUBSCRIBE, EventType.UNDO)


@dataclass(frozen=True)
class Column:
    """One column: its name, type and whether a row may leave it empty.

    Attributes:
        optional_for: values of `event` for which a required column may be empty all the same.
    """

    name: str
    type: Type
    required: bool
    doc: str
    optional_for: tuple[str, ...] = ()

    @property
    def always(self) -> bool:
        """Whether every row fills it."""
        return self.required and not self.optional_for


@dataclass(frozen=True)
class Table:
    """A named list of columns, with the key that makes a row unique."""

    name: str
    key: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def arrow(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, ARROW[c.type], nullable=not c.always) for c in self.columns])

    def ddl(self) -> str:
        """The schema as Spark DDL; Spark does not enforce NOT NULL on files, the quality stage does."""
        return ", ".join(f"`{c.name}` {c.type}" for c in self.columns)

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of one row; unknown properties are refused."""
        return {
            "title": self.name,
            "type": "object",
            "additionalProperties": False,
            "required": [c.name for c in self.columns if c.always],
            "properties": {c.name: JSON[c.type] | {"description": c.doc} for c in self.columns},
        }

    def check_columns(self, names: list[str]) -> None:
        """Raise ValueError that names the unknown and the missing columns of an input."""
        unknown = sorted(set(names) - set(self.names))
        missing = [c.name for c in self.columns if c.required and c.name not in names]
        if unknown or missing:
            raise ValueError(
                f"{self.name}: unknown columns {unknown}, missing columns {missing}; the schema is {self.names}"
            )


EVENTS = Table(
    "events",
    "event_id",
    (
        Column("event_id", "string", True, "unique id; the same id twice is the same event"),
        Column("user_id", "string", False, "empty for an anonymous visitor"),
        Column("session_id", "string", True, "one visit; the only identity of an anonymous visitor"),
        Column("item_id", "string", True, "the item acted upon; search, unsubscribe and undo need none", ITEM_OPTIONAL),
        Column("event", "string", True, "one of EVENT_TYPES"),
        Column("value", "double", False, "unit price for cart and purchase, stars for rate"),
        Column("quantity", "int", False, "pieces bought or put in the cart"),
        Column("duration_sec", "double", False, "seconds viewed or watched"),
        Column("surface", "string", False, "where it happened: home, similar, trending, category, search, …"),
        Column("position", "int", False, "slot of the item on the surface, 0 first"),
        Column("request_id", "string", False, "the recommendation response that showed the item"),
        Column("region", "string", False, "country of the visitor"),
        Column("query", "string", False, "what a search asked for"),
        Column("category", "string", False, "the category that the event is about, where it is about no single item"),
        Column("brand", "string", False, "the brand that the event is about, where it is about no single item"),
        Column("event_time", "timestamp", True, "when it happened, UTC"),
        Column("ingested_at", "timestamp", False, "when the platform received it, UTC"),
    ),
)
ITEMS = Table(
    "items",
    "item_id",
    (
        Column("item_id", "string", True, "unique id"),
        Column("title", "string", True, "what a shopper reads"),
        Column("description", "string", False, "longer text"),
        Column("category", "string", True, "path, general to special, joined by ' > '"),
        Column("tags", "array<string>", False, "free keywords, genres"),
        Column("brand", "string", False, "brand, creator or maker"),
        Column("price", "double", False, "unit price in `currency`"),
        Column("currency", "string", False, "ISO 4217"),
        Column("regions", "array<string>", False, "countries it may be shown in; empty: everywhere"),
        Column("created_at", "timestamp", True, "when it entered the catalogue, UTC"),
        Column("available", "boolean", True, "can be bought or watched now"),
    ),
)
USERS = Table(
    "users",
    "user_id",
    (
        Column("user_id", "string", True, "unique id"),
        Column("region", "string", False, "country"),
        Column("age_group", "string", False, "band such as 25-34"),
        Column("language", "string", False, "ISO 639-1"),
        Column("signup_date", "timestamp", False, "UTC"),
        Column("preferences", "array<string>", False, "stated categories"),
    ),
)
TABLES: dict[str, Table] = {table.name: table for table in (EVENTS, ITEMS, USERS)}


def top_category(path: str) -> str:
    """The most general part of a category path: "Home > Kitchen > Mugs" is in "Home"."""
    return path.split(" > ", 1)[0]
