"""The storefront in a browser: what a visitor does changes what the next page shows.

Every test fails on a message in the browser's console, and on a request to any other host.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.async_api import Locator, Page, async_playwright, expect

from recsys.settings import Settings

pytestmark = pytest.mark.services

CHROMIUM = shutil.which("chromium")
SCRIPT = "<script>document.title = 'hacked'</script>"
IMAGE = "<img src=x onerror=\"document.title='hacked'\">"


@dataclass
class Front:
    """The storefront at an address, and the page of a browser."""

    page: Page
    url: str
    world: Any

    async def go(self, path: str = "") -> None:
        await self.page.goto(f"{self.url}/demo{path}")

    async def be(self, user_id: str) -> None:
        await self.go("/visitor")
        await self.page.get_by_label("User id").fill(user_id)
        await self.page.get_by_role("button", name="Be this user").click()

    def shelf(self, title: str) -> Locator:
        return self.page.get_by_role("region", name=title, exact=True)

    async def items(self, title: str) -> list[str]:
        cards = await self.shelf(title).locator("[data-item]").all()
        return [str(await card.get_attribute("data-item")) for card in cards]


@contextlib.asynccontextmanager
async def served(world: Any) -> AsyncIterator[str]:
    """The application of a world on its port; the world has its lifespan."""
    port = world.settings.network.api
    config = uvicorn.Config(world.app, port=port, lifespan="off", ws="none", access_log=False, log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            assert not task.done()
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def opened(world: Any) -> AsyncIterator[Front]:
    """A browser before the storefront; nothing may go wrong in it."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; `infra/setup.sh test` installs it")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with served(world) as url, async_playwright() as tool:
        chromium = await tool.chromium.launch(executable_path=CHROMIUM, args=root)
        page = await chromium.new_page(viewport={"width": 1280, "height": 900})
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        host = urlsplit(url).netloc
        page.on("request", lambda request: wrong.append(request.url) if urlsplit(request.url).netloc != host else None)
        page.set_default_timeout(10_000)
        try:
            yield Front(page, url, world)
        finally:
            await chromium.close()
        assert wrong == []


@pytest.fixture
async def front(world: Any) -> AsyncIterator[Front]:
    async with opened(world) as made:
        yield made


async def test_a_known_user_is_picked_from_the_online_store(front: Front) -> None:
    await front.go()
    await front.page.get_by_role("link", name="You are anonymous").click()
    await front.page.get_by_role("button", name="ann Germany").click()
    await expect(front.page.get_by_role("heading", level=1)).to_have_text("Welcome, ann")
    home = front.shelf("Home")
    await expect(home.locator("[data-item]")).to_have_count(12)
    await expect(home.locator(".served")).to_contain_text("ranked")
    await expect(home.locator(".served")).to_contain_text("r1")
    await expect(home.locator(".legend")).to_contain_text("retrieval")
    assert await home.locator(".times rect").count() == 4  # online, retrieval, ranking, rerank
    await expect(front.shelf("Because you viewed").locator(".about")).to_have_text("Thing 7")


async def test_the_survey_of_a_new_visitor_changes_the_first_shelf(front: Front) -> None:
    await front.go("/visitor")
    await front.page.get_by_role("button", name="Be new").click()
    await front.page.get_by_role("link", name="Not now").click()
    before = await front.items("Home")
    await front.page.get_by_role("link", name="Survey", exact=True).click()
    await front.page.get_by_label("Toys").check()
    await front.page.get_by_role("button", name="Save").click()
    await expect(front.page.get_by_role("status")).to_contain_text("Thank you")
    first = front.shelf("Home").locator("[data-item]").first
    await expect(first.locator(".reason")).to_have_text("Because you like Toys")
    assert (await front.items("Home"))[0] == "i12" != before[0]
    await expect(front.shelf("Home").locator(".changes")).to_contain_text("moved since the last page")


