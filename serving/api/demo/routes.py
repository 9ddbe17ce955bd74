"""The pages of the storefront, and what can be done on them."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote, urlencode, urlunsplit

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from feature_repo import shoppers
from feature_repo.dismissals import CATEGORY
from feature_repo.events import EventType, top_category
from feature_repo.shoppers import Shopper
from recsys.errors import Retryable
from serving.api import events, explain, onboarding, recommendations
from serving.api.contract import Id, Name
from serving.api.demo import access, shelves, view, visitor
from serving.api.demo.visitor import Current, Visitor
from serving.api.live import LiveRelease
from serving.api.parts import Parts
from serving.api.problems import Problem

router = APIRouter(prefix="/demo", route_class=access.Route, include_in_schema=False)
reads, writes = Depends(access.read), Depends(access.write)

ASSETS = Path(__file__).with_name("assets")
EXAMPLES = 6  # known users to choose from
ASKED = 20  # categories in the survey, as many as one may state
LATELY = 8  # items of the history that a page names
SAID: Mapping[str, str] = {
    EventType.ADD_TO_CART: "{} is in your cart.",
    EventType.PURCHASE: "You bought {}.",
    EventType.REMOVE_FROM_CART: "{} is out of your cart.",
    EventType.DISLIKE: "{} is not shown to you any more.",
    EventType.UNSUBSCRIBE: "{} is not shown to you any more.",
    EventType.UNDO: "{} is back.",
}
UNDONE = (EventType.REMOVE_FROM_CART, EventType.DISLIKE, EventType.UNSUBSCRIBE)
SOLD = (EventType.ADD_TO_CART, EventType.PURCHASE, EventType.REMOVE_FROM_CART)  # events with a price
BACK = {"front": "/demo", "product": "/demo/product", "cart": "/demo/cart"}


class Deed(BaseModel):
    """What a visitor did, as a form sends it: to which items or which category, shown where, and the page to go on
    with."""

    model_config = ConfigDict(extra="forbid")

    event: Literal[
        EventType.CLICK,
        EventType.ADD_TO_CART,
        EventType.REMOVE_FROM_CART,
        EventType.PURCHASE,
        EventType.DISLIKE,
        EventType.UNSUBSCRIBE,
        EventType.UNDO,
    ]
    item_id: list[Id] = Field(default_factory=list, max_length=100)
    category: Id = ""
    surface: Id | None = None
    position: int | None = Field(None, ge=0, le=1000)
    request_id: Id | None = None
    back: Literal["front", "product", "cart"] = "front"
    about: Id = ""  # the product whose page to go back to


@router.get("/assets/{name}")
async def asset(name: Literal["demo.css", "demo.js", "icon.svg"]) -> Response:
    """The files of the pages; a browser asks each time whether they have changed."""
    return FileResponse(ASSETS / name, headers={"Cache-Control": "no-cache"})


@router.get("", dependencies=[reads])
async def front(request: Request, who: Current, category: Id = "", notice: Name = "", done: Name = "") -> Response:
    """The shelves of all surfaces."""
    live, shopper = _live(request), await _shopper(request, who)
    departments = shelves.departments(live)
    known = shopper or Shopper()
    liked = [*known.preferences, *known.profile.favourites, *departments]
    gone = _unsubscribed(known)
    chosen = category or next((name for name in liked if name in live.known and name not in gone), "")
    found = await shelves.front(request, who, known, chosen, live)
    return await _page(
        "front.html",
        request,
        who,
        shopper,
        notice=_notice(notice, done, live),
        shelves=found,
        waiting=shelves.waiting(request, found),
        categories=list(dict.fromkeys([chosen, *departments]))[: ASKED + 1],
        category=chosen,
    )


@router.get("/product", dependencies=[reads])
async def product(request: Request, who: Current, item_id: Id, notice: Name = "", done: Name = "") -> Response:
    """One item, and what is shown beside it."""
    live = _live(request)
    _check([item_id], live)
    return await _page(
        "product.html",
        request,
        who,
        await _shopper(request, who),
        notice=_notice(notice, done, live),
        product=recommendations.described(live.catalogue.row_of[item_id], live),
        shelves=await shelves.beside(request, who, item_id, live),
    )


@router.get("/why", dependencies=[reads])
async def why(request: Request, who: Current, request_id: Name, item_id: Name) -> Response:
    """Why an item is on a shelf, or why not."""
    told = await explain.told(request_id, item_id.strip(), request.app.state.parts)
    return await _page("explained.html", request, who, await _shopper(request, who), told=told, asked=request_id)


@router.get("/cart", dependencies=[reads])
async def cart(request: Request, who: Current, notice: Name = "", done: Name = "") -> Response:
    """What is in the cart, and what goes with it."""
    live, shopper = _live(request), await _shopper(request, who)
    held = shopper.cart if shopper else ()
    rows = [row for item in held if (row := live.catalogue.row_of.get(item)) is not None]
    items = [recommendations.described(row, live) for row in rows]
    return await _page(
        "cart.html",
        request,
        who,
        shopper,
        notice=_notice(notice, done, live),
        items=items,
        total=_total(items),
        shelves=await shelves.basket(request, who, held),
    )


def _total(items: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What all cost together; None where a price is unknown or the currencies differ."""
    currencies, prices = {item["currency"] for item in items}, [item["price"] for item in items]
    if len(currencies) != 1 or None in prices:
        return None
    return {"price": sum(prices), "currency": currencies.pop()}


