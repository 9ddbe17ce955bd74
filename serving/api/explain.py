"""GET /api/v1/explain/{request_id}: why an item was on a page, or why not."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, Field

from serving.api import auth, dossiers
from serving.api.contract import Id
from serving.api.dossiers import Dossier
from serving.api.parts import Parts
from serving.api.problems import Problem, documented

router = APIRouter(prefix="/api/v1", tags=["recommendations"])
REFERENCE = b"@"  # before the id of the request whose dossier it is; a packed one never begins so


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
    exploration: dict[str, Any] | None = Field(description="policy, version, edition and propensity of its place")


def reference(request_id: str) -> bytes:
    """What is kept for a later page: whose dossier it is."""
    return REFERENCE + request_id.encode()


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

    They are kept for some minutes (`api.explain_seconds`), and only while the release that made the page is live.
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
    dossier = await _dossier(request_id, parts)
    if client and not client.may_name(dossier.facts.user_id):
        raise auth.other_user("request_id")
    live = parts.watcher.holding(dossier.facts.release_id)
    if live is None:
        detail = f"release {dossier.facts.release_id} made that page, and serves no more; ask about a newer one"
        raise Problem(410, "release-gone", detail)
    row = live.catalogue.row_of.get(item_id)
    if row is None:
        raise Problem(
            404, "unknown-item", f"no item {item_id!r} in release {live.release_id}; it was never a candidate"
        )
    facts = dossier.facts
    answer = dossiers.explained(dossier, item_id, live)
    return Explanation(
        request_id=request_id,
        release_id=facts.release_id,
        surface=facts.surface,
        rung=facts.rung,
        item_id=item_id,
        title=str(live.titles[row]),
        **answer,
    )


async def _dossier(request_id: str, parts: Parts) -> Dossier:
    data = await parts.dossiers.get(request_id)
    if data is not None and data.startswith(REFERENCE):
        data = await parts.dossiers.get(data.removeprefix(REFERENCE).decode())
    if data is None:
        detail = (
            f"nothing is kept of request {request_id!r}: it is older than {parts.settings.api.explain_seconds} s, was "
            "never answered, or the online store is away; the decision log has what it showed"
        )
        raise Problem(404, "unknown-request", detail)
    return Dossier.unpack(data)