async def test_a_click_changes_what_follows_from_it(front: Front) -> None:
    await front.be("ann")
    card = front.shelf("Home").locator("[data-item]").nth(3)
    title = await card.locator(".title").inner_text()
    await card.get_by_role("button", name=title, exact=True).click()
    await expect(front.page.get_by_role("heading", level=1)).to_have_text(title)
    await expect(front.shelf("Similar").locator("[data-item]")).to_have_count(12)
    await expect(front.shelf("Also bought").locator("[data-item]")).to_have_count(12)
    await front.page.get_by_role("link", name="Back to the shelves").click()
    viewed = front.shelf("Because you viewed")
    await expect(viewed.locator(".about")).to_have_text(title)
    await expect(viewed.locator(".reason").first).to_have_text(f"Similar to {title}")
    await expect(front.shelf("Home").locator(".changes")).to_contain_text("since the last page")
    await expect(front.shelf("Home").locator(".mark.fresh").first).to_be_visible()  # the clicked item left a place


async def test_the_cart_has_a_shelf_and_what_is_bought_is_marked(front: Front) -> None:
    await front.go()
    await expect(front.page.locator(".waiting")).to_contain_text("Cart")
    await front.go("/product?item_id=i5")
    await front.page.get_by_role("button", name="Add to cart", exact=True).click()
    await expect(front.page.get_by_role("status")).to_have_text("Thing 5 is in your cart.")
    await front.go()
    assert (await front.items("Cart"))[:2] == ["i6", "i7"]  # what is bought together with i5
    await front.page.get_by_role("link", name="Cart 1").click()
    await expect(front.page.locator(".lines li").first).to_contain_text("£5.00")
    await front.page.get_by_role("button", name="Buy all 1").click()
    await expect(front.page.get_by_text("It is empty.")).to_be_visible()
    await front.go("/product?item_id=i5")
    await expect(front.page.locator(".product .state")).to_have_text("You bought this")
    await front.go("/product?item_id=i0")
    await front.page.get_by_role("button", name="Buy Thing 59").first.click()  # on the shelf of similar items
    await expect(front.shelf("Similar").locator('[data-item="i59"] .state')).to_have_text("Bought")


async def test_an_item_of_no_interest_leaves_every_shelf_until_undone(front: Front) -> None:
    await front.be("ann")
    first = front.shelf("Home").locator("[data-item]").first
    item_id, title = await first.get_attribute("data-item"), await first.locator(".title").inner_text()
    await first.get_by_role("button", name=f"Not interested in {title}").click()
    await expect(front.page.get_by_role("status")).to_contain_text(f"{title} is not shown to you any more.")
    await expect(front.page.locator(f'[data-item="{item_id}"]')).to_have_count(0)
    await front.page.get_by_role("button", name="Undo").click()
    await expect(front.page.get_by_role("status")).to_have_text(f"{title} is back.")
    assert item_id in await front.items("Home")


async def test_a_category_of_no_interest_is_gone_until_it_is_wanted_again(front: Front) -> None:
    await front.be("ann")
    await front.page.get_by_label("Look into a category").select_option("Toys")
    await front.page.get_by_role("button", name="Show", exact=True).click()
    await front.page.get_by_role("button", name="Not interested in Toys", exact=True).click()
    await expect(front.page.get_by_role("status")).to_contain_text("Toys is not shown to you any more.")
    await expect(front.page.locator(".known")).to_contain_text("Not shown")
    assert not [item for item in await front.items("Home") if int(item[1:]) % 4 == 0]
    await front.page.get_by_role("button", name="Show Toys again").click()
    await expect(front.page.get_by_role("status")).to_have_text("Toys is back.")
    assert [item for item in await front.items("Home") if int(item[1:]) % 4 == 0]