@router.get("/survey", dependencies=[reads])
async def survey(request: Request, who: Current) -> Response:
    """What a shopper may say they like."""
    shopper, departments = await _shopper(request, who), shelves.departments(_live(request))
    stated = shopper.preferences if shopper else ()
    offered = dict.fromkeys([*(name for name in stated if name in departments), *departments])
    categories = {name: departments[name] for name in list(offered)[:ASKED]}
    return await _page("survey.html", request, who, shopper, categories=categories, stated=stated)


@router.post("/survey", dependencies=[writes])
async def prefer(
    request: Request, who: Current, category: Annotated[list[Id], Form(max_length=ASKED, default_factory=list)]
) -> Response:
    """Keep the answer to the survey, as PUT /api/v1/users/{user_id}/preferences does."""
    if not who.user_id:
        raise Problem(422, "nobody", "the survey is kept under a user id; be a new shopper first")
    await onboarding.keep(who.user_id, onboarding.Preferences(categories=category), request.app.state.parts)
    return _go("/demo", notice="survey")


@router.get("/visitor", dependencies=[reads])
async def choose(request: Request, who: Current) -> Response:
    """Who to be."""
    parts: Parts = request.app.state.parts
    try:
        known = await shoppers.some(parts.store, EXAMPLES)
    except Retryable:
        known = []
    regions = sorted(_live(request).popular.get("region", {}))
    return await _page("visitor.html", request, who, await _shopper(request, who), known=known, regions=regions)


@router.post("/visitor", dependencies=[reads])
async def be(
    request: Request,
    kind: Annotated[Literal["known", "new", "anonymous"], Form()],
    user_id: Annotated[Id, Form()] = "",
    region: Annotated[Id, Form()] = "",
) -> Response:
    """Begin a new visit as somebody."""
    match kind:
        case "known":
            if not user_id.strip():
                raise Problem(422, "nobody", "name a user, or be a new one or an anonymous visitor")
            who, target = Visitor(user_id=user_id.strip()), "/demo"
        case "new":
            who, target = Visitor(user_id=f"new-{secrets.token_hex(3)}", region=region), "/demo/survey"
        case "anonymous":
            who, target = Visitor(region=region), "/demo"
    answer = _go(target)
    _remember(answer, request, who)
    return answer


