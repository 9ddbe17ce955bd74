"""GET /api/v1/replay/{request_id}: the page of a request made once more from its record, and what differs.

The candidates, the shopper, the moment and the release are those of the record; the ranker, the rules of the surface
and the arms of exploration are those of now. So on a platform that nothing has changed, the same page comes out, and
otherwise what differs says what was changed. Sources and filters are not asked again: the record has what they said.
"""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Path, Request
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from recsys.inference import HEADS, RankingResponse
from serving.api import auth, dossiers, explain, explore, ordering
from serving.api.contract import Id
from serving.api.dossiers import Dossier
from serving.api.explore import Slot
from serving.api.live import LiveRelease
from serving.api.ordering import Ordered
from serving.api.parts import Parts
from serving.api.problems import Problem, documented
from serving.api.slate import Shown
from serving.api.surfaces import Surface
from serving.api.visit import Visit

router = APIRouter(prefix="/api/v1", tags=["recommendations"])
RETRY_AFTER = 5
ASKED_BEFORE = {"sources", "newcomer", "backfill"}  # fields of a surface whose say is in the record
Exploration = Literal["none", "drawn again", "as recorded"]


class Place(BaseModel):
    """What stands in one place."""

    item_id: str
    score: float | None = Field(description="of the ranker; null for an item that explores or was not ranked")


class Difference(BaseModel):
    """A place that shows something else, or the same with another score."""

    position: int = Field(description="place in all pages so far, from 0")
    recorded: Place | None = Field(description="null where the page ended before")
    replayed: Place | None = Field(description="null where the page ends before")


class Replay(BaseModel):
    """A page made once more, beside what was shown."""

    request_id: str
    release_id: str = Field(description="that made the page, and made it once more")
    surface: str
    rung: str
    same: bool = Field(description="every place shows the same item with the same score")
    places: int = Field(description="of the pages that the request has had so far")
    exploration: Exploration = Field(
        description="its slots were drawn again, or taken as recorded, because more is known of the arms since"
    )
    differences: list[Difference] = Field(description="by place; empty where all is the same")
    because: list[str] = Field(description="what has changed since, in words; empty where all is the same")


@dataclass(frozen=True, eq=False)
class Made:
    """The pages made once more.

    Attributes:
        items: of its pages.
        scores: the ranker's by item id.
        exploration: how its exploration slots came about.
        because: what has changed since.
    """

    items: list[Shown]
    scores: dict[str, float]
    exploration: Exploration
    because: list[str]


@router.get(
    "/replay/{request_id}",
    summary="A page made once more from its record",
    responses=documented(400, 401, 403, 404, 410, 422, 429, 503),
)
async def replay(
    request: Request,
    client: Annotated[auth.Client, Depends(auth.may_read)],
    request_id: Annotated[Id, Path(min_length=1)],
) -> Replay:
    """Ranks the recorded candidates again for the same shopper at the same moment, orders them by the rules of the
    surface, and compares with what was shown.

    Records are kept for some minutes (`api.explain_seconds`), and good only while the release that made the page is
    live. Nothing is logged, and nobody is counted as having seen an item.
    """
    parts: Parts = request.app.state.parts
    dossier, live = await explain.recorded(request_id, parts, client)
    made = await _made(dossier, live, parts)
    differences = _differences(dossier, made, live)
    return Replay(
        request_id=request_id,
        release_id=live.release_id,
        surface=dossier.facts.surface,
        rung=dossier.facts.rung,
        same=not differences,
        places=len(dossier.facts.items),
        exploration=made.exploration,
        differences=differences,
        because=(made.because or ["the catalogue or the program has changed since"]) if differences else [],
    )


async def _made(dossier: Dossier, live: LiveRelease, parts: Parts) -> Made:
    """The pages once more. Raises Problem where ranking does not serve, or the surface is there no more."""
    surface, because = _surface(dossier, parts)
    visit = parts.funnel.again(dossier.facts.visit, surface, live)
    scores, told = await _ranked(dossier, visit, parts)
    pool, ranked = dossiers.pool(dossier, scores, live)
    gone = len(dossier.kept) - len(pool)
    if gone:
        told.append(f"{gone} candidates have left the catalogue since")
    items, exploration = _laid_out(ordering.ordered(pool, ranked, visit), dossier, parts)
    ids = dossier.ids(dossier.rows[dossier.ranked[: len(scores)]], live)
    by_id = dict(zip(ids.tolist(), scores.tolist(), strict=True))
    return Made(items, by_id, exploration, [*because, *told])


def _surface(dossier: Dossier, parts: Parts) -> tuple[Surface, list[str]]:
    """The surface as it is now, with the variants that made the page, and what has changed in it since."""
    name, known, asked = dossier.facts.surface, parts.surfaces.value, dossier.facts.visit
    if name not in known:
        raise Problem(410, "surface-gone", f"the surface {name!r} made that page, and is there no more")
    surface, because = known[name], []
    for experiment, arm in asked.variants.items():
        try:
            surface = parts.experiments.value.changes[experiment].variants[arm].of(surface, known)
        except (KeyError, ValueError):
            because.append(f"the variant {arm} of the experiment {experiment} can serve no more")
    then, now = (made.model_dump(mode="json", exclude=ASKED_BEFORE) for made in (Surface(**asked.surface), surface))
    changes = [f"{place} was {was} and is {will}" for place, was, will in _changes("", then, now)]
    if changes:
        because.append(f"the rules of the surface have changed since: {'; '.join(changes)}")
    return surface, because


