"""The planted truth: who likes what, and how strongly it shows."""

import numpy as np
import pytest

from simulator import behaviour, catalogue, frame, shelf, vocabulary, world
from simulator.catalogue import DAY_US
from simulator.world import Plan, World

PLAN = Plan(users=2000, items=1000, events=150_000, days=20)


@pytest.fixture(scope="module")
def shop() -> World:
    return world.build(PLAN)


@pytest.fixture(scope="module")
def crowd(shop: World) -> frame.Frame:
    """Ten thousand honest visits of one day."""
    return behaviour.people(shop, 10, 10_000)


def test_the_vocabulary_has_at_least_eight_top_categories_with_three_levels() -> None:
    assert len(vocabulary.TOPS) >= 8
    assert all(leaf.path.count(" > ") == 2 for leaf in vocabulary.LEAVES)
    assert all(leaf.nouns and leaf.materials and leaf.price > 0 for leaf in vocabulary.LEAVES)


def test_popularity_falls_with_rank_as_zipf_says(shop: World) -> None:
    weights = np.sort(shop.items.weight)[::-1]
    slope = np.polyfit(np.log(np.arange(1, len(weights) + 1)), np.log(weights), 1)[0]
    assert slope == pytest.approx(-catalogue.ZIPF, abs=0.01)


def test_shown_items_are_skewed(shop: World, crowd: frame.Frame) -> None:
    counts = np.sort(np.bincount(crowd.item, minlength=len(shop.items)))[::-1]
    assert counts[:100].sum() > 0.35 * counts.sum()  # a tenth of the items, over a third of the attention


def test_clicks_per_liking_follow_the_attention_curve(shop: World, crowd: frame.Frame) -> None:
    shown, clicked = crowd.take(crowd.kind == frame.IMPRESSION), crowd.take(crowd.kind == frame.CLICK)
    tastes = shop.shoppers.taste_at(10 / PLAN.days)
    liking = behaviour.sigmoid(shop.click_logit(tastes, shown.user, shown.item, 10))
    looked = np.bincount(clicked.position, minlength=10) / np.bincount(shown.position, liking, minlength=10)
    assert looked == pytest.approx(world.attention()[:10], abs=0.03)


def test_a_ranker_that_knows_the_truth_clearly_beats_popularity(shop: World) -> None:
    rng = np.random.default_rng(1)
    users = rng.integers(len(shop.shoppers), size=200)
    tastes, goods = shop.shoppers.taste_at(0.5), shelf.of_day(shop, 10).present

    def click_rate(items: np.ndarray) -> float:
        logit = shop.click_logit(tastes, np.repeat(users, items.shape[1]), items.ravel(), 10)
        return float(behaviour.sigmoid(logit).mean())

    popular = goods[np.argsort(-shop.demand(10)[goods])][:10]
    everywhere = np.tile(goods, (len(users), 1))
    logits = shop.click_logit(tastes, np.repeat(users, len(goods)), everywhere.ravel(), 10).reshape(len(users), -1)
    personal = np.take_along_axis(everywhere, np.argsort(-logits, axis=1)[:, :10], axis=1)
    by_popularity, by_truth = click_rate(np.tile(popular, (len(users), 1))), click_rate(personal)
    assert 0.03 < by_popularity < 0.4
    assert by_truth > 2.5 * by_popularity
    assert by_truth < 0.95  # life stays noisy


def test_no_item_is_shown_before_it_arrives_nor_abroad(shop: World, crowd: frame.Frame) -> None:
    assert (shop.items.created[crowd.item] < crowd.time).all()
    assert shop.items.regions[crowd.item, shop.shoppers.region[crowd.user]].all()


def test_no_page_shows_an_item_twice_and_positions_have_no_gap(crowd: frame.Frame) -> None:
    shown = crowd.take(crowd.kind == frame.IMPRESSION)
    assert len(set(zip(shown.request.tolist(), shown.item.tolist(), strict=True))) == len(shown)
    pages = np.bincount(np.unique(shown.request, return_inverse=True)[1])
    last = np.zeros(len(pages), np.int64)
    np.maximum.at(last, np.unique(shown.request, return_inverse=True)[1], shown.position)
    assert (last == pages - 1).all()


def test_new_items_arrive_on_every_day(shop: World) -> None:
    day = (shop.items.created - PLAN.start_us) // DAY_US
    assert set(range(PLAN.days)) <= set(day.tolist())


def test_stated_preferences_tell_of_the_taste(shop: World) -> None:
    affinity = shop.shoppers.taste @ shop.space.leaves.T
    favourite = [vocabulary.LEAVES[leaf].top for leaf in affinity.argmax(axis=1)]
    said = [(stated, best) for stated, best in zip(shop.shoppers.preferences, favourite, strict=True) if stated]
    hits = np.mean([best in stated for stated, best in said])
    assert 0.6 < len(said) / len(shop.shoppers) < 0.9
    assert hits > 0.6  # by chance it would be below a fifth


def test_tastes_drift_but_stay_of_length_one(shop: World) -> None:
    before, after = shop.shoppers.taste_at(0.0), shop.shoppers.taste_at(1.0)
    assert np.linalg.norm(after, axis=1) == pytest.approx(1.0)
    cosine = np.einsum("nd,nd->n", before, after)
    assert 0.7 < cosine.min() < 0.75  # a quarter turn's half at most
    assert cosine.mean() < 0.95


def test_text_carries_the_style(shop: World) -> None:
    for row in range(50):
        style = vocabulary.STYLES[shop.items.style[row]]
        assert any(adjective in shop.items.titles[row] for adjective in style.adjectives)
        assert style.sentence in shop.items.descriptions[row]