@router.post("/deed", dependencies=[writes])
async def act(request: Request, who: Current, deed: Annotated[Deed, Form()]) -> Response:
    """Send events, as POST /api/v1/events does: on the disk, and known to the next page, before the answer."""
    live, receiver = _live(request), request.app.state.parts.receiver
    _check(deed.item_id, live)
    about = [deed.category] if deed.category else deed.item_id
    if not about or (deed.category and (deed.item_id or deed.event not in (EventType.UNSUBSCRIBE, EventType.UNDO))):
        raise Problem(422, "no-target", f"{deed.event} needs item_id, or unsubscribe and undo category, and not both")
    await events.take([_event(name, deed, who, live) for name in about], receiver)
    if deed.event is EventType.CLICK:
        return _go("/demo/product", item_id=deed.item_id[0])
    told = {"notice": deed.event, "done": about[0]}
    of_product = {"item_id": deed.about} if deed.back == "product" else {}
    return _go(BACK[deed.back], anchor=f"on-{deed.surface}" if deed.surface else "", **told, **of_product)


def _check(items: Sequence[str], live: LiveRelease) -> None:
    unknown = [item for item in items if item not in live.catalogue.row_of]
    if unknown:
        raise Problem(404, "unknown-item", f"no item {unknown[0]!r} in release {live.release_id}")


def _event(name: str, deed: Deed, who: Visitor, live: LiveRelease) -> BaseModel:
    """An event about an item, or about the category of the form."""
    sold: dict[str, Any] = {}
    if deed.event in SOLD:
        price = recommendations.described(live.catalogue.row_of[name], live)["price"]
        sold = {"value": price, "quantity": 1}
    shown = deed.model_dump(include={"surface", "position", "request_id"})
    return events.Event(
        event_id=f"demo-{secrets.token_hex(12)}",
        user_id=who.user_id or None,
        session_id=who.session_id,
        item_id=None if deed.category else name,
        category=deed.category or None,
        event=deed.event.value,
        region=who.region or None,
        event_time=datetime.now(UTC),
        **shown,
        **sold,
    )


def _go(path: str, *, anchor: str = "", **query: str) -> RedirectResponse:
    return RedirectResponse(urlunsplit(("", "", path, urlencode(query), quote(anchor))), 303)


class Notice(NamedTuple):
    """What the page says was done, and the fields of a form that takes it back; none where nothing does."""

    text: str
    undo: Mapping[str, str] = MappingProxyType({})


def _notice(notice: str, done: str, live: LiveRelease) -> Notice | None:
    if notice == "survey":
        return Notice("Thank you. The shelves below know what you like.")
    if notice not in SAID:
        return None
    target = "item_id" if done in live.catalogue.row_of else "category"
    undo = {"event": EventType.UNDO.value, target: done} if notice in UNDONE else {}
    return Notice(SAID[notice].format(shelves.title_of(done, live)), undo)


def _live(request: Request) -> LiveRelease:
    return recommendations.live_of(request.app.state.parts)


async def _shopper(request: Request, who: Visitor) -> Shopper | None:
    """The visitor as the online store knows them; None while it is away."""
    live, parts = _live(request), request.app.state.parts
    now = live.now(datetime.now(UTC).timestamp())
    try:
        return await shoppers.read(parts.store, who.user_id, who.session_id, now, parts.settings.dismissals)
    except Retryable:
        return None


def _unsubscribed(shopper: Shopper) -> list[str]:
    """Categories that the shopper does not want to see."""
    return [no.name for no in shopper.dismissed if no.scope == CATEGORY and no.hides]


async def _page(
    template: str,
    request: Request,
    who: Visitor,
    shopper: Shopper | None,
    *,
    notice: Notice | None = None,
    **context: Any,
) -> Response:
    live, known = _live(request), shopper or Shopper()
    hues = {name: place % view.HUES for place, name in enumerate(shelves.departments(live))}
    answer = view.page(
        template,
        who,
        shopper=shopper,
        cart=known.cart,
        bought=known.bought,
        hidden=_unsubscribed(known),
        lately=[shelves.title_of(item, live) for item in known.items[:LATELY]],
        release=live.release,
        hue=lambda category: hues.get(top_category(category), 0),
        notice=notice,
        **context,
    )
    if who != visitor.of(request):
        _remember(answer, request, who)
    return answer


def _remember(answer: Response, request: Request, who: Visitor) -> None:
    visitor.remember(answer, who, secure=request.url.scheme == "https")
