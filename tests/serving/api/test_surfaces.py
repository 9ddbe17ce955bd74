"""Surfaces are data: what a file may say, and that a change of it needs no restart."""

import os
from pathlib import Path
from typing import Any

import pytest

from models import rerank
from recsys.errors import Permanent
from recsys.settings import Settings
from serving.api import followed, surfaces
from serving.api.surfaces import SourceName


def write(settings: Settings, text: str) -> Path:
    path = surfaces.own_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))  # a clock may tick slowly
    return path


def test_the_shipped_surfaces_are_those_of_the_product() -> None:
    shipped = surfaces.read(surfaces.DEFAULTS.read_bytes())
    names = ["home", "similar", "because_you_viewed", "cart", "trending", "category", "home_rules", "email"]
    assert list(shipped) == names
    assert sum(shipped["home"].sources.values()) <= 700
    assert shipped["home"].rules.of_page == rerank.Rules(diversity="mmr", strength=0.1)
    assert shipped["email"].sources[SourceName.NEWEST] > 5 * shipped["home"].sources[SourceName.NEWEST]
    assert [name for name, surface in shipped.items() if surface.ranked] == ["home", "because_you_viewed", "email"]
    assert [name for name, surface in shipped.items() if surface.phase == 1] == ["trending", "category", "home_rules"]


def test_an_own_file_changes_and_adds_surfaces_and_leaves_the_others(settings: Settings) -> None:
    write(
        settings,
        """
home: {about: shopper, phase: 1, sources: {popular: 50}}
gifts: {about: category, phase: 1, sources: {category: 30}, backfill: [catalogue], seen: false}
""",
    )
    found = surfaces.follow(settings).value
    assert dict(found["home"].sources) == {SourceName.POPULAR: 50}
    assert found["gifts"].backfill == [SourceName.CATALOGUE]
    assert found["cart"] == surfaces.read(surfaces.DEFAULTS.read_bytes())["cart"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("home: [", "no YAML"),
        ("Home: {about: shopper, phase: 1, sources: {popular: 5}}", "Home"),
        ("home: {about: moon, phase: 1, sources: {popular: 5}}", "home.about: Input should be 'shopper'"),
        ("home: {about: shopper, phase: 1, sources: {telepathy: 5}}", "home.sources.telepathy"),
        ("home: {about: shopper, phase: 1, sources: {popular: 0}}", "greater than or equal to 1"),
        ("home: {about: shopper, phase: 1, sources: {}}", "at least 1 item"),
        ("home: {about: shopper, phase: 1, sources: {personal: 5}}", "the source personal asks a model"),
        ("home: {about: shopper, phase: 1, sources: {popular: 5}, rank: true}", "rank: true asks a model"),
        ("home: {about: shopper, phase: 1, sources: {popular: 5}, explore: {policy: thompson}}", "take phase 2"),
        ("home: {about: shopper, phase: 2, sources: {popular: 5}, explore: {policy: linear}}", "linear is of phase 3"),
        ("home: {about: shopper, phase: 2, sources: {related: 5}}", "related needs an item"),
        ("home: {about: shopper, phase: 2, sources: {personal: 3000, popular: 9}}", "sum to 3009; at most 3000"),
        ("home: {about: shopper, phase: 2, sources: {personal: 9}, objectives: {joy: 1}}", "heads are click, cart"),
        ("home: {about: shopper, phase: 2, sources: {personal: 9}, objectives: {click: 0}}", "weigh nothing"),
        ("home: {about: shopper, phase: 2, sources: {personal: 9}, rules: {max_share: 2}}", "home.rules.max_share"),
        ("home: {about: shopper, phase: 2, sources: {personal: 9}, colour: red}", "home.colour"),
    ],
)
def test_a_wrong_file_names_the_place_and_the_remedy(settings: Settings, text: str, words: str) -> None:
    path = write(settings, text)
    with pytest.raises(Permanent) as caught:
        surfaces.follow(settings)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.services
async def test_a_change_is_served_without_a_restart_and_a_mistake_changes_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)
    assert (await world.page(user_id="ann", count=3))["rung"] == "ranked"
    write(world.settings, "home: {about: shopper, phase: 1, sources: {popular: 50}}")
    page = await world.page(user_id="ann", count=3)
    assert (page["rung"], page["degraded"]) == ("trending", False)
    write(world.settings, "home: {about: shopper, phase: 4}")
    assert (await world.page(user_id="ann", count=3))["rung"] == "trending"
    assert caplog.text.count("what it said before stays") == 1
    write(world.settings, "late: {about: shopper, phase: 1, sources: {popular: 50}}")
    assert (await world.page(user_id="ann", surface="late", count=3))["surface"] == "late"
    surfaces.own_file(world.settings).unlink()
    assert (await world.get(surface="late")).status_code == 404