async def test_what_is_removed_from_the_cart_is_out_of_it_until_undone(front: Front) -> None:
    await front.go("/product?item_id=i5")
    await front.page.get_by_role("button", name="Add to cart", exact=True).click()
    await front.go("/cart")
    await front.page.get_by_role("button", name="Remove Thing 5 from the cart").click()
    await expect(front.page.get_by_role("status")).to_contain_text("Thing 5 is out of your cart.")
    await expect(front.page.get_by_text("It is empty.")).to_be_visible()
    await front.page.get_by_role("button", name="Undo").click()
    await expect(front.page.locator(".lines li").first).to_contain_text("Thing 5")


async def test_why_an_item_is_shown_opens_by_keyboard(front: Front) -> None:
    await front.be("ann")
    card = front.shelf("Home").locator("[data-item]").first
    await card.locator("summary").focus()
    await front.page.keyboard.press("Enter")
    why = card.locator("dl")
    await expect(why).to_be_visible()
    for words in ("Reason", "Sources", "personal", "Score"):
        await expect(why).to_contain_text(words)


async def test_the_names_of_what_the_ranker_saw_are_whole_and_stand_below_their_title(front: Front) -> None:
    page = await front.world.page(user_id="ann", count=5)
    await front.go(f"/why?request_id={page['request_id']}&item_id=i4")
    title = front.page.get_by_text("What the ranker saw")
    await title.click()
    table = front.page.get_by_role("table")
    above, below = await title.bounding_box(), await table.bounding_box()
    assert above is not None
    assert below is not None
    assert above["y"] + above["height"] <= below["y"]
    heights = await table.locator("code").evaluate_all("names => names.map(name => name.getClientRects().length)")
    assert set(heights) == {1}


async def test_another_category_is_looked_into(front: Front) -> None:
    await front.go()
    await front.page.get_by_label("Look into a category").select_option("Toys")
    await front.page.get_by_role("button", name="Show").click()
    assert (await front.items("Toys"))[:3] == ["i12", "i16", "i20"]


async def test_no_page_moves_sideways_on_a_telephone(front: Front) -> None:
    await front.page.set_viewport_size({"width": 390, "height": 844})
    await front.be("a-user-with-a-very-long-name-that-no-line-of-a-telephone-could-ever-hold")
    for path in ("", "/product?item_id=i5", "/cart", "/survey", "/visitor"):
        await front.go(path)
        assert await front.page.evaluate("document.documentElement.scrollWidth") <= 390, path


async def test_markup_in_ids_and_titles_is_text(online_settings: Settings, shop: Any) -> None:
    settings = shop.patient(online_settings)
    shop.publish(settings, titles=dict.fromkeys(range(60), SCRIPT))
    async with shop.running(settings) as world, opened(world) as front:
        await front.be(IMAGE)
        await expect(front.page.get_by_role("heading", level=1)).to_have_text(f"Welcome, {IMAGE}")
        await expect(front.page.locator(".card .title").first).to_have_text(SCRIPT)
        await front.page.locator(".card .open").first.click()
        await expect(front.page.get_by_role("heading", level=1)).to_have_text(SCRIPT)
        await front.page.get_by_role("button", name="Add to cart", exact=True).click()
        await expect(front.page.get_by_role("status")).to_have_text(f"{SCRIPT} is in your cart.")
        assert await front.page.locator("img, script:not([src])").count() == 0
        assert await front.page.title() != "hacked"


async def test_with_dead_predictors_it_renders_and_says_so(online_settings: Settings, shop: Any) -> None:
    settings = shop.patient(online_settings)
    shop.publish(settings)
    shop.fill(settings.redis_url)
    async with shop.running(settings, predictors=False) as world, opened(world) as front:
        await front.be("ann")
        home = front.shelf("Home")
        await expect(home.locator(".fell")).to_contain_text("retrieval did not serve (down)")
        await expect(home.locator(".served")).to_contain_text("personal")  # the source that is missing
        await expect(home.locator("[data-item]")).to_have_count(12)
