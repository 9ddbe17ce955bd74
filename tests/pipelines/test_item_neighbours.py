"""What visitors had together, in a shop where tea goes with mugs and nothing with a lamp."""

import numpy as np
import pytest

from pipelines import baselines, item_neighbours

ITEMS = ["lamp", "mug", "rug", "tea"]
LAMP, MUG, RUG, TEA = range(4)


def seen(*baskets: tuple[int, ...]) -> baselines.Interactions:
    pairs = [(visitor, item) for visitor, basket in enumerate(baskets) for item in basket]
    visitor, item = np.array(pairs).T
    return baselines.Interactions(visitor, item, np.zeros(len(pairs)), np.ones(len(pairs)))


SHOP = seen(*[(MUG, TEA)] * 40, *[(MUG, TEA, RUG)] * 10, *[(LAMP,)] * 30, *[(RUG,)] * 30, (MUG, MUG))


@pytest.mark.parametrize("ease_items", [0, 100], ids=["cosine", "ease"])
def test_the_strongest_neighbour_comes_from_the_same_baskets(ease_items: int) -> None:
    found = item_neighbours.fit(SHOP, ITEMS, ease_items)
    strongest = found.other[np.arange(4), found.weight.argmax(1)]
    assert strongest[MUG] == TEA
    assert strongest[TEA] == MUG
    assert found.weight[LAMP].max() == 0
    assert (found.other[found.weight == 0] == -1).all()
    assert not (found.other == np.arange(4)[:, None]).any()  # nobody is its own neighbour


def test_a_cosine_is_shrunk_by_how_few_visitors_it_rests_on() -> None:
    found = item_neighbours.fit(SHOP, ITEMS, ease_items=0)
    of_mug = dict(zip(found.other[MUG].tolist(), found.weight[MUG].tolist(), strict=True))
    assert of_mug[TEA] == pytest.approx(50 / np.sqrt(51 * 50) * 50 / 60)
    assert of_mug[RUG] == pytest.approx(10 / np.sqrt(51 * 40) * 10 / 20)


def test_a_large_catalogue_is_taken_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = item_neighbours.fit(SHOP, ITEMS, ease_items=0)
    monkeypatch.setattr(item_neighbours, "BLOCK", 3)
    parts = item_neighbours.fit(SHOP, ITEMS, ease_items=0)
    np.testing.assert_array_equal(parts.other, whole.other)
    np.testing.assert_array_equal(parts.weight, whole.weight)
