"""The storefront without a browser: who may open it, what protects it, and what it writes down."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from feature_repo import transforms
from recsys.settings import Network, Services, Settings
from serving.api import auth

pytestmark = pytest.mark.services

HERE = "http://127.0.0.1"
DEED = {"event": "add_to_cart", "item_id": "i9", "surface": "home", "position": "2", "request_id": "page-0001"}


def browser(world: Any, base: str = HERE) -> httpx.AsyncClient:
    """What a browser sends, without the key of an API client."""
    transport = httpx.ASGITransport(app=world.app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=base, headers={"Origin": base})


@pytest.fixture
async def demo(world: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(world) as client:
        yield client


def changed(settings: Settings, **api: Any) -> Settings:
    return settings.model_copy(update={"api": settings.api.model_copy(update=api)})


async def accepted(world: Any) -> float:
    return await world.metric('recsys_api_events_total{outcome="accepted"}')


async def test_the_front_page_needs_no_key_and_is_not_in_the_document(demo: httpx.AsyncClient) -> None:
    answer = await demo.get("/demo")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    paths = (await demo.get("/openapi.json")).json()["paths"]
    assert [path for path in paths if path.startswith("/demo")] == []


async def test_pages_allow_nothing_from_elsewhere_and_the_cookie_stays_here(demo: httpx.AsyncClient) -> None:
    answer = await demo.get("/demo")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert {"HttpOnly", "Path=/demo", "SameSite=lax"} <= set(answer.headers["set-cookie"].split("; "))
    assert re.findall(r"(?:src|href)=\"(?!/)[^#]", answer.text) == []  # no address of another host


@pytest.mark.parametrize("name", ["demo.css", "demo.js", "icon.svg"])
async def test_assets_are_served_with_the_same_headers(demo: httpx.AsyncClient, name: str) -> None:
    answer = await demo.get(f"/demo/assets/{name}")
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")


async def test_no_other_file_is_served(demo: httpx.AsyncClient) -> None:
    assert (await demo.get("/demo/assets/..%2froutes.py")).status_code == 404


async def test_a_name_that_was_made_to_point_here_opens_nothing(world: Any) -> None:
    async with browser(world, "http://evil.example") as client:
        answer = await client.get("/demo")
        assert (answer.status_code, "for this machine alone" in answer.text) == (403, True)
        assert (await client.post("/demo/deed", data=DEED)).status_code == 403
    assert await accepted(world) == 0


async def test_it_is_open_to_other_hosts_only_if_somebody_says_so(online_settings: Settings, shop: Any) -> None:
    shop.publish(online_settings)
    async with (
        shop.running(changed(shop.patient(online_settings), demo="on")) as world,
        browser(world, "https://shop.example") as client,
    ):
        answer = await client.get("/demo")
        assert (answer.status_code, "Secure" in answer.headers["set-cookie"]) == (200, True)


@pytest.mark.parametrize(("host", "demo"), [("127.0.0.1", "off"), ("192.0.2.1", "loopback")])
async def test_it_is_not_there_where_it_is_off_or_the_api_listens_to_others(
    online_settings: Settings, shop: Any, host: str, demo: str
) -> None:
    network = Network(host=host, base_port=online_settings.network.base_port)
    settings = changed(online_settings.model_copy(update={"network": network}), demo=demo)
    async with shop.running(settings, predictors=False) as world, browser(world) as client:
        assert (await client.get("/demo")).status_code == 404


@pytest.mark.parametrize("origin", ["", "null", "https://evil.example", "http://127.0.0.1:81", "http://127.0.0.1.evil"])
@pytest.mark.parametrize("path", ["/demo/deed", "/demo/visitor", "/demo/survey"])
async def test_a_page_of_another_site_changes_nothing(world: Any, demo: Any, origin: str, path: str) -> None:
    answer = await demo.post(path, data=DEED | {"kind": "new"}, headers={"Origin": origin})
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert await accepted(world) == 0


async def test_a_deed_is_an_event_on_the_disk(world: Any, demo: httpx.AsyncClient) -> None:
    await demo.post("/demo/visitor", data={"kind": "known", "user_id": "ann"})
    answer = await demo.post("/demo/deed", data=DEED)
    assert (answer.status_code, answer.headers["location"]) == (303, "/demo?notice=add_to_cart&done=i9#on-home")
    world.app.state.parts.event_log.close()
    [segment] = (Path(world.settings.storage.root) / "bus" / "events").glob("*.jsonl")
    [event] = [json.loads(line) for line in segment.read_text().splitlines()]
    told = {name: event[name] for name in ("user_id", "item_id", "event", "surface", "position", "request_id")}
    assert told == {"user_id": "ann"} | DEED | {"position": 2}
    assert (event["value"], event["quantity"]) == (9.0, 1)
    assert event["session_id"].startswith("demo-")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"event": "dislike", "item_id": "i9", "request_id": "page-1"}, {"item_id": "i9", "request_id": "page-1"}),
        ({"event": "unsubscribe", "category": "Toys > big"}, {"category": "Toys > big"}),
        ({"event": "undo", "category": "Toys > big"}, {"category": "Toys > big"}),
    ],
)
async def test_a_no_is_an_event_without_a_price(world: Any, demo: Any, form: Any, expected: dict[str, str]) -> None:
    assert (await demo.post("/demo/deed", data=form)).status_code == 303
    world.app.state.parts.event_log.close()
    [segment] = (Path(world.settings.storage.root) / "bus" / "events").glob("*.jsonl")
    [event] = [json.loads(line) for line in segment.read_text().splitlines()]
    told = {name: event.get(name) for name in ("item_id", "category", "request_id", "value") if event.get(name)}
    assert (event["event"], told) == (form["event"], expected)


@pytest.mark.parametrize(
    "form",
    [
        {"event": "dislike"},
        {"event": "dislike", "category": "Toys"},
        {"event": "undo", "category": "Toys", "item_id": "i9"},
        {"event": "purchase"},
    ],
)
async def test_a_deed_to_nothing_or_to_two_things_is_refused(world: Any, demo: Any, form: dict[str, str]) -> None:
    answer = await demo.post("/demo/deed", data=form)
    assert (answer.status_code, "needs item_id" in answer.text) == (422, True)
    assert await accepted(world) == 0


async def test_a_deed_leads_only_to_pages_of_the_storefront(demo: httpx.AsyncClient) -> None:
    click = await demo.post("/demo/deed", data=DEED | {"event": "click"})
    assert click.headers["location"] == "/demo/product?item_id=i9"
    answer = await demo.post("/demo/deed", data=DEED | {"back": "https://evil.example"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/html; charset=utf-8")


async def test_what_is_shown_stands_in_the_decision_log_under_the_id_on_the_page(world: Any, demo: Any) -> None:
    text = (await demo.get("/demo")).text
    world.app.state.parts.decisions.close()
    [segment] = (Path(world.settings.storage.root) / "bus" / "decisions").glob("*.jsonl")
    logged = [json.loads(line)["request_id"] for line in segment.read_text().splitlines()]
    shown = re.findall(r'name="request_id" value="(\w+)"', text)
    assert list(dict.fromkeys(shown)) == logged
    assert len(logged) >= 3  # home, trending, a category, and what else is about the shopper


async def test_revoking_the_local_key_closes_it(online_settings: Settings, shop: Any) -> None:
    shop.publish(online_settings)
    async with shop.running(online_settings, predictors=False) as world, browser(world) as client:
        auth.demo_key_file(online_settings).write_text("another")
        answer = await client.get("/demo")
        assert (answer.status_code, "not known any more" in answer.text) == (403, True)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/demo/product?item_id=i99", 404, "no item"),
        ("/demo/product", 400, "item_id"),
        ("/demo?category=Shoes", 404, "Books, Garden"),
    ],
)
async def test_errors_are_pages(demo: httpx.AsyncClient, path: str, status: int, words: str) -> None:
    answer = await demo.get(path)
    assert (answer.status_code, words in answer.text) == (status, True)
    assert "<main" in answer.text


async def test_the_survey_needs_somebody(demo: httpx.AsyncClient) -> None:
    answer = await demo.post("/demo/survey", data={"category": ["Toys"]})
    assert (answer.status_code, "be a new shopper first" in answer.text) == (422, True)


async def test_before_the_first_release_it_says_what_to_do(online_settings: Settings, shop: Any) -> None:
    async with shop.running(online_settings, predictors=False) as world, browser(world) as client:
        answer = await client.get("/demo")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "make run" in answer.text
        assert '<meta http-equiv="refresh" content="10; url=/demo">' in answer.text


async def test_without_the_online_store_it_still_shows_a_shop(settings: Settings, shop: Any) -> None:
    away = Services(redis_url=f"redis://127.0.0.1:{settings.network.redis}/0")
    shop.publish(settings)
    async with (
        shop.running(settings.model_copy(update={"services": away}), predictors=False) as world,
        browser(world) as client,
    ):
        answer = await client.get("/demo")
        assert (answer.status_code, "The online store does not answer" in answer.text) == (200, True)
        assert answer.text.count('class="card"') >= 24
        for path in ("/demo/cart", "/demo/visitor", "/demo/product?item_id=i5"):
            assert (await client.get(path)).status_code == 200


async def test_the_stages_of_a_shelf_are_in_the_order_of_a_request(world: Any, demo: httpx.AsyncClient) -> None:
    await demo.post("/demo/visitor", data={"kind": "known", "user_id": "ann"})
    text = (await demo.get("/demo")).text
    legend = text[text.index('<ul class="legend"') : text.index('<li class="scale"')]
    assert re.findall(r"</span>(\w+) [\d.]+ ms", legend) == ["online", "retrieval", "ranking", "rerank"]


async def test_why_and_why_not_have_a_page(world: Any, demo: httpx.AsyncClient) -> None:
    page = await world.page(user_id="ann", count=5)
    shown = await demo.get("/demo/why", params={"request_id": page["request_id"], "item_id": "i4"})
    assert "Why Thing 4?" in shown.text
    assert "it is in place 2, page 1" in shown.text
    assert f'<th scope="row"><code>{transforms.RANKING_FEATURES[0]}</code></th><td>4</td>' in shown.text
    known = await demo.get("/demo/why", params={"request_id": page["request_id"], "item_id": " i3 "})
    assert "Why not Thing 3?" in known.text
    assert "the shopper knows it already" in known.text
    assert "<dt>Had it been ranked</dt><dd>0.97000, place 2</dd>" in known.text
    lost = await demo.get("/demo/why", params={"request_id": "long-ago", "item_id": "i4"})
    assert (lost.status_code, "nothing is kept of request" in lost.text) == (404, True)
