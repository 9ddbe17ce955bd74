"""Shelves: the page of each surface for a visitor, by the function behind GET /api/v1/recommendations."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from fastapi import Request

from feature_repo.events import top_category
from feature_repo.shoppers import Shopper
from serving.api import recommendations
from serving.api.contract import Ask, Page
from serving.api.demo.visitor import Visitor
from serving.api.live import LiveRelease
from serving.api.parts import Parts
from serving.api.reasons import leaf
from serving.api.surfaces import About
from serving.api.trace import Fall, Trace

COUNT = 12  # cards on a shelf: two rows of six on a desk
BUDGET_MS = 100  # what a request may take in all; the whole width of the bar
# Of the stages; then what arranges, although a part of it comes before ranking.
ORDER = ("online", "retrieval", "ranking")


@dataclass(frozen=True)
class Stage:
    """A stage of a request: milliseconds, and where it stands in the bar, in percent."""

    name: str
    ms: float
    start: float
    width: float


@dataclass(frozen=True)
class Shelf:
    """What one surface shows.

    Attributes:
        ask: what was asked.
        title: for people.
        about: what it starts from, for people; "" for the shopper.
        page: as the API answers.
        falls: stages that did not serve.
        timings: milliseconds by stage.
        ms: of the whole call.
    """

    ask: Ask
    title: str
    about: str
    page: Page
    falls: tuple[Fall, ...]
    timings: Mapping[str, float]
    ms: float

    @property
    def key(self) -> str:
        """What makes two shelves the same one, seen twice."""
        return " ".join([self.ask.surface, self.ask.category, self.ask.item_id, *self.ask.cart])

    @property
    def stages(self) -> list[Stage]:
        """The API's own stages, one behind the other, although some run at once; a predictor's are within them."""
        found: list[Stage] = []
        place = 0.0
        names = [name for name in self.timings if "-" not in name]
        for name in sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
            width = min(100 * self.timings[name] / BUDGET_MS, 100 - place)
            found.append(Stage(name, self.timings[name], round(place, 2), round(width, 2)))
            place += width
        return found


async def one(request: Request, ask: Ask, title: str, about: str = "") -> Shelf:
    """One shelf. Its request has an id of its own, under which it stands in the decision log.

    Raises:
        Problem: as GET /api/v1/recommendations does.
    """
    trace, started = Trace(secrets.token_hex(16)), time.perf_counter()
    body = await recommendations.page(ask, "", request.app.state.parts, trace)
    spent = 1000 * (time.perf_counter() - started)
    return Shelf(ask, title, about, Page.model_validate(body), tuple(trace.falls), trace.timings, spent)


async def front(request: Request, visitor: Visitor, shopper: Shopper, category: str, live: LiveRelease) -> list[Shelf]:
    """The shelves of every configured surface that has something to start from.

    One after the other: at once they would take each other's time, and the times shown would be nobody's.
    """
    shelves = []
    for name, surface in request.app.state.parts.surfaces.value.items():
        match surface.about:
            case About.SHOPPER:
                shelf = await one(request, ask(name, visitor), titled(name))
            case About.LAST_ITEM if shopper.items:
                shelf = await one(request, ask(name, visitor), titled(name), title_of(shopper.items[0], live))
            case About.CART if shopper.cart:
                names = " · ".join(title_of(item, live) for item in shopper.cart[:3])
                shelf = await one(request, ask(name, visitor), titled(name), names)
            case About.CATEGORY if category:
                shelf = await one(request, ask(name, visitor, category=category), leaf(category), titled(name))
            case _:
                continue
        shelves.append(shelf)
    return shelves


async def beside(request: Request, visitor: Visitor, item_id: str, live: LiveRelease) -> list[Shelf]:
    """The shelves of a product's page: surfaces about an item, and what a cart that holds only this one leads to."""
    parts: Parts = request.app.state.parts
    title, found = title_of(item_id, live), []
    for name, surface in parts.surfaces.value.items():
        if surface.about is About.ITEM:
            found.append(await one(request, ask(name, visitor, item_id=item_id), titled(name), title))
        elif surface.about is About.CART:
            found.append(await one(request, ask(name, visitor, cart=[item_id]), "Also bought", title))
    return found


async def basket(request: Request, visitor: Visitor, cart: tuple[str, ...]) -> list[Shelf]:
    """The shelves of the cart's page."""
    surfaces = request.app.state.parts.surfaces.value.items()
    names = [name for name, surface in surfaces if surface.about is About.CART and cart]
    return [await one(request, ask(name, visitor), "Goes well with your cart") for name in names]


def waiting(request: Request, shown: list[Shelf]) -> list[str]:
    """Titles of the surfaces that the front page will have once there is something for them to start from."""
    found = {shelf.ask.surface for shelf in shown}
    surfaces = request.app.state.parts.surfaces.value.items()
    return [titled(name) for name, surface in surfaces if name not in found and surface.about is not About.ITEM]


def ask(surface: str, visitor: Visitor, **more: object) -> Ask:
    who = {"user_id": visitor.user_id, "session_id": visitor.session_id, "region": visitor.region}
    return Ask.model_validate({"surface": surface, "count": COUNT} | who | more)


def titled(surface: str) -> str:
    return surface.replace("_", " ").capitalize()


def title_of(item_id: str, live: LiveRelease) -> str:
    row = live.catalogue.row_of.get(item_id)
    return item_id if row is None else str(live.titles[row])


def departments(live: LiveRelease) -> dict[str, int]:
    """Items by most general category, the largest first."""
    counts: dict[str, int] = {}
    sizes = np.bincount(live.categories, minlength=len(live.category_paths))
    for path, count in zip(live.category_paths, sizes.tolist(), strict=True):
        counts[top_category(path)] = counts.get(top_category(path), 0) + count
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
