"""What a shopper gets on each surface, and what a caller gets wrong."""

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.services, pytest.mark.usefixtures("nothing_to_explore")]


def ids(page: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in page["items"]]


async def test_a_known_shopper_gets_the_order_of_the_ranker_without_what_may_not_be_shown(world: Any) -> None:
    page = await world.page(user_id="ann", count=5)
    # i1 is sold out, i2 is for Norway, ann knows i3 and i7, and i8 would be a third Toy in a page of five.
    assert ids(page) == ["i0", "i4", "i5", "i6", "i9"]
    assert page["rung"] == "ranked"
    assert page["degraded"] is False
    assert page["notes"] == []
    assert page["release_id"] == "r1"


async def test_an_item_has_what_a_page_needs(world: Any) -> None:
    page = await world.page(user_id="ann", count=5)
    assert page["items"][1] == {
        "item_id": "i4",
        "title": "Thing 4",
        "category": "Toys > small",
        "price": 4.0,
        "currency": "GBP",
        "score": 0.96,
        "reason": "Because you bought Thing 58",
        "source": "personal",
        "sources": ["personal", "catalogue"],
    }
    assert page["items"][0]["price"] is None


async def test_the_predictors_are_asked_for_the_live_release_and_the_whole_pool_at_once(world: Any) -> None:
    await world.page(user_id="ann", session_id="s1", count=3)
    [asked] = world.retrieval.asked
    assert (asked.user_id, asked.session_id, asked.k) == ("ann", "s1", 400)
    [ranked] = world.ranking.asked
    assert (ranked.user_id, ranked.region, ranked.surface, len(ranked.item_ids)) == ("ann", "Germany", "home", 55)


async def test_the_item_viewed_last_changes_the_same_response(world: Any) -> None:
    page = await world.page(user_id="stranger", headers={"X-Last-Item": "i20"}, count=4)
    assert page["rung"] == "ranked"
    assert page["items"][0]["reason"] == "Because you viewed Thing 20"
    [asked], [ranked] = world.retrieval.asked, world.ranking.asked
    assert [(deed.event, deed.item_id) for deed in asked.recent] == [("view", "i20")]
    assert "i20" in ranked.visitor
    everything = await world.page(user_id="stranger", headers={"X-Last-Item": "i20"}, count=60)
    assert "i20" not in ids(everything)  # it has just been seen


async def test_a_new_shopper_gets_what_is_popular_with_their_age_and_region(world: Any) -> None:
    page = await world.page(user_id="new", count=6)
    assert ids(page)[:3] == ["i24", "i25", "i20"]
    assert page["items"][0]["reason"] == "Popular with ages 25-34 in Germany"
    assert page["items"][2]["reason"] == "Popular in Germany"
    assert (page["rung"], page["degraded"]) == ("trending", False)
    assert world.ranking.asked == []


async def test_an_anonymous_visitor_gets_what_is_popular_in_the_region_of_the_request(world: Any) -> None:
    page = await world.page(region="Germany", count=2)
    assert [item["reason"] for item in page["items"]] == ["Popular in Germany"] * 2


async def test_nobody_from_nowhere_gets_what_is_popular_everywhere(world: Any) -> None:
    page = await world.page(count=3)
    assert ids(page) == ["i10", "i11", "i12"]
    assert {item["reason"] for item in page["items"]} == {"Popular overall"}, "the data are years old"


async def test_an_item_of_one_region_is_shown_there_only(world: Any) -> None:
    norway = await world.page(user_id="ann", region="Norway", count=10)
    assert "i2" in ids(norway)
    assert "i2" not in ids(await world.page(user_id="ann", count=10))
    assert "i2" not in ids(await world.page(surface="category", category="Garden", count=20))


async def test_a_catalogue_of_repeat_purchases_keeps_what_is_known(world: Any, shop: Any) -> None:
    shop.publish(world.settings, "r2", meta={"allow_repeats": True})
    world.retrieval.release = world.ranking.release = "r2"
    await world.app.state.parts.watcher.refresh()
    assert "i3" in ids(await world.page(user_id="ann", count=10))


async def test_similar_items_leave_the_item_out_and_name_it(world: Any) -> None:
    page = await world.page(surface="similar", item_id="i59", count=3)
    assert ids(page) == ["i58", "i57", "i56"]
    assert {item["reason"] for item in page["items"]} == {"Similar to Thing 59"}
    assert (page["rung"], page["degraded"]) == ("retrieval", False)


async def test_trending_by_region_and_by_category(world: Any) -> None:
    page = await world.page(surface="trending", region="Germany", count=2)
    assert ids(page) == ["i20", "i21"]
    page = await world.page(surface="trending", category="Toys", count=3)
    assert ids(page) == ["i12", "i16", "i20"]
    assert page["items"][0]["reason"] == "Popular in Toys"


async def test_a_category_page_goes_on_with_its_catalogue_where_its_list_ends(world: Any) -> None:
    page = await world.page(surface="category", category="Toys > big", count=100)
    assert ids(page)[:3] == ["i16", "i8", "i0"]
    assert page["items"][0]["reason"] == "Popular in big"
    assert page["items"][2]["reason"] == "From big"
    assert {item["category"] for item in page["items"]} == {"Toys > big"}
    assert len(page["items"]) == 8
    assert page["cursor"] is None


