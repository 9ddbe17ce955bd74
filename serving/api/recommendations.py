"""GET /api/v1/recommendations."""

import math
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Header, Request, Response

from serving.api import auth, deadline, explain, pages, treatment
from serving.api.contract import Ask, Id, Page
from serving.api.dossiers import Dossier
from serving.api.funnel import Shown, Slate
from serving.api.live import LiveRelease
from serving.api.pages import Cursor, Kept
from serving.api.parts import Parts
from serving.api.problems import Problem, documented
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
    trace = Trace(request.scope["request_id"], due)
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
    kept = await parts.pages.find(cursor.slate_id, trace.left()) if cursor else None
    if kept is None:
        if cursor:
            trace.notes.append("the ranking of the first page is lost; this page was made anew and may repeat items")
        # A page that is made anew is in the experiments that were on at its first page.
        now = datetime.fromtimestamp(cursor.issued if cursor else time.time(), UTC)
        live, slate, dossier = await _slate(ask, surface, last_item, live, now, parts, trace)
        kept = Kept(live.release_id, trace.request_id, slate, trace.exposures)
        parts.dossiers.put(trace.request_id, dossier.pack())
    else:
        trace.exposures = kept.exposures
        live = parts.watcher.holding(kept.release_id) or live
        if trace.request_id != kept.request_id:  # a caller may send one id with every page
            parts.dossiers.put(trace.request_id, explain.reference(kept.request_id))
    if kept.release_id != live.release_id:
        trace.notes.append(f"this page comes from the earlier release {kept.release_id}")
    return _respond(ask, last_item, live, parts, trace, cursor, kept)


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
        examples = ", ".join(live.examples)
        detail = f"no category {ask.category!r} in release {live.release_id}; it is one of {examples}, …"
        raise Problem(404, "unknown-category", detail)
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
    ask: Ask, last_item: str, live: LiveRelease, parts: Parts, trace: Trace, cursor: Cursor | None, kept: Kept
) -> dict[str, object]:
    first = cursor.offset if cursor else 0
    if kept.slate.quality < 1:
        trace.notes.append(
            f"the models are slow now, so {kept.slate.quality:.0%} of the usual candidates were looked at"
        )
    # A later page was arranged up to ten minutes ago: what has left the catalogue since then is left out.
    shown = [item for item in kept.slate.items[first : first + ask.count] if live.shows(item.item_id)]
    body: dict[str, object] = {
        "items": _items(shown, live),
        "cursor": _next(ask, parts, cursor, kept, first + ask.count, trace),
        "request_id": trace.request_id,
        "release_id": kept.release_id,
        "surface": ask.surface,
        "rung": kept.slate.rung,
        "degraded": kept.slate.degraded,
        "quality": kept.slate.quality,
        "missing": list(trace.missing),
        "variants": {met.experiment: met.variant for met in trace.exposures if not met.missed},
        "notes": [*trace.notes, *treatment.notes(trace.exposures)],
    }
    explored = {item.item_id: item.context for item in shown if item.policy}
    parts.explorer.shown(trace.request_id, explored, ask.user_id or ask.session_id)
    parts.decisions.write(ask, last_item, kept.release_id, kept.slate.rung, shown, first, trace)
    _count(ask, kept, shown, parts, trace)
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


def _next(ask: Ask, parts: Parts, cursor: Cursor | None, kept: Kept, offset: int, trace: Trace) -> str | None:
    """The cursor of the next page; None on the last one."""
    if offset >= len(kept.slate.items):
        return None
    if cursor is None:
        cursor = Cursor(parts.pages.keep(kept), 0, ask.count, int(time.time()), pages.asked(ask))
    return parts.pages.token(Cursor(cursor.slate_id, offset, cursor.count, cursor.issued, cursor.asked))


def _count(ask: Ask, kept: Kept, shown: list[Shown], parts: Parts, trace: Trace) -> None:
    metrics = parts.metrics
    metrics.pages.labels(ask.surface, kept.slate.rung).inc()
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
