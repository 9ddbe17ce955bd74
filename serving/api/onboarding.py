"""PUT /api/v1/users/{user_id}/preferences: what a new shopper says they like; the very next response knows it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from feature_repo import shoppers
from recsys.errors import Retryable
from serving.api import auth, suggestions
from serving.api.contract import Id, Name
from serving.api.live import LiveRelease
from serving.api.parts import Parts
from serving.api.problems import Problem, documented

router = APIRouter(prefix="/api/v1", tags=["shoppers"])
RETRY_AFTER = 1


class Preferences(BaseModel):
    """The answer to the survey."""

    model_config = ConfigDict(extra="forbid")
    categories: list[Name] = Field(
        max_length=20, description="category paths or most general categories, the dearest first; empty: none stated"
    )


@router.put(
    "/users/{user_id}/preferences",
    summary="Say what a shopper likes",
    responses=documented(400, 401, 403, 404, 422, 429, 503),
)
async def prefer(
    request: Request,
    client: Annotated[auth.Client, Depends(auth.may_write)],
    user_id: Annotated[Id, Path(min_length=1)],
    preferences: Preferences,
) -> Preferences:
    """Keep the categories that a shopper chose, in place of those before; repeating it changes nothing.

    They come first on the home page until the shopper has a history, and the models know them from then on.
    """
    if not client.may_name(user_id):
        raise auth.other_user("user_id")
    await keep(user_id, preferences, request.app.state.parts)
    return preferences


async def keep(user_id: str, preferences: Preferences, parts: Parts) -> None:
    """Check and keep an answer. Raises Problem: 404 for an unknown category, 503 while the online store is away."""
    _check(preferences, parts.watcher.current)
    try:
        await shoppers.state(parts.store, user_id, preferences.categories)
    except Retryable as error:
        detail = "the preferences were not taken: the online store does not answer; send them again"
        raise Problem(503, "preferences-not-taken", detail, retry_after=RETRY_AFTER) from error


def _check(preferences: Preferences, live: LiveRelease | None) -> None:
    """Before the first release nobody knows the categories, and none can be wrong."""
    unknown = [name for name in preferences.categories if live and name not in live.known]
    if live and unknown:
        raise suggestions.unknown("category", unknown[0], live.category_names, live)
