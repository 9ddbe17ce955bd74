"""What a shopper just did or said is in their next response."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.services
NOW = "2024-03-01T10:00:00Z"


async def did(world: Any, event: str, item_id: str, **who: str) -> None:
    body = {"event_id": f"{event}-{item_id}", "item_id": item_id, "event": event, "event_time": NOW, "session_id": "s1"}
    answer = await world.http.post("/api/v1/events", json=body | who)
    assert answer.status_code == 202, answer.text


def recent(asked: Any) -> list[tuple[str, str]]:
    return [(deed.event, deed.item_id) for deed in asked.recent]


def handed(ranked: Any) -> list[tuple[str, str]]:
    """The deeds that retrieval's answer carried on; the request for ranks does not repeat them."""
    assert (ranked.recent, ranked.preferences) == ((), ())
    return [(event, item_id) for _, event, item_id in json.loads(ranked.visitor)["recent"]]


async def test_an_event_is_in_the_next_response_of_the_same_visit(world: Any) -> None:
    await did(world, "view", "i20")
    page = await world.page(session_id="s1", count=60)
    assert page["rung"] == "ranked"  # one view, and the visit is no stranger's any more
    assert "i20" not in [item["item_id"] for item in page["items"]]
    assert recent(world.retrieval.asked[-1]) == handed(world.ranking.asked[-1]) == [("view", "i20")]
    assert (await world.page(session_id="another", count=3))["rung"] != "ranked"


async def test_who_logs_in_keeps_what_the_visit_saw(world: Any) -> None:
    await did(world, "view", "i20")
    await did(world, "purchase", "i21", user_id="ann")
    await world.page(user_id="ann", session_id="s1", headers={"X-Last-Item": "i30"})
    assert handed(world.ranking.asked[-1]) == [("purchase", "i21"), ("view", "i20"), ("view", "i30")]


async def test_an_impression_says_nothing_of_taste(world: Any) -> None:
    await did(world, "impression", "i20")
    await world.page(session_id="s1")
    assert recent(world.retrieval.asked[-1]) == []


async def test_the_decision_log_knows_the_moment(world: Any) -> None:
    await did(world, "view", "i20")
    await world.page(session_id="s1", count=2)
    world.app.state.parts.decisions.close()
    [segment] = (Path(world.settings.storage.root) / "bus" / "decisions").glob("*.jsonl")
    [record] = [json.loads(line) for line in segment.read_text().splitlines()]
    assert record["facts"]["recent"] == ["1709287200\tview\ti20"]


async def test_what_a_new_shopper_says_is_in_the_very_next_response(world: Any) -> None:
    answer = await world.http.put("/api/v1/users/eve/preferences", json={"categories": ["Toys", "Garden"]})
    assert (answer.status_code, answer.json()) == (200, {"categories": ["Toys", "Garden"]})
    page = await world.page(user_id="eve", count=20)
    liked = [item["item_id"] for item in page["items"] if item["reason"] == "Because you like Toys"]
    assert (page["items"][0]["item_id"], liked) == ("i12", ["i12", "i16", "i20"])
    await world.http.put("/api/v1/users/eve/preferences", json={"categories": []})
    assert "Because you like Toys" not in [item["reason"] for item in (await world.page(user_id="eve"))["items"]]


async def test_retrieval_is_told_what_a_shopper_said(world: Any) -> None:
    await world.http.put("/api/v1/users/ann/preferences", json={"categories": ["Garden"]})
    await world.page(user_id="ann")
    assert world.retrieval.asked[-1].preferences == ("Garden",)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"categories": ["Shoes"]}, 404, "Books, Garden"),
        ({"categories": ["Toys"] * 21}, 422, "20"),
        ({"categories": "Toys"}, 400, "list"),
        ({"likes": []}, 400, "categories"),
    ],
)
async def test_a_bad_answer_to_the_survey_is_told_what_to_do(world: Any, body: Any, status: int, words: str) -> None:
    answer = await world.http.put("/api/v1/users/eve/preferences", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
