"""GET /api/v1/recommendations."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

import orjson
from fastapi import APIRouter, Depends, Header, Request, Response

from feature_repo.dismissals import Dismissal
from serving.api import auth, deadline, dossiers, filters, ordering, pages, suggestions, treatment
from serving.api.contract import Ask, Id, Page, Rung
from serving.api.dossiers import Dossier
from serving.api.live import LiveRelease
from serving.api.pages import Cursor
from serving.api.parts import Parts
from serving.api.problems import Problem, documented
from serving.api.slate import Shown, Slate
from serving.api.surfaces import About, Surface
from serving.api.trace import Trace

router = APIRouter(prefix="/api/v1", tags=["recommendations"])
RETRY_AFTER = 5


@router.get(
    "/recommendations",
    response_model=Page,
    summary="A page of recommended items",
    responses=documented(400, 401, 403, 404, 410, 422, 429, 500, 503),
)
async def recommendations(
    request: Request,
    ask: Annotated[Ask, Depends(auth.ask)],
    due: Annotated[float, Depends(deadline.due)],
    x_last_item: Annotated[Id, Header(description="the item viewed last, before any event of it has arrived")] = "",
) -> Response:
    """Items for a shopper and a surface, each with a true reason.

    Surfaces are configured; as shipped, they are

    - `home`: personal; for a new shopper what is popular with their age group and region
    - `similar`: items like `item_id`
    - `because_you_viewed`: items like the one that the shopper viewed last
    - `cart`: what goes with the items of `cart`
    - `trending`: what is popular now, in `region` or in `category`
    - `category`: what is popular in `category`
    - `home_rules`: as `home`, by rules alone
    - `email`: personal, with more that is new; the `email` job asks for it

    An experiment may serve another surface, other objectives or another release in place of these; `variants` says so.

    While any rung of the ladder stands, the answer is 200; `rung` and `degraded` say how it came about. The
    `Server-Timing` header has the milliseconds of each stage.
    """
    trace = Trace(request.scope["request_id"], due, request.scope["correlation_id"])
    request.scope["trace"] = trace
    body = await page(ask, x_last_item, request.app.state.parts, trace)
    return Response(orjson.dumps(body), media_type="application/json")


async def page(ask: Ask, last_item: str, parts: Parts, trace: Trace) -> dict[str, object]:
    """The body of a response, a `contract.Page`; raises Problem for a request that cannot be answered."""
    _check_count(ask, parts)
    live = live_of(parts)
    surface = _surface(ask, parts)
    _check(ask, surface, live)
    cursor = parts.pages.read(ask)
    made = await _kept(ask, cursor, live, parts, trace) if cursor else None
    if made is None:
        if cursor:
            trace.notes.append("the ranking of the first page is lost; this page was made anew and may repeat items")
        # A page that is made anew is in the experiments that were on at its first page.
        now = datetime.fromtimestamp(cursor.issued if cursor else time.time(), UTC)
        made = await _new(ask, surface, last_item, live, now, cursor, parts, trace)
    parts.pages.answered(trace.request_id, made.slate_id)
    if parts.watcher.holding(made.dossier.facts.release_id) is None:
        trace.notes.append(f"this page comes from the earlier release {made.dossier.facts.release_id}")
    return _respond(ask, last_item, made, parts, trace, cursor)


class Made(NamedTuple):
    """A slate whose pages reach as far as was asked.

    Attributes:
        slate_id: under which it is kept.
        dossier: all that is known of it.
        live: the release that its items are described by.
        dismissed: what the shopper has said no to, of which some may stand on a page that was laid out before.
    """

    slate_id: str
    dossier: Dossier
    live: LiveRelease
    dismissed: Sequence[Dismissal] = ()


async def _kept(ask: Ask, cursor: Cursor, live: LiveRelease, parts: Parts, trace: Trace) -> Made | None:
    """The slate of a cursor; None where it is lost, or its next page is asked for and the release that made it is."""
    within = min(parts.settings.api.online_deadline_ms / 1000, trace.left())
    # What was kept does not tell what the shopper has watched and refused since.
    dossier, known = await asyncio.gather(
        parts.pages.find(cursor.slate_id, within), parts.calls.shopper(ask.user_id, ask.session_id, live, trace)
    )
    if dossier is None:
        return None
    dismissed = known.dismissed if known else dossier.facts.laid[-1].dismissed
    facts, end = dossier.facts, cursor.offset + cursor.count
    trace.exposures = list(facts.exposures)
    own = parts.watcher.remembered(facts.release_id)
    if not dossier.holds(end):
        if own is None:
            return None
        if not dossier.holds(cursor.offset):
            trace.notes.append("the page before is lost; this page may repeat items of it")
        watched = known.watched if known else dossier.facts.laid[-1].watched
        slate = _resumed(dossier, watched, dismissed, own, parts, trace)
        dossier = _laid_out(dossier, slate, end, parts, trace)
        parts.pages.keep(cursor.slate_id, dossier)
    return Made(cursor.slate_id, dossier, own or live, dismissed)


def _resumed(
    dossier: Dossier,
    watched: Collection[str],
    dismissed: Sequence[Dismissal],
    live: LiveRelease,
    parts: Parts,
    trace: Trace,
) -> Slate:
    """The pages behind those that are laid out, of the same candidates for the same shopper, who has watched and said
    no to these."""
    facts = dossier.facts
    asked = parts.funnel.again(facts.visit, Surface(**facts.visit.surface), live)
    visit = replace(asked, trace=trace).watched(watched).refusing(dismissed)
    trace.facts["dismissed"] = [list(no) for no in dismissed]
    with trace.timed("rerank"):
        pool, ranked = dossiers.pool(dossier, dossier.score[dossier.ranked], live)
        order = ordering.ordered(pool, ranked, visit)
        return parts.funnel.pages(order, facts.visit.request_id, dossier.shown(live))


async def _new(
    ask: Ask,
    surface: Surface,
    last_item: str,
    live: LiveRelease,
    now: datetime,
    cursor: Cursor | None,
    parts: Parts,
    trace: Trace,
) -> Made:
    """A new slate, for the first page or for one that is lost."""
    live, slate, dossier = await _slate(ask, surface, last_item, live, now, parts, trace)
    dossier = _laid_out(dossier, slate, (cursor.offset if cursor else 0) + ask.count, parts, trace)
    slate_id = pages.new_id()
    parts.pages.keep(slate_id, dossier)
    return Made(slate_id, dossier, live)


def _laid_out(dossier: Dossier, slate: Slate, end: int, parts: Parts, trace: Trace) -> Dossier:
    """The same with pages up to so many items."""
    with trace.timed("rerank"):
        while not dossier.holds(end):
            arms = parts.explorer.arms(slate.visit.live)
            dossier = dossier.with_page(slate.page(), arms, slate.visit, ended=slate.ended)
    return dossier


def _check_count(ask: Ask, parts: Parts) -> None:
    limit = parts.settings.api.max_count
    if ask.count > limit:
        raise Problem(422, "count-too-large", f"count must be in 1..{limit}, got {ask.count}; use the cursor for more")


def live_of(parts: Parts) -> LiveRelease:
    """What serves. Raises Problem 503 before the first release."""
    if parts.watcher.current is None:
        detail = "no release is live yet; run the daily pipeline (`make run`, or `recsys run daily`)"
        raise Problem(503, "no-release", detail, retry_after=RETRY_AFTER)
    return parts.watcher.current


def _surface(ask: Ask, parts: Parts) -> Surface:
    known = parts.surfaces.value
    if ask.surface not in known:
        detail = f"no surface {ask.surface!r}; it is one of {', '.join(known)} (see serving/api/surfaces.yaml)"
        raise Problem(404, "unknown-surface", detail)
    return known[ask.surface]


def _check(ask: Ask, surface: Surface, live: LiveRelease) -> None:
    """What the surface needs, and whether it exists."""
    if surface.about is About.ITEM and not ask.item_id:
        raise Problem(400, "item-missing", f"surface={ask.surface} needs item_id, the item on the page")
    if ask.item_id and surface.about is not About.ITEM:
        raise Problem(400, "item-unused", f"surface={ask.surface} is about no single item and has no use for item_id")
    if ask.cart and surface.about is not About.CART:
        raise Problem(400, "cart-unused", f"surface={ask.surface} is about no cart and has no use for cart")
    if ask.item_id and ask.item_id not in live.catalogue.row_of:
        detail = f"no item {ask.item_id!r} in release {live.release_id}; take ids from a recommendation"
        raise Problem(404, "unknown-item", detail)
    if surface.about is About.CATEGORY and not ask.category:
        detail = f"surface={ask.surface} needs category, a path or a most general category"
        raise Problem(400, "category-missing", detail)
    if ask.category and ask.category not in live.known:
        raise suggestions.unknown("category", ask.category, live.category_names, live)
    if ask.brand and ask.brand not in live.known_brands:
        raise suggestions.unknown("brand", ask.brand, live.brand_names, live)
    _check_prices(ask, live)


def _check_prices(ask: Ask, live: LiveRelease) -> None:
    """Prices of several currencies are not compared."""
    limited, there = ask.min_price is not None or ask.max_price is not None, ", ".join(live.priced_in)
    if ask.currency and not limited:
        raise Problem(400, "currency-unused", "currency is that of min_price and max_price; name one of these too")
    if ask.currency and ask.currency not in live.priced_in:
        known = f"its items have prices in {there}" if there else "its items name no currency; leave it out"
        detail = f"no prices in currency {ask.currency!r} in release {live.release_id}; {known}"
        raise Problem(422, "unknown-currency", detail, currencies=live.priced_in)
    if limited and not ask.currency and len(live.priced_in) > 1:
        detail = f"prices are in {there}; say with currency which of them min_price and max_price are in"
        raise Problem(422, "currency-missing", detail, currencies=live.priced_in)
    if ask.min_price is not None and ask.max_price is not None and ask.min_price > ask.max_price:
        detail = f"min_price {ask.min_price:g} is above max_price {ask.max_price:g}; no item can meet both"
        raise Problem(422, "prices-crossed", detail)


async def _slate(
    ask: Ask, surface: Surface, last_item: str, live: LiveRelease, now: datetime, parts: Parts, trace: Trace
) -> tuple[LiveRelease, Slate, Dossier]:
    """The slate and the release that made it; once more from the start if the release changed under it, or if that of
    a variant turns out to be away."""
    treated = treatment.of(ask, surface, live, now, parts, trace)
    slate, dossier = await parts.funnel.slate(ask, treated.surface, last_item, treated.live, trace)
    pinned = treated.live.release_id != live.release_id
    switched = not pinned and any(fall.why == "release" for fall in trace.falls)
    if switched and await parts.watcher.refresh() and parts.watcher.current:
        treated = treatment.of(ask, surface, parts.watcher.current, now, parts, trace)
    elif pinned and treatment.is_away(trace):
        treated = treatment.of(ask, surface, live, now, parts, trace, live_only=True)
    else:
        return treated.live, slate, dossier
    trace.falls.clear()
    trace.missing.clear()
    slate, dossier = await parts.funnel.slate(ask, treated.surface, last_item, treated.live, trace)
    return treated.live, slate, dossier


def _respond(
    ask: Ask, last_item: str, made: Made, parts: Parts, trace: Trace, cursor: Cursor | None
) -> dict[str, object]:
    first, facts = cursor.offset if cursor else 0, made.dossier.facts
    if facts.quality < 1:
        trace.notes.append(f"the models are slow now, so {facts.quality:.0%} of the usual candidates were looked at")
    # What was found up to ten minutes ago may have left the catalogue, or been dismissed, since then.
    shown = [item for item in facts.items[first : first + ask.count] if made.live.shows(item.item_id)]
    rows = made.live.catalogue.rows([item.item_id for item in shown])
    gone = filters.hidden(made.dismissed, made.live, rows).tolist() if made.dismissed else [False] * len(shown)
    shown = [item for item, hidden in zip(shown, gone, strict=True) if not hidden]
    body: dict[str, object] = {
        "items": _items(shown, made.live),
        "cursor": _next(ask, parts, cursor, made, first + ask.count),
        "request_id": trace.request_id,
        "release_id": facts.release_id,
        "data_as_of": made.live.release.as_of,
        "surface": ask.surface,
        "rung": facts.rung,
        "degraded": facts.degraded,
        "quality": facts.quality,
        "missing": list(trace.missing),
        "variants": {met.experiment: met.variant for met in trace.exposures if not met.missed},
        "notes": [*trace.notes, *treatment.notes(trace.exposures)],
    }
    explored = {item.item_id: item.context for item in shown if item.policy}
    parts.explorer.shown(trace.request_id, explored, ask.user_id or ask.session_id)
    parts.decisions.write(ask, last_item, facts.release_id, facts.rung, shown, first, trace)
    _count(ask, facts.rung, shown, parts, trace)
    return body


def _items(shown: list[Shown], live: LiveRelease) -> list[dict[str, object]]:
    """The items of a page."""
    found = [(item, live.catalogue.row_of[item.item_id]) for item in shown]
    return [
        described(row, live)
        | {"score": item.score, "reason": item.reason, "source": item.source, "sources": item.sources}
        for item, row in found
    ]


def described(row: int, live: LiveRelease) -> dict[str, object]:
    """What the catalogue says of one item."""
    return {
        "item_id": str(live.catalogue.ids[row]),
        "title": live.titles[row],
        "category": live.category(row),
        "price": None if math.isnan(price := float(live.prices[row])) else price,
        "currency": live.currencies[row],
    }


def _next(ask: Ask, parts: Parts, cursor: Cursor | None, made: Made, offset: int) -> str | None:
    """The cursor of the next page; None on the last one."""
    if made.dossier.facts.ended and offset >= len(made.dossier.facts.items):
        return None
    issued, asked = (cursor.issued, cursor.asked) if cursor else (int(time.time()), pages.asked(ask))
    return parts.pages.token(Cursor(made.slate_id, offset, ask.count, issued, asked))


def _count(ask: Ask, rung: Rung, shown: list[Shown], parts: Parts, trace: Trace) -> None:
    metrics = parts.metrics
    metrics.pages.labels(ask.surface, rung).inc()
    for rule, count in trace.facts.get("dropped", {}).items():
        metrics.filtered.labels(rule).inc(count)
    for rule, count in trace.facts.get("relaxed", {}).items():
        metrics.relaxed.labels(rule).inc(count)
    for experiment, variant, _, missed in trace.exposures:
        if missed:
            metrics.missed.labels(experiment, variant, missed).inc()
        else:
            metrics.exposures.labels(experiment, variant).inc()
    for source, count in Counter(item.source for item in shown).items():
        metrics.items.labels(ask.surface, source).inc(count)