def _changes(place: str, then: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Where two JSON values differ, each place once."""
    if isinstance(then, dict) and isinstance(now, dict):
        names = dict.fromkeys([*then, *now])
        return [found for name in names for found in _changes(f"{place}.{name}", then.get(name), now.get(name))]
    return [] if then == now else [(place.removeprefix("."), then, now)]


async def _ranked(dossier: Dossier, visit: Visit, parts: Parts) -> tuple[NDArray[np.float32], list[str]]:
    """[r] scores of the candidates that the ranker scored then, and what has changed in them; those that are the same
    but for rounding as they were, so that rounding changes no order."""
    ranked = dossier.ranked
    if not (len(ranked) and visit.surface.ranked):
        return np.empty(0, np.float32), []
    ids = dossier.ids(dossier.rows[ranked], visit.live)
    answer = await parts.calls.rank_again(
        visit.ranking(ids, dossier.retrieval[ranked], dossier.facts.visitor), visit.live
    )
    if answer is None:
        detail = "a page is replayed by ranking it again, and the ranking predictor does not serve now; ask again"
        raise Problem(503, "no-ranking", detail, retry_after=RETRY_AFTER)
    same = dossiers.alike(answer.scores, dossier.score[ranked])
    return np.where(same, dossier.score[ranked], answer.scores), _rescored(dossier, answer, same, visit)


def _rescored(dossier: Dossier, answer: RankingResponse, same: NDArray[np.bool_], visit: Visit) -> list[str]:
    """Why the ranker scores otherwise than it did."""
    if same.all():
        return []
    heads = np.stack([getattr(answer, head) for head in HEADS], axis=1)
    if not dossiers.alike(heads, dossier.heads[dossier.ranked]).all():
        otherwise = f"the ranker scores {int((~same).sum())} of {len(same)} candidates otherwise"
        return [f"{otherwise}: the features of items were refreshed since"]
    if visit.surface.objectives == dossier.facts.visit.surface.get("objectives", {}):
        return ["the ranker blends its heads by other weights since (predictors.blend)"]
    return []


def _laid_out(order: Ordered, dossier: Dossier, parts: Parts) -> tuple[list[Shown], Exploration]:
    """The pages, and how their exploration slots came about. Another edition of the arms would draw others by chance,
    so those of the record stay; without items that have left the catalogue."""
    facts, live = dossier.facts, order.visit.live
    slate, arms = parts.funnel.pages(order, facts.visit.request_id), parts.explorer.arms(live)
    drawn = facts.laid[: -(-explore.EXPLORED // facts.count)]
    if order.visit.surface.explore is None or all(page.edition == (arms.edition if arms else "") for page in drawn):
        items = [item for page in facts.laid for item in slate.page(page.watched, page.dismissed)]
        return items, "drawn again" if any(item.policy for item in items) else "none"
    pages = [_explored(dossier, page, live) for page in range(len(facts.laid))]
    every = {slot.row for explored in pages for slot in explored.values()}
    items = [
        item
        for explored, page in zip(pages, facts.laid, strict=True)
        for item in slate.page_with(explored, every - {slot.row for slot in explored.values()}, page.dismissed)
    ]
    return items, "as recorded" if any(item.policy for item in items) else "none"


def _explored(dossier: Dossier, page: int, live: LiveRelease) -> dict[int, Slot]:
    """The exploration slots of a page by their place on it, without items that have left the catalogue."""
    count = dossier.facts.count
    recorded = enumerate(dossier.facts.items[page * count : (page + 1) * count])
    rows = ((place, item, live.catalogue.row_of.get(item.item_id)) for place, item in recorded if item.policy)
    return {place: Slot(-1, row, item.propensity, item.policy) for place, item, row in rows if row is not None}


def _differences(dossier: Dossier, made: Made, live: LiveRelease) -> list[Difference]:
    """The places that show something else, or the same with another score."""
    ids = dossier.ids(dossier.rows[dossier.ranked], live).tolist()
    scores = dict(zip(ids, dossier.score[dossier.ranked].tolist(), strict=True))
    then = [_place(item, scores) for item in dossier.facts.items]
    now = [_place(item, made.scores) for item in made.items]
    pairs = enumerate(zip_longest(then, now))
    return [Difference(position=place, recorded=was, replayed=will) for place, (was, will) in pairs if was != will]


def _place(item: Shown, scores: dict[str, float]) -> Place:
    score = None if item.policy else scores.get(item.item_id)
    return Place(item_id=item.item_id, score=None if score is None else float(f"{score:.6g}"))