async def test_a_page_of_the_home_feed_is_varied(world: Any) -> None:
    page = await world.page(user_id="ann", count=20)
    tops = [item["category"].split(" > ")[0] for item in page["items"]]
    assert max(tops.count(top) for top in set(tops)) <= 8


@pytest.mark.parametrize("header", ["X-Request-ID", "X-Correlation-ID"])
async def test_pages_with_one_id_of_the_caller_are_told_apart(world: Any, header: str) -> None:
    """A gateway sends one id with all shelves of a page view; each shelf is explained as itself."""
    sent = {header: "view-1"}
    anns, bobs = [await world.get(user_id=user, count=3, headers=sent) for user in ("ann", "bob")]
    assert anns.headers["X-Correlation-ID"] == bobs.headers["X-Correlation-ID"] == "view-1"
    ids = [answer.json()["request_id"] for answer in (anns, bobs)]
    assert len({*ids, "view-1"}) == 3
    for request_id, answer in zip(ids, (anns, bobs), strict=True):
        item = answer.json()["items"][0]["item_id"]
        told = await world.http.get(f"/api/v1/explain/{request_id}", params={"item_id": item})
        assert (told.status_code, told.json()["position"]) == (200, 0), told.text
    missing = await world.http.get("/api/v1/explain/view-1", params={"item_id": "i1"})
    assert missing.status_code == 404


async def test_an_id_of_the_caller_that_is_no_id_is_left_out(world: Any) -> None:
    answer = await world.get(user_id="ann", headers={"X-Request-ID": "ann@example.com"})
    assert "X-Correlation-ID" not in answer.headers


async def test_every_answer_says_its_id_and_where_the_time_went(world: Any) -> None:
    answer = await world.get(user_id="ann")
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]
    assert "X-Correlation-ID" not in answer.headers
    named = dict(re.findall(r"([\w-]+);dur=([\d.]+)", answer.headers["Server-Timing"]))
    assert {"retrieval", "retrieval-search", "ranking", "ranking-forward", "online", "rerank", "total"} <= set(named)
    assert float(named["total"]) >= float(named["retrieval"])


async def test_a_new_release_takes_over_without_a_restart(world: Any, shop: Any) -> None:
    shop.publish(world.settings, "r2")
    world.retrieval.release = world.ranking.release = "r2"
    # The predictors refuse r1 now; the request that notices looks for the new release and is answered from it.
    page = await world.page(user_id="ann")
    assert (page["release_id"], page["rung"], page["degraded"]) == ("r2", "ranked", False)


async def test_a_release_that_cannot_be_read_changes_nothing(world: Any, shop: Any) -> None:
    live = shop.publish(world.settings, "r2")
    reference = live.artifacts["catalogue"]
    (Path(world.settings.storage.root) / reference.path / "popular.json").write_text("{}")
    assert await world.app.state.parts.watcher.refresh() is False
    assert (await world.page(user_id="ann"))["release_id"] == "r1"


@pytest.mark.parametrize(
    ("parameters", "status", "kind", "words"),
    [
        ({"count": "many"}, 400, "malformed", "count"),
        ({"count": 0}, 422, "rule-broken", "count"),
        ({"count": 101}, 422, "count-too-large", "1..100, got 101"),
        (
            {"surface": "homepage"},
            404,
            "unknown-surface",
            "home, similar, because_you_viewed, cart, trending, category",
        ),
        ({"usr_id": "ann"}, 400, "malformed", "usr_id"),
        ({"user_id": "a\x00b"}, 400, "malformed", "user_id"),
        ({"user_id": "x" * 201}, 422, "rule-broken", "200"),
        ({"surface": "similar"}, 400, "item-missing", "item_id"),
        ({"surface": "similar", "item_id": "nope"}, 404, "unknown-item", "'nope'"),
        ({"surface": "category"}, 400, "category-missing", "category"),
        ({"surface": "category", "category": "Shoes"}, 404, "unknown-category", "Books, Garden"),
        ({"brand": "Akme"}, 404, "unknown-brand", "did you mean 'Acme'"),
        ({"min_price": 9, "currency": "EUR"}, 422, "unknown-currency", "GBP"),
        ({"item_id": "i5"}, 400, "item-unused", "no use for item_id"),
        ({"cart": ["i5"]}, 400, "cart-unused", "no use for cart"),
        ({"min_price": 9, "max_price": 2}, 422, "prices-crossed", "9 is above max_price 2"),
        ({"min_price": "nan"}, 400, "malformed", "min_price"),
        ({"exclude": ["i1"] * 501}, 422, "rule-broken", "500"),
        ({"cursor": "bogus"}, 400, "bad-cursor", "leave it out"),
    ],
)
async def test_a_bad_request_is_told_what_to_do(
    world: Any, parameters: dict[str, Any], status: int, kind: str, words: str
) -> None:
    answer = await world.get(**parameters)
    problem = answer.json()
    assert answer.status_code == problem["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:recsys:problem:{kind}"
    assert words in problem["detail"]
    assert problem["instance"].endswith(answer.headers["X-Request-ID"])


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/api/v1/events", 405)])
async def test_a_wrong_address_is_a_problem_too(world: Any, method: str, path: str, status: int) -> None:
    answer = await world.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert path in answer.json()["detail"]
