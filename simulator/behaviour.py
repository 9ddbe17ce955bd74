"""What shoppers do in a day: visits → pages → impressions → attention → click → view → cart → purchase, or a dislike.

Everything is vectorised over the visits of a day. The pages are filled by a simple shop that knows popularity,
the category that the visitor came for, and chance (a logging policy, not a good recommender).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator import bots, catalogue, frame, regret, shelf, vocabulary
from simulator.frame import Frame
from simulator.world import World, attention

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SECOND = 1_000_000
ANONYMOUS = 0.2  # share of visits without logging in
PAGE = 10  # slots of a full page; a similar page has half
PAGES = 2.0  # mean pages of a visit, geometric
SEARCHES = 2.0  # mean searches of a visit, Poisson
FINDS = 8  # finds of a search, of which the shopper opens the one that pleases most
PULL = 9.0  # how much taste decides what a visit is for; the rest is chance
WEEKDAY = (0.95, 0.9, 0.92, 0.97, 1.0, 1.08, 1.25)
# Share of the slots of a surface filled by: popularity, the visit's category, chance, new arrivals.
POLICY = {
    frame.HOME: (0.30, 0.42, 0.20, 0.08),
    frame.CATEGORY: (0.00, 1.00, 0.00, 0.00),
    frame.TRENDING: (1.00, 0.00, 0.00, 0.00),
    frame.SIMILAR: (0.10, 0.85, 0.05, 0.00),
}


@dataclass(frozen=True)
class Visits:
    """Visits of a day, [n] each: person, logged in?, first moment, session number, leaf that they came for."""

    user: Ints
    known: NDArray[np.bool_]
    start: Ints
    session: Ints
    intent: Ints


@dataclass(frozen=True)
class Pages:
    """Answers of the shop, [n] each: row of the visit, moment, surface, number, slots, leaf of its category part."""

    visit: Ints
    time: Ints
    surface: Ints
    request: Ints
    slots: Ints
    leaf: Ints


def day_weights(world: World) -> Floats:
    """[days] share of the visits on each day: weekday, slow growth, weather."""
    days = world.plan.days
    weekday = np.array([WEEKDAY[world.plan.day(d).weekday()] for d in range(days)])
    weights = weekday * np.linspace(0.9, 1.1, days) * np.exp(0.05 * world.rng("weather").normal(size=days))
    shares: Floats = weights / weights.sum()
    return shares


def events_per_visit(world: World) -> float:
    """How many events a visit makes on average, measured on a small sample."""
    middle = world.plan.days // 2
    visits = 1500
    return len(people(world, middle, visits, purpose="pilot")) / visits


def day(world: World, index: int, visits: int, bot_events: int) -> Frame:
    """All events of the visits that begin on a day, sorted by time; some may end after midnight."""
    crowd = people(world, index, visits)
    return frame.concat([crowd, *bots.visits(world, index, bot_events, first_session=visits)]).sorted()


def people(world: World, index: int, count: int, purpose: str = "people") -> Frame:
    """Events of honest visits, by person and page."""
    rng = world.rng(purpose, index)
    goods = shelf.of_day(world, index)
    tastes = world.shoppers.taste_at(index / world.plan.days)
    visits = _visits(world, index, count, tastes, rng)
    pages = _pages(visits, index, rng)
    shown = _fill(world, visits, pages, goods, rng)
    clicks, skips = _react(world, index, tastes, shown, rng)
    followed = clicks.take(rng.random(len(clicks)) < 0.25)
    more = _fill(world, visits, _similar(world, visits, followed, len(pages.time), index, rng), goods, rng)
    clicks2, skips2 = _react(world, index, tastes, more, rng)
    searched = _searches(world, index, visits, goods, tastes, rng)
    clicked = frame.concat([clicks, clicks2])
    views = frame.concat([_views(clicked, rng), searched])
    deeds = _deeds(world, index, tastes, views, rng)
    dislikes = regret.dislikes(world, index, tastes, views, world.rng(f"{purpose} dislikes", index))
    return frame.concat([shown, more, clicked, skips, skips2, *deeds, dislikes])


def _visits(world: World, index: int, count: int, tastes: Floats, rng: np.random.Generator) -> Visits:
    """Draw visitors by activity, an hour by habit, and a category by taste."""
    who, opening = world.shoppers, world.plan.start_us + index * catalogue.DAY_US
    active = np.where((who.signup < opening + catalogue.DAY_US // 2) & (who.bot == 0), who.activity, 0.0)
    cumulative = np.cumsum(active)
    user = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    user = np.minimum(user, len(who) - 1)
    offsets = np.array([region.offset for region in vocabulary.REGIONS])[who.region[user]]
    hour = (who.hour[user] - offsets + 2.5 * rng.normal(size=count)) % 24
    start = np.maximum(opening + (hour * 3600 * SECOND).astype(np.int64), who.signup[user] + 60 * SECOND)
    pull = PULL * tastes[user] @ world.space.leaves.T + world.season(index)
    intent = np.argmax(pull + rng.gumbel(size=pull.shape), axis=1)
    return Visits(user, rng.random(count) >= ANONYMOUS, start, shelf.numbers(index, count), intent)


def _pages(visits: Visits, index: int, rng: np.random.Generator) -> Pages:
    """One home page, then home, category or trending pages, half a minute and more apart."""
    number = rng.geometric(1 / PAGES, size=len(visits.user))
    visit = np.repeat(np.arange(len(number)), number)
    nth = np.arange(len(visit)) - np.repeat(np.cumsum(number) - number, number)
    gap = np.where(nth == 0, 0.0, 40 + rng.exponential(70, size=len(visit)))
    total = np.cumsum(gap)
    seconds = total - np.repeat(total[np.cumsum(number) - number], number)
    later = rng.choice([frame.HOME, frame.CATEGORY, frame.TRENDING], size=len(visit), p=[0.45, 0.4, 0.15])
    surface = np.where(nth == 0, frame.HOME, later)
    return Pages(
        visit,
        visits.start[visit] + (seconds * SECOND).astype(np.int64),
        surface,
        shelf.numbers(index, len(visit)),
        np.full(len(visit), PAGE),
        visits.intent[visit],
    )


def _similar(world: World, visits: Visits, clicks: Frame, first: int, index: int, rng: np.random.Generator) -> Pages:
    """The page of similar items that opens under some of the clicked items."""
    visit = np.searchsorted(visits.session, clicks.session)
    delay = (4 + rng.exponential(8, size=len(clicks))) * SECOND
    return Pages(
        visit,
        clicks.time + delay.astype(np.int64),
        np.full(len(clicks), frame.SIMILAR),
        shelf.numbers(index, len(clicks), first),
        np.full(len(clicks), PAGE // 2),
        world.items.leaf[clicks.item],
    )


def _fill(world: World, visits: Visits, pages: Pages, goods: shelf.Shelf, rng: np.random.Generator) -> Frame:
    """Impressions: items for the slots of pages by the logging policy; none twice on a page, none from abroad."""
    page = np.repeat(np.arange(len(pages.slots)), pages.slots)
    item = _draw(pages, page, goods, rng)
    user = visits.user[pages.visit[page]]
    legal = world.items.regions[item, world.shoppers.region[user]]
    key = page * np.int64(len(world.items)) + item
    _, first = np.unique(key, return_index=True)
    keep = np.zeros(len(page), bool)
    keep[first] = True
    keep &= legal
    page, item, user = page[keep], item[keep], user[keep]
    rank = np.arange(len(page)) - np.searchsorted(page, page, side="left")
    return frame.blank(
        time=pages.time[page],
        user=user,
        known=visits.known[pages.visit[page]],
        session=visits.session[pages.visit[page]],
        request=pages.request[page],
        item=item,
        kind=np.full(len(page), frame.IMPRESSION),
        surface=pages.surface[page],
        position=rank,
    )


def _draw(pages: Pages, page: Ints, goods: shelf.Shelf, rng: np.random.Generator) -> Ints:
    mix = np.cumsum([POLICY[surface] for surface in range(frame.SEARCH)], axis=1)[pages.surface[page]]
    source = (mix[:, :3] < rng.random(len(page))[:, None]).sum(axis=1)
    chance = rng.random(len(page))
    fresh = goods.fresh if len(goods.fresh) else goods.present
    picks = np.stack(
        [
            goods.popular(chance),
            goods.within(pages.leaf[page], chance),
            goods.present[(chance * len(goods.present)).astype(np.int64)],
            fresh[(chance * len(fresh)).astype(np.int64)],
        ]
    )
    chosen: Ints = picks[source, np.arange(len(page))]
    return chosen


def _react(world: World, index: int, tastes: Floats, shown: Frame, rng: np.random.Generator) -> tuple[Frame, Frame]:
    """Clicks and skips: only what is looked at can be clicked or dismissed."""
    logit = world.click_logit(tastes, shown.user, shown.item, index)
    looked = rng.random(len(shown)) < attention()[shown.position]
    chance = rng.random(len(shown))
    clicked = looked & (chance < sigmoid(logit))
    skipped = looked & ~clicked & (rng.random(len(shown)) < 0.12 * sigmoid(-logit - 2.5))
    wait = (1 + 1.2 * shown.position + rng.exponential(4, size=len(shown))) * SECOND
    acted = shown.but(time=shown.time + wait.astype(np.int64))
    return acted.take(clicked).of(frame.CLICK), acted.take(skipped).of(frame.SKIP)


def sigmoid(logit: Floats) -> Floats:
    probability: Floats = 1 / (1 + np.exp(-logit))
    return probability


def _views(clicks: Frame, rng: np.random.Generator) -> Frame:
    """The product page that most clicks reach; some bounce before it has loaded."""
    reached = clicks.take(rng.random(len(clicks)) < 0.93)
    return reached.but(time=reached.time + (0.3 * SECOND + rng.exponential(SECOND, len(reached))).astype(np.int64))


def _searches(
    world: World, index: int, visits: Visits, goods: shelf.Shelf, tastes: Floats, rng: np.random.Generator
) -> Frame:
    """Views without an impression: of some finds in the category of the visit, the one that pleases most."""
    number = rng.poisson(SEARCHES, size=len(visits.user))
    visit = np.repeat(np.arange(len(number)), number)
    user = visits.user[visit]
    finds = goods.within(np.repeat(visits.intent[visit], FINDS), rng.random(FINDS * len(visit)))
    finds = finds.reshape(-1, FINDS)
    logit = world.click_logit(tastes, np.repeat(user, FINDS), finds.ravel(), index)
    logit = logit.reshape(-1, FINDS)
    abroad = ~world.items.regions[finds, world.shoppers.region[user][:, None]]
    best = np.argmax(logit + rng.gumbel(size=logit.shape) - 1e3 * abroad, axis=1)
    rows = np.arange(len(visit))
    legal = ~abroad[rows, best]
    delay = (15 + rng.exponential(150, size=len(visit))) * SECOND
    found = frame.blank(
        time=visits.start[visit] + delay.astype(np.int64),
        user=user,
        known=visits.known[visit],
        session=visits.session[visit],
        request=np.full(len(visit), -1),
        item=finds[rows, best],
        kind=np.full(len(visit), frame.VIEW),
        surface=np.full(len(visit), frame.SEARCH),
        position=np.full(len(visit), -1),
    )
    return found.take(legal)


def _deeds(world: World, index: int, tastes: Floats, views: Frame, rng: np.random.Generator) -> list[Frame]:
    """Views with their length, and the likes, carts and purchases that follow."""
    logit = world.click_logit(tastes, views.user, views.item, index)
    seconds = np.round(np.exp(2.9 + 0.25 * np.clip(logit, -4, 3) + 0.7 * rng.normal(size=len(views))), 1)
    seen = views.of(frame.VIEW).but(duration=seconds)
    end = seen.time + (seconds * SECOND).astype(np.int64)
    ended = seen.but(time=end, duration=np.full(len(end), np.nan))
    liked = ended.take(rng.random(len(views)) < 0.22 * sigmoid(logit + 0.5)).of(frame.LIKE)
    dear = world.dearness[views.item] * world.shoppers.price_sensitivity[views.user]
    wanted = ended.take(rng.random(len(views)) < sigmoid(0.7 * logit - 0.3 - 0.5 * dear))
    consumable = np.array([leaf.consumable for leaf in vocabulary.LEAVES])[world.items.leaf[wanted.item]]
    pieces = 1 + rng.poisson(np.where(consumable, 0.9, 0.12))
    carts = wanted.of(frame.CART).but(value=world.items.price[wanted.item], quantity=pieces)
    pay = rng.random(len(carts)) < 0.5
    checkout = (30 + rng.exponential(200, size=len(carts))) * SECOND
    bought = carts.of(frame.PURCHASE).but(time=carts.time + checkout.astype(np.int64)).take(pay)
    return [seen, liked, carts, bought]
