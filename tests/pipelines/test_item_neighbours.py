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
    found = item_neighbours.fit(SHOP, ITEMS, ease_items).links["together"]
    strongest = found.other[np.arange(4), found.weight.argmax(1)]
    assert strongest[MUG] == TEA
    assert strongest[TEA] == MUG
    assert found.weight[LAMP].max() == 0
    assert (found.other[found.weight == 0] == -1).all()
    assert not (found.other == np.arange(4)[:, None]).any()  # nobody is its own neighbour


def test_a_catalogue_too_large_for_ease_is_related_by_cosines() -> None:
    assert [item_neighbours.together(items, ease_items=4) for items in (3, 4, 5)] == ["ease", "ease", "cosines"]
    assert item_neighbours.together(1, ease_items=0) == "cosines"


def test_a_cosine_is_shrunk_by_how_few_visitors_it_rests_on() -> None:
    found = item_neighbours.cosines(SHOP, 4)
    of_mug = dict(zip(found.other[MUG].tolist(), found.weight[MUG].tolist(), strict=True))
    assert of_mug[TEA] == pytest.approx(50 / np.sqrt(51 * 50) * 50 / 60)
    assert of_mug[RUG] == pytest.approx(10 / np.sqrt(51 * 40) * 10 / 20)


def test_a_large_catalogue_is_taken_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = item_neighbours.cosines(SHOP, 4)
    monkeypatch.setattr(item_neighbours, "BLOCK", 3)
    parts = item_neighbours.cosines(SHOP, 4)
    np.testing.assert_array_equal(parts.other, whole.other)
    np.testing.assert_array_equal(parts.weight, whole.weight)


def test_what_comes_next_has_a_direction_and_fades_with_the_events_between() -> None:
    pairs = [(visitor, item) for visitor in range(10) for item in (MUG, TEA, RUG)]
    visitor, item = np.array(pairs).T
    age = np.array([3.0, 2.0, 1.0] * 10)
    order = np.random.default_rng(1).permutation(30)
    order = order[np.argsort(visitor[order], kind="stable")]  # by visitor, in no order of time
    watched = baselines.Interactions(visitor[order], item[order], age[order], np.ones(30))
    found = item_neighbours.followers(watched, 4)
    of_mug = dict(zip(found.other[MUG].tolist(), found.weight[MUG].tolist(), strict=True))
    later = 10 * 2**-0.25
    assert of_mug[TEA] == pytest.approx(10 / 10 * 10 / 13)
    assert of_mug[RUG] == pytest.approx(later / 10 * later / (later + 3))
    assert found.weight[RUG].sum() == 0
    assert found.weight[LAMP].sum() == 0