def test_a_file_is_parsed_again_only_when_it_changes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)
    parsed: list[bytes] = []
    file = followed.File(surfaces.own_file(settings), parsed.append, absent=b"")
    for change in (lambda: None, lambda: write(settings, "home"), surfaces.own_file(settings).unlink):
        change()
        assert [file.value, file.value] == [None, None]
    assert parsed == [b"", b"home", b""]


@pytest.mark.services
async def test_objectives_reach_the_ranker(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "RECHECK_SECONDS", 0.0)
    write(
        world.settings,
        "home: {about: shopper, phase: 2, sources: {personal: 30, again: 5}, objectives: {purchase: 1, revenue: 2}}",
    )
    await world.page(user_id="ann", count=3)
    assert world.ranking.asked[-1].blend == {"purchase": 1.0, "revenue": 2.0}


@pytest.mark.services
async def test_candidates_of_other_sources_are_ranked_with_the_score_that_retrieval_would_give(world: Any) -> None:
    world.retrieval.answer = _first_ten(world.retrieval.answer)
    page = await world.page(user_id="ann", count=60)
    [asked] = world.ranking.asked
    scores = dict(zip(asked.item_ids.tolist(), asked.retrieval_scores.tolist(), strict=True))
    vectors = world.app.state.parts.watcher.current.vectors
    assert scores["i59"] == pytest.approx(0.9)  # as retrieval said
    assert scores["i24"] == pytest.approx(float(vectors[24] @ vectors[59]))  # popular with her age group
    shown = {item["item_id"]: item["sources"] for item in page["items"]}
    assert shown["i24"] == ["popular", "catalogue"]


def _first_ten(answer: Any) -> Any:
    from dataclasses import replace

    def shorter(request: Any) -> Any:
        found = answer(request)
        parts = {name: getattr(found, name)[:10] for name in ("item_ids", "scores", "because")}
        return replace(found, **parts)

    return shorter


@pytest.mark.services
async def test_a_cart_gets_what_goes_with_it(world: Any) -> None:
    page = await world.page(surface="cart", cart=["i5", "i9"], count=20)
    assert [(item["item_id"], item["reason"]) for item in page["items"][:3]] == [
        ("i6", "Often bought with Thing 5"),
        ("i7", "Often bought with Thing 5"),
        ("i59", "Similar to Thing 5"),  # i9 goes with i5, and is in the cart
    ]
    shown = [item["item_id"] for item in (await world.page(surface="cart", cart=["i5", "i9"], count=60))["items"]]
    assert not {"i5", "i9"} & set(shown)


@pytest.mark.services
async def test_because_you_viewed_is_about_the_last_item(world: Any) -> None:
    page = await world.page(surface="because_you_viewed", user_id="ann", headers={"X-Last-Item": "i20"}, count=3)
    assert world.retrieval.asked[-1].query_item == "i20"
    assert {item["reason"] for item in page["items"]} == {"Similar to Thing 20"}
    page = await world.page(surface="because_you_viewed", user_id="ann", count=3)
    assert {item["reason"] for item in page["items"]} == {"Similar to Thing 7"}  # of her profile
    assert (await world.page(surface="because_you_viewed", count=3))["rung"] == "static"  # nobody viewed anything


@pytest.mark.services
async def test_a_request_may_narrow_the_catalogue(world: Any) -> None:
    page = await world.page(user_id="ann", category="Toys > big", count=60)
    assert {item["category"] for item in page["items"]} == {"Toys > big"}
    page = await world.page(user_id="ann", min_price=11, max_price=19, count=60)
    assert len(page["items"]) == 8  # i12 to i19
    assert all(11 <= item["price"] <= 19 for item in page["items"])
    unknown = await world.get(user_id="ann", brand="Nobody", count=60)
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:recsys:problem:unknown-brand")
    first = (await world.page(user_id="ann", count=1))["items"][0]["item_id"]
    assert (await world.page(user_id="ann", exclude=[first], count=1))["items"][0]["item_id"] != first


@pytest.mark.services
async def test_a_source_that_does_not_serve_is_named_and_not_waited_for(world: Any) -> None:
    await world.retrieval.stop()
    page = await world.page(user_id="ann", count=3)
    assert page["missing"] == ["personal"]
    assert (await world.page(count=3))["missing"] == []
