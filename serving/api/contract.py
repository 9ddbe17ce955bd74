"""What callers send and get: the models behind the OpenAPI document."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from feature_repo import validity

Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Id = Annotated[str, Field(max_length=validity.ID_LENGTH, pattern=validity.ID_OR_NONE)]


class Rung(StrEnum):
    """Which rung of the ladder served, from the best down."""

    RANKED = "ranked"
    RETRIEVAL = "retrieval"
    COVISITATION = "covisitation"
    HISTORY = "history"
    FEED = "feed"
    TRENDING = "trending"
    STATIC = "static"


class Ask(BaseModel):
    """The parameters of a recommendation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    surface: Id = Field(
        "home", description="where the items will be shown; the surfaces are configured", examples=["home"]
    )
    user_id: Id = Field("", description="a logged-in shopper; empty for an anonymous one", examples=["17850"])
    session_id: Id = Field("", description="the visit; what an anonymous shopper did in it counts")
    item_id: Id = Field("", description="for a surface about an item, such as similar: the item on the page")
    cart: list[Id] = Field([], max_length=100, description="for surface=cart: its items; empty: what was put in lately")
    category: Name = Field("", description="only items of this category: a path or a most general category")
    brand: Name = Field("", description="only items of this brand or creator")
    min_price: float | None = Field(None, ge=0, allow_inf_nan=False, description="only items that cost at least this")
    max_price: float | None = Field(None, ge=0, allow_inf_nan=False, description="only items that cost at most this")
    currency: Id = Field(
        "", description="of min_price and max_price, ISO 4217; needed where items have prices in several currencies"
    )
    exclude: list[Id] = Field([], max_length=500, description="items that may not appear")
    region: Name = Field("", description="country of the shopper; empty: that of the profile", examples=["Germany"])
    count: int = Field(20, ge=1, description="items per page; all pages of one request have the same")
    cursor: Annotated[str, Field(max_length=500)] = Field(
        "", description="from the response before, with the same parameters; empty or 0: the first page"
    )


class Item(BaseModel):
    """One recommended item."""

    item_id: str
    title: str
    category: str = Field(description="path, general to special, joined by ' > '")
    price: float | None = Field(None, description="unit price; null where unknown")
    currency: str | None = None
    score: float = Field(description="of the stage that ordered the page; comparable within one response and source")
    reason: str = Field(description="why it is shown; true, or neutral", examples=["Popular in Germany"])
    source: str = Field(
        description="who proposed it first: personal, similar, bought_with, viewed_with, feed, again, taste, popular, "
        "new or catalogue"
    )
    sources: list[str] = Field(description="every source that proposed it")


class Page(BaseModel):
    """A page of recommendations."""

    items: list[Item]
    cursor: str | None = Field(description="give it back for the next page; null on the last one")
    request_id: str = Field(description="as in X-Request-ID; put it into the events that the page leads to")
    release_id: str = Field(description="the models and catalogue that made it")
    data_as_of: str = Field(description="ISO time up to which the data of that release reach")
    surface: str
    rung: Rung = Field(
        description="ranked: retrieval and ranking; retrieval: order of retrieval; covisitation: bought or viewed "
        "together; history: had before; feed: precomputed; trending: lists of the online store; static: lists of the "
        "release"
    )
    degraded: bool = Field(description="whether a part failed, so that a lower rung than usual served")
    quality: float = Field(
        description="share of the usual candidates that were considered; below 1 while models are slow"
    )
    missing: list[str] = Field(description="candidate sources that did not serve in time and were left out")
    variants: dict[str, str] = Field(description="by experiment: the variant that served this page")
    notes: list[str] = Field(description="what the caller should know about this page, in words")
