"""Names that the catalogue does not know, and limits on prices in a shop of several currencies."""

from typing import Any

import pytest

pytestmark = pytest.mark.services
EURO = {
    "item_id": "euro",
    "title": "Thing in euros",
    "category": "Toys > big",
    "brand": "Zenith",
    "price": 12.5,
    "currency": "EUR",
    "created_at": "2024-02-29T12:00:00Z",
    "available": True,
}


async def tell(world: Any, *rows: Any) -> None:
    answer = await world.http.put("/api/v1/items", json={"items": list(rows)})
    assert answer.status_code == 202
    parts = world.app.state.parts
    await parts.changed.poll(parts.watcher)


async def problem(world: Any, **asked: Any) -> tuple[int, str, str]:
    answer = await world.get(**asked)
    told = answer.json()
    return answer.status_code, told["type"].rpartition(":")[2], told["detail"]


async def prices(world: Any, **asked: Any) -> set[tuple[float, str]]:
    page = await world.page(user_id="ann", count=100, **asked)
    return {(item["price"], item["currency"]) for item in page["items"]}


@pytest.mark.parametrize(
    ("asked", "kind", "nearest", "words"),
    [
        ({"brand": "acne"}, "unknown-brand", ["Acme"], "it is one of Acme; did you mean 'Acme'?"),
        ({"brand": "Qx"}, "unknown-brand", [], "it is one of Acme"),
        ({"category": "Toy"}, "unknown-category", ["Toys"], "it is one of Books, Garden, Home, Toys, Books > big, …"),
        ({"category": "toys > bigg"}, "unknown-category", ["Toys > big"], "did you mean 'Toys > big'"),
    ],
)
async def test_an_unknown_brand_or_category_is_404_with_names(
    world: Any, asked: dict[str, str], kind: str, nearest: list[str], words: str
) -> None:
    answer = await world.get(user_id="ann", **asked)
    told = answer.json()
    assert (answer.status_code, told["type"]) == (404, f"urn:recsys:problem:{kind}")
    assert told["nearest"][: len(nearest)] == nearest
    assert words in told["detail"]


async def test_a_brand_that_the_api_was_told_of_is_known(world: Any) -> None:
    assert (await world.get(user_id="ann", brand="Zenith")).status_code == 404
    await tell(world, EURO)
    page = await world.page(user_id="ann", brand="Zenith", count=10)
    assert [item["item_id"] for item in page["items"]] == ["euro"]


async def test_a_shop_with_one_currency_needs_no_name_for_it(world: Any) -> None:
    without = await prices(world, min_price=11, max_price=19)
    assert without == await prices(world, min_price=11, max_price=19, currency="GBP") != set()
    assert await problem(world, max_price=19, currency="EUR") == (
        422,
        "unknown-currency",
        "no prices in currency 'EUR' in release r1; its items have prices in GBP",
    )
    assert (await problem(world, currency="GBP"))[:2] == (400, "currency-unused")


async def test_prices_of_several_currencies_are_not_compared(world: Any) -> None:
    await tell(world, EURO)
    for limits in ({"min_price": 11}, {"max_price": 19}):
        status, kind, detail = await problem(world, user_id="ann", **limits)
        assert (status, kind) == (422, "currency-missing")
        assert "EUR, GBP" in detail
    assert await prices(world, min_price=11, max_price=19, currency="EUR") == {(12.5, "EUR")}
    pounds = await prices(world, min_price=11, max_price=19, currency="GBP")
    assert {currency for _, currency in pounds} == {"GBP"}
    assert {price for price, _ in pounds} <= set(range(11, 20))
    assert (await problem(world, max_price=19, currency="JPY"))[:2] == (422, "unknown-currency")
    assert (12.5, "EUR") in await prices(world), "without limits, all are there"


async def test_a_page_says_how_far_the_data_of_its_release_reach(world: Any) -> None:
    assert (await world.page(user_id="ann"))["data_as_of"] == "2024-03-01T00:00:00+00:00"
