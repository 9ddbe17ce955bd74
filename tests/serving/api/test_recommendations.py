"""What a shopper gets on each surface, and what a caller gets wrong."""

from typing import Any

import pytest

pytestmark = pytest.mark.services


async def test_a_known_shopper_gets_the_order_of_the_ranker(world: Any) -> None:
    page = await world.page(user_id="ann", count=5)
    assert page["rung"] == "ranked"
    print(page)
    r = await world.get(user_id="ann", count=5)
    print(r.headers)
