"""Assignment: even, independent between layers, exclusive within one, and the same for ever."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from models import experiments
from models.experiments import BUCKETS, Experiment, Layer, Variant

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
EVERYBODY = range(BUCKETS)
HALVES = (Variant("a"), Variant("b"))
CHANCE = 0.001  # the units are fixed, so a test that passes once passes for ever
names = st.text("abcdefgh", min_size=1, max_size=8)
units = st.text(min_size=1, max_size=20)


@lru_cache
def buckets(layer: str) -> np.ndarray:
    """[200,000] buckets of as many users."""
    made = Layer(layer, ())
    return np.array([made.bucket(f"u{n}") for n in range(200_000)])


def assigned(*layers: Layer, unit: str = "u1", now: datetime = NOW, **facts: str) -> dict[str, str]:
    return experiments.assign(unit, layers, now, facts)


@pytest.mark.parametrize(
    ("unit", "bucket", "variant"),
    [
        ("17850", 4782, "with"),
        ("ann", 3652, "without"),
        ("ann@shop.example", 7919, "with"),
        ("s-0001", 8254, "without"),
        ("Jürgen 🛒", 5823, "without"),
    ],
)
def test_units_stay_where_they_are_in_every_process_and_for_ever(unit: str, bucket: int, variant: str) -> None:
    layer = Layer("home", [Experiment("models", EVERYBODY, (Variant("with"), Variant("without", 3)))])
    assert (layer.bucket(unit), assigned(layer, unit=unit)["models"]) == (bucket, variant)


def test_a_layer_deals_its_units_evenly() -> None:
    counts = np.bincount(buckets("one"), minlength=BUCKETS)
    assert stats.chisquare(counts).pvalue > CHANCE
    assert stats.chisquare(counts.reshape(10, -1).sum(1)).pvalue > CHANCE  # and no tenth of it is favoured


def test_two_layers_are_independent() -> None:
    together = np.zeros((20, 20), int)
    np.add.at(together, (buckets("one") // 500, buckets("two") // 500), 1)
    assert stats.chi2_contingency(together).pvalue > CHANCE


def test_variants_have_their_weights_and_do_not_depend_on_the_bucket_nor_on_another_experiment() -> None:
    weighted = Experiment("weighted", EVERYBODY, (Variant("a", 1), Variant("b", 2), Variant("c", 5)))
    other = Experiment("other", EVERYBODY, HALVES)
    together = np.zeros((10, 2, 3), int)
    for n, bucket in enumerate(buckets("one")):
        together[bucket // 1000, "ab".index(other.variant(f"u{n}")), "abc".index(weighted.variant(f"u{n}"))] += 1
    assert stats.chisquare(together.sum((0, 1)), 200_000 * np.array([1, 2, 5]) / 8).pvalue > CHANCE
    assert stats.chi2_contingency(together.reshape(20, 3)).pvalue > CHANCE


def test_two_equal_variants_are_of_equal_size() -> None:
    twins = Experiment("a_a", EVERYBODY, HALVES)
    counts = Counter(twins.variant(f"u{n}") for n in range(200_000))
    assert stats.binomtest(counts["a"], 200_000).pvalue > CHANCE


ranges = st.tuples(st.integers(0, BUCKETS), st.integers(0, BUCKETS)).map(lambda ends: range(min(ends), max(ends)))


@given(units, names, ranges, ranges)
def test_ramping_up_moves_nobody_from_one_variant_to_another(unit: str, name: str, small: range, more: range) -> None:
    large = range(min(small.start, more.start), max(small.stop, more.stop))
    before = assigned(Layer("l", [Experiment(name, small, HALVES)]), unit=unit)
    after = assigned(Layer("l", [Experiment(name, large, HALVES)]), unit=unit)
    assert before.items() <= after.items()


@given(units, st.lists(st.integers(0, BUCKETS), min_size=2, max_size=8, unique=True), st.randoms())
def test_a_unit_is_in_one_experiment_of_a_layer_at_most_and_their_order_does_not_matter(
    unit: str, ends: list[int], chance: Random
) -> None:
    ends.sort()
    made = [Experiment(f"e{n}", range(*ends[n : n + 2]), HALVES) for n in range(len(ends) - 1)]
    found = assigned(Layer("l", made), unit=unit)
    assert len(found) == (ends[0] <= Layer("l", ()).bucket(unit) < ends[-1])
    mixed = [Experiment(e.name, e.traffic, HALVES[::-1]) for e in chance.sample(made, len(made))]
    assert assigned(Layer("l", mixed), unit=unit) == found


def test_who_is_nobody_is_in_nothing() -> None:
    assert assigned(Layer("l", [Experiment("e", EVERYBODY, HALVES)]), unit="") == {}


def test_an_experiment_runs_from_its_start_until_its_end_unless_it_is_switched_off() -> None:
    timed = Experiment("e", EVERYBODY, HALVES, start=NOW, end=NOW + HOUR)
    hours = [-0.5, 0, 0.5, 1]
    assert [bool(assigned(Layer("l", [timed]), now=NOW + HOUR * h)) for h in hours] == [False, True, True, False]
    assert assigned(Layer("l", [Experiment("e", EVERYBODY, HALVES, enabled=False)])) == {}


def test_an_experiment_concerns_requests_that_meet_all_its_conditions() -> None:
    conditions = {"surface": frozenset({"home", "cart"}), "region": frozenset({"Germany"})}
    layer = Layer("l", [Experiment("e", EVERYBODY, HALVES, conditions=conditions)])
    assert assigned(layer, surface="cart", region="Germany")
    assert not assigned(layer, surface="cart", region="Norway")
    assert not assigned(layer, surface="similar", region="Germany")
    assert experiments.assign("u1", [layer], NOW)  # wherever they may go


def test_two_experiments_may_have_the_same_traffic_one_after_the_other() -> None:
    first = Experiment("first", EVERYBODY, HALVES, end=NOW)
    second = Experiment("second", EVERYBODY, HALVES, start=NOW)
    layer = Layer("l", [second, first])
    assert list(assigned(layer, now=NOW - HOUR)) == ["first"]
    assert list(assigned(layer, now=NOW)) == ["second"]


def test_experiments_of_a_layer_may_not_share_traffic() -> None:
    made = [Experiment("one", range(6000), HALVES), Experiment("two", range(5000, 9000), HALVES, start=NOW)]
    with pytest.raises(ValueError, match=r"one and two both want 50..60 % of the layer l; give each a range"):
        Layer("l", made)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"traffic": range(BUCKETS + 1)}, "range within 0..10000 buckets"),
        ({"traffic": range(0, 100, 2)}, "range within"),
        ({"variants": ()}, "needs variants"),
        ({"variants": (Variant("a"), Variant("a"))}, "a name of its own"),
        ({"variants": (Variant("a", 0),)}, r"e.a: weight must be above 0, got 0"),
        ({"start": NOW, "end": NOW}, "exchange them"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Experiment(**{"name": "e", "traffic": EVERYBODY, "variants": HALVES} | fields)
