"""GET /api/v1/explain/{request_id}: why an item was on a page, or why not."""

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, Field

from feature_repo import transforms
from recsys.inference import HEADS, RankingResponse
from serving.api import auth, dossiers
from serving.api.contract import Id
from serving.api.dossiers import Dossier
from serving.api.live import LiveRelease
from serving.api.parts import Parts
from serving.api.problems import Problem, documented
from serving.api.surfaces import Surface
from serving.api.visit import Visit

router = APIRouter(prefix="/api/v1", tags=["recommendations"])


class Feature(BaseModel):
    """One number that the ranker's forward pass saw of an item."""

    value: float
    meaning: str


class Explanation(BaseModel):
    """Why an item is on a page, or the first thing that kept it away."""

    request_id: str
    release_id: str = Field(description="that made the page")
    surface: str
    rung: str
    item_id: str
    title: str
    verdict: str = Field(description="shown, explored, outranked, held_back, filtered or not_retrieved")
    because: str = Field(description="the same in words")
    rule: str | None = Field(None, description="the filter or rule that kept it away")
    missed_by: float | None = Field(None, description="how much relevance it lacked for the last place")
    position: int | None = Field(description="its place in all pages, from 0")
    sources: list[str] = Field(description="who proposed it")
    retrieval: dict[str, Any] | None = Field(description="score and rank among all items, whether proposed or not")
    ranker: dict[str, Any] | None = Field(description="probability of each head, and the blended score")
    relevance: float | None = Field(description="the score after freshness, session and business factors")
    dampened: dict[str, Any] | None = Field(
        description="of an item like one that the shopper dismissed: that item, the factor on its score, and both in "
        "words"
    )
    exploration: dict[str, Any] | None = Field(description="policy, version, edition and propensity of its place")
    features: dict[str, Feature] | None = Field(
        None, description="by name, what the ranker is told: of the shopper as they were then, of the item as it is now"
    )
    if_ranked: dict[str, Any] | None = Field(
        None,
        description="for an item that the ranker was not asked about: probability of each head, blended score, and the "
        "place from 1 that this would have been among those that it scored",
    )
    notes: list[str] = Field([], description="what is missing here, or has changed since the page, in words")


@router.get(
    "/explain/{request_id}",
    summary="Why, or why not, an item was on a page",
    responses=documented(400, 401, 403, 404, 410, 422, 429),
)
async def explain(
    request: Request,
    client: Annotated[auth.Client, Depends(auth.may_read)],
    request_id: Annotated[Id, Path(min_length=1)],
    item_id: Annotated[Id, Query(min_length=1, description="the item in question, shown or not")],
) -> Explanation:
    """Scores, ranks, sources, rules and versions as they were when the page was made.

    They are kept for some minutes (`api.explain_seconds`), and only while the release that made the page is live. The
    ranker is asked once more for the same shopper at the same moment, and says what it knows of the item.
    """
    parts: Parts = request.app.state.parts
    return await told(request_id, item_id, parts, client)


async def told(request_id: str, item_id: str, parts: Parts, client: auth.Client | None = None) -> Explanation:
    """The answer to the question.

    Args:
        request_id: of the response.
        item_id: in question.
        parts: of the process.
        client: who asks, if the response may be somebody else's.

    Raises:
        Problem: 403, 404 or 410 where there is no answer.
    """
    dossier, live = await recorded(request_id, parts, client)
    row = live.catalogue.row_of.get(item_id)
    if row is None:
        raise Problem(
            404, "unknown-item", f"no item {item_id!r} in release {live.release_id}; it was never a candidate"
        )
    facts = dossier.facts
    visit = parts.funnel.again(facts.visit, Surface(**facts.visit.surface), live)
    answer = dossiers.explained(dossier, item_id, visit) | await _asked_again(dossier, item_id, visit, parts)
    return Explanation(
        request_id=request_id,
        release_id=facts.release_id,
        surface=facts.surface,
        rung=facts.rung,
        item_id=item_id,
        title=str(live.titles[row]),
        **answer,
    )


async def recorded(request_id: str, parts: Parts, client: auth.Client | None = None) -> tuple[Dossier, LiveRelease]:
    """What was known when a response was made, and the release that made it.

    Args:
        request_id: of the response.
        parts: of the process.
        client: who asks, if the response may be somebody else's.

    Raises:
        Problem: 403 for somebody else's, 404 where nothing is kept, 410 where the release serves no more.
    """
    dossier = await _dossier(request_id, parts)
    if client and client.user_id and client.user_id != dossier.facts.user_id:  # an anonymous visitor is another, too
        raise auth.other_user("request_id")
    live = parts.watcher.holding(dossier.facts.release_id)
    if live is None:
        detail = f"release {dossier.facts.release_id} made that page, and serves no more; ask about a newer one"
        raise Problem(410, "release-gone", detail)
    return dossier, live


async def _asked_again(dossier: Dossier, item_id: str, visit: Visit, parts: Parts) -> dict[str, Any]:
    """The ranker's features of an item, asked for behind the candidates of the page if it was not among them."""
    if not len(dossier.ranked):
        return {"notes": ["no model ranked this page, so there are no features"]}
    live = visit.live
    ids, scores = dossier.ids(dossier.rows[dossier.ranked], live).tolist(), dossier.retrieval[dossier.ranked]
    place = ids.index(item_id) if item_id in ids else None
    if place is None:
        ids, scores = [*ids, item_id], np.append(scores, dossier.retrieval_score(item_id, live))
    request = replace(visit.ranking(ids, scores, dossier.facts.visitor), features_of=item_id)
    answer = await parts.calls.rank_again(request, live)
    if answer is None:
        return {"notes": ["the ranking predictor does not serve now, so there are no features; ask again"]}
    if len(answer.features) != len(transforms.RANKING_DOCS):
        return {"notes": ["the ranking predictor has other code and does not tell its features; start it again"]}
    values = zip(transforms.RANKING_DOCS.items(), answer.features.tolist(), strict=True)
    told = {"features": {name: Feature(value=value, meaning=doc) for (name, doc), value in values}}
    if place is None:
        return told | {"if_ranked": _if_ranked(answer, dossier)}
    since = not dossiers.alike(answer.scores[place], dossier.score[dossier.ranked[place]])
    return told | {"notes": ["the ranker scores the item otherwise now than it did for the page"] * since}


def _if_ranked(answer: RankingResponse, dossier: Dossier) -> dict[str, Any]:
    """What the ranker gives the last item of the request, and where that would have been."""
    heads = {head: round(float(getattr(answer, head)[-1]), 6) for head in HEADS}
    score = answer.scores[-1]
    return heads | {"score": round(float(score), 6), "place": 1 + int((dossier.score > score).sum())}


async def _dossier(request_id: str, parts: Parts) -> Dossier:
    found = await parts.pages.behind(request_id, parts.settings.api.explain_deadline_ms / 1000)
    if found is None:
        detail = (
            f"nothing is kept of request {request_id!r}: it is older than {parts.settings.api.explain_seconds} s, was "
            "never answered, or the online store is away; the decision log has what it showed"
        )
        raise Problem(404, "unknown-request", detail)
    return found
