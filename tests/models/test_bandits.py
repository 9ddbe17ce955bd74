"""Exploration policies: what they choose, how likely they say it was, and what they learn from."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import bandits

REPLAYS = 100_000
SIGMAS = 5  # of a share's sampling error; one cell in two million lies outside by chance
DAY = 86_400.0

# Rates of 30 %, 20 %, 10 %, and one that nobody knows.
FOUR = bandits.Beta(np.array([30.0, 20.0, 10.0, 1.0]), np.array([70.0, 80.0, 90.0, 4.0]))
ALL = np.ones(4, bool)


def thompson(posterior: bandits.Beta = FOUR, particles: int = 64) -> bandits.Particles:
    return bandits.thompson(posterior, "v1", "e1", particles)


def greedy(means: list[float] | None = None, epsilon: float = 0.3) -> bandits.EpsilonGreedy:
    return bandits.EpsilonGreedy(np.array(means) if means else FOUR.mean, epsilon, "v1", "e1")


def linear() -> bandits.Particles:
    """Four arms of two features, after a few outcomes."""
    known = bandits.Regression.of([[1, 0], [1, 1], [0, 1], [1, 0]], [1, 0, 0, 1])
    return bandits.linear(known, 0.5, "v1", "e1", particles=64).on([[1, 0], [0, 1], [1, 1], [0.5, 0.2]])


@pytest.mark.parametrize("made", [thompson, greedy, linear])
def test_a_hundred_thousand_replays_show_what_was_logged(made: Callable[[], bandits.Policy]) -> None:
    policy = made()
    allowed = np.array([True, True, False, True])
    shown = np.zeros((2, 4), int)
    for number in range(REPLAYS):
        shown[[0, 1], policy.choose(f"request-{number}", allowed, 2).rows] += 1
    logged = policy.propensities(allowed, 2)
    error = np.sqrt(logged * (1 - logged) / REPLAYS)
    assert (np.abs(shown / REPLAYS - logged) <= SIGMAS * error).all()
    assert not shown[:, 2].any(), "an arm that is not allowed is never shown"


@given(
    st.lists(st.floats(0.1, 50), min_size=1, max_size=6), st.data(), st.integers(1, 7), st.sampled_from([0.0, 0.3, 1.0])
)
def test_a_choice_is_allowed_different_and_as_likely_as_its_slot_says(
    alphas: list[float], data: st.DataObject, k: int, epsilon: float
) -> None:
    posterior = bandits.Beta(np.array(alphas), np.ones(len(alphas)))
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(alphas), max_size=len(alphas))))
    for policy in (thompson(posterior, particles=16), bandits.EpsilonGreedy(posterior.mean, epsilon, "v1", "e1")):
        found = policy.choose("r", allowed, k)
        every = policy.propensities(allowed, k)
        count = min(k, int(allowed.sum()))
        assert len(set(found.rows)) == len(found.rows) == count
        assert allowed[found.rows].all()
        assert every.shape == (count, len(alphas))
        assert every.sum(axis=1) == pytest.approx(np.ones(count))
        assert (every.sum(axis=0) <= 1 + 1e-9).all(), "an arm is shown at most once"
        assert not every[:, ~allowed].any()
        assert found.propensities.tolist() == every[np.arange(count), found.rows].tolist()
        assert (found.propensities > 0).all()


def test_a_thompson_propensity_is_a_share_of_particles() -> None:
    draws = np.array([[0.9, 0.5, 0.1], [0.8, 0.2, 0.3], [0.1, 0.7, 0.7], [0.6, 0.4, 0.2]], np.float32)
    policy = bandits.Particles(draws, "thompson", "v1", "e1")
    first, second = policy.propensities(np.ones(3, bool), 2).tolist()
    assert first == [0.75, 0.25, 0], "of two equal arms the first row comes first"
    assert second == [0, 0.5, 0.5]
    chosen = [policy.choose(name, np.ones(3, bool), 2) for name in "abcdefgh"]
    assert {(*found.rows.tolist(), *found.propensities.tolist()) for found in chosen} == {
        (0, 1, 0.75, 0.5),
        (0, 2, 0.75, 0.5),
        (1, 2, 0.25, 0.5),
    }


@given(st.integers(1, 5), st.floats(0, 1))
def test_the_propensities_of_epsilon_greedy_are_those_of_all_its_ways(arms: int, epsilon: float) -> None:
    expected = np.zeros((arms, arms))
    for ranks in itertools.permutations(range(arms)):
        left, chance = list(range(arms)), 1.0
        for rank in ranks:
            others = len(left) - 1
            chance *= (1 - epsilon if rank == left[0] else epsilon / others) if others else 1.0
            left.remove(rank)
        expected[np.arange(arms), ranks] += chance
    means = np.linspace(0.9, 0.1, arms).tolist()
    found = greedy(means, epsilon).propensities(np.ones(arms, bool), arms)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_epsilon_greedy_shows_the_best_and_now_and_then_another() -> None:
    policy = greedy([0.1, 0.4, 0.4, 0.2], epsilon=0.3)
    assert policy.propensities(ALL, 1)[0] == pytest.approx([0.1, 0.7, 0.1, 0.1])
    assert greedy(epsilon=0.0).choose("r", ALL, 3).rows.tolist() == [0, 1, 3]


@pytest.mark.parametrize("made", [thompson, greedy, linear])
def test_a_request_id_is_the_only_chance(made: Callable[[], bandits.Policy]) -> None:
    first, again = made().choose("r1", ALL, 3), made().choose("r1", ALL, 3)
    assert first.rows.tolist() == again.rows.tolist()
    assert first.propensities.tolist() == again.propensities.tolist()
    pages = {tuple(made().choose(f"r{number}", ALL, 3).rows) for number in range(50)}
    assert len(pages) > 1
    assert (first.version, first.edition) == ("v1", "e1")


def test_a_new_edition_draws_anew() -> None:
    assert not np.array_equal(thompson().draws, bandits.thompson(FOUR, "v1", "e2", 64).draws)
    assert not np.array_equal(thompson().draws, bandits.thompson(FOUR, "v2", "e1", 64).draws)


def test_the_particles_are_the_posterior() -> None:
    draws = np.exp(bandits.thompson(FOUR, "v1", "e1").draws)
    assert draws.mean(axis=0) == pytest.approx(FOUR.mean, abs=1e-4)
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.15, "arms are drawn independently"


def test_the_better_arm_and_of_equal_means_the_uncertain_one_is_shown_more() -> None:
    better = thompson(bandits.Beta(np.array([6.0, 4.0]), np.array([4.0, 6.0])), 1024)
    assert better.propensities(np.ones(2, bool), 1)[0, 0] > 0.7
    # All of mean 10 %: one arm hardly known among five that are.
    unsure = thompson(bandits.Beta(np.array([1.0] + [100.0] * 5), np.array([9.0] + [900.0] * 5)), 1024)
    first = unsure.propensities(np.ones(6, bool), 1)[0]
    assert first[0] > first[1:].max() + 0.1


def test_new_arms_of_a_low_rate_have_equal_chances() -> None:
    """Four pseudo-observations at 0.05 %: most draws are smaller than any float32."""
    rare = bandits.brand_prior([0] * 4, [0] * 4, overall=0.0005)
    assert thompson(rare, 1024).propensities(ALL, 1)[0] == pytest.approx([0.25] * 4, abs=0.05)


def regret(policy: Callable[[bandits.Beta, str], bandits.Policy], seed: int) -> float:
    """Expected successes lost over 5,000 rounds on 20 arms, with a new edition every 50 rounds."""
    rng = np.random.default_rng(seed)
    rates = rng.permutation(np.linspace(0.05, 0.5, 20))
    won, lost, lacking = np.zeros(20), np.zeros(20), 0.0
    for edition in range(100):
        made = policy(bandits.Beta(1 + won, 1 + lost), str(edition))
        for number in range(50):
            (arm,) = made.choose(f"{seed}-{edition}-{number}", np.ones(20, bool), 1).rows
            success = rng.random() < rates[arm]
            won[arm] += success
            lost[arm] += not success
            lacking += rates.max() - rates[arm]
    return lacking


def test_thompson_loses_less_than_epsilon_greedy_and_both_less_than_chance() -> None:
    lost = {
        "thompson": lambda posterior, edition: bandits.thompson(posterior, "v1", edition, 64),
        "greedy": lambda posterior, edition: bandits.EpsilonGreedy(posterior.mean, 0.1, "v1", edition),
    }
    mean = {name: np.mean([regret(policy, seed) for seed in range(3)]) for name, policy in lost.items()}
    chance = 5_000 * (0.5 - 0.275)
    assert mean["thompson"] < 0.75 * mean["greedy"]
    assert mean["greedy"] < 0.5 * chance


def test_linear_finds_which_arm_is_best_for_whom() -> None:
    """Arm 0 pleases visitors of kind +1 and arm 1 those of kind -1, which no arm's own rate could tell."""
    rng = np.random.default_rng(5)
    known = bandits.Regression(np.zeros((2, 2)), np.zeros(2))

    def arms(kind: int) -> list[list[int]]:
        return [[kind, 0], [0, kind]]

    for edition in range(20):
        policy = bandits.linear(known, 0.5, "v1", str(edition), particles=128)
        shown, rewards = [], []
        for number in range(25):
            kind = int(rng.choice([-1, 1]))
            (arm,) = policy.on(arms(kind)).choose(f"{edition}-{number}", np.ones(2, bool), 1).rows
            shown.append(arms(kind)[arm])
            rewards.append(float(rng.random() < (0.8 if (arm == 0) == (kind == 1) else 0.2)) - 0.5)
        known += bandits.Regression.of(shown, rewards)
    policy = bandits.linear(known, 0.5, "v1", "last")
    assert policy.on(arms(1)).propensities(np.ones(2, bool), 1)[0, 0] > 0.95
    assert policy.on(arms(-1)).propensities(np.ones(2, bool), 1)[0, 1] > 0.95


def test_linear_weights_are_drawn_from_their_posterior() -> None:
    known = bandits.Regression.of([[1, 0], [1, 1], [0, 2]], [1, 0, 1])
    weights = bandits.linear(known, 0.5, "v1", "e1", ridge=2.0, particles=4096).weights
    precision = np.array([[4.0, 1.0], [1.0, 7.0]])  # ridge 2, and the sum of x xᵀ
    assert weights.mean(axis=0) == pytest.approx(np.linalg.solve(precision, [1.0, 2.0]), abs=1e-3)
    np.testing.assert_allclose(np.cov(weights.T), 0.25 * np.linalg.inv(precision), rtol=0.1, atol=2e-3)


def test_updates_of_the_regression_add_up_and_fade() -> None:
    one, two = bandits.Regression.of([[1, 2]], [1]), bandits.Regression.of([[3, 0], [0, 1]], [0, 1])
    both = bandits.Regression.of([[1, 2], [3, 0], [0, 1]], [1, 0, 1])
    np.testing.assert_array_equal((one + two).gram, both.gram)
    np.testing.assert_array_equal((one + two).moment, both.moment)
    faded = one.decayed(2 * DAY, half_life=DAY)
    assert faded.gram.tolist() == [[0.25, 0.5], [0.5, 1.0]]
    assert faded.moment.tolist() == [0.25, 0.5]


def test_counts_lose_half_their_weight_in_a_half_life_and_the_prior_none() -> None:
    prior = bandits.Beta(np.array([1.0]), np.array([3.0]))
    found = bandits.decayed([8, 8, 8], [40, 40, 40], [0, 7 * DAY, 1e12], 7 * DAY, prior)
    assert found.alpha.tolist() == [9, 5, 1]
    assert found.beta.tolist() == [43, 23, 3]


def test_a_new_item_starts_where_its_brand_is() -> None:
    # No evidence; 100 trials at 30 %, as many as the overall rate weighs; a great many at 30 %.
    found = bandits.brand_prior([0, 30, 3e9], [0, 70, 7e9], overall=0.1, weight=4, evidence=100)
    assert found.mean == pytest.approx([0.1, 0.2, 0.3])
    assert (found.alpha + found.beta).tolist() == pytest.approx([4, 4, 4])


@pytest.mark.parametrize(
    ("page", "share", "expected"),
    [(20, 0.1, [5, 15]), (20, 0.3, [2, 5, 8, 12, 15, 18]), (20, 0.0, []), (10, 0.1, [5]), (1, 1.0, []), (0, 0.5, [])],
)
def test_slots_are_spread_over_the_page(page: int, share: float, expected: list[int]) -> None:
    assert bandits.slots(page, share).tolist() == expected


@given(st.integers(0, 300), st.floats(0, 1))
def test_slots_are_as_many_as_the_share_says_and_never_the_first(page: int, share: float) -> None:
    found = bandits.slots(page, share)
    assert abs(len(found) - min(page * share, max(page - 1, 0))) <= 0.5 + 1e-6
    assert (np.diff(found) > 0).all()
    assert ((found >= 1) & (found < page)).all()
    gaps = np.diff(found)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1, "evenly"


def test_a_newcomer_explores_more() -> None:
    assert [bandits.rate(seen, normal=0.1, newcomer=0.3) for seen in (0, 9, 10, 500)] == [0.3, 0.3, 0.1, 0.1]


def test_no_arm_no_slot() -> None:
    for policy in (thompson(), greedy()):
        found = policy.choose("r", np.zeros(4, bool), 2)
        assert (found.rows.shape, found.propensities.shape) == ((0,), (0,))
    assert thompson().choose("r", np.array([False, True, False, False]), 2).propensities.tolist() == [1]


ONE = bandits.Beta(np.ones(1), np.ones(1))
KNOWN = bandits.Regression(np.eye(2), np.zeros(2))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bandits.decayed([-1], [0], [0], DAY, ONE), "successes must be 0 or more, got -1"),
        (lambda: bandits.decayed([1], [np.nan], [0], DAY, ONE), "failures must be 0 or more, got nan"),
        (lambda: bandits.decayed([1], [1], [-5], DAY, ONE), "age must be seconds, 0 or more, got -5"),
        (lambda: bandits.decayed([1], [1], [0], 0, ONE), "half_life must be seconds above 0, got 0"),
        (lambda: bandits.Beta(np.zeros(1), np.ones(1)), "alpha must be above 0; a prior keeps it there, got 0"),
        (lambda: bandits.Beta(np.ones(1), np.ones(2)), r"alpha is \(1,\), beta \(2,\)"),
        (lambda: bandits.brand_prior([1], [1], 0.0), "overall must be above 0 and below 1, got 0.0"),
        (lambda: bandits.brand_prior([-2], [1], 0.1), "successes must be 0 or more, got -2"),
        (lambda: thompson().choose("r", ALL, 0), "k must be 1 or more, got 0"),
        (lambda: greedy().choose("r", ALL, 0), "k must be 1 or more, got 0"),
        (lambda: thompson().choose("r", ALL[:2], 1), r"allowed must be \[4\] bool, got \[2\] bool"),
        (lambda: greedy().choose("r", np.ones(4), 1), r"allowed must be \[4\] bool, got \[4\] float64"),
        (lambda: thompson(particles=0), "particles must be 1 or more, got 0"),
        (lambda: greedy([0.1, np.nan]), "means must be finite, got nan"),
        (lambda: greedy(epsilon=1.5), r"epsilon must be in 0..1, got 1.5"),
        (lambda: bandits.slots(20, 1.1), r"share must be in 0..1, got 1.1"),
        (lambda: bandits.slots(20, np.nan), r"share must be in 0..1, got nan"),
        (lambda: bandits.slots(-1, 0.1), "page must be 0 or more, got -1"),
        (lambda: bandits.rate(-1, 0.1, 0.3), "interactions must be 0 or more, got -1"),
        (lambda: bandits.rate(3, 0.1, -0.3), r"newcomer must be in 0..1, got -0.3"),
        (lambda: bandits.Regression.of([[np.inf]], [1]), "features must be finite, got inf"),
        (lambda: bandits.Regression.of([[1, 2]], [1, 2]), r"features are \(1, 2\), rewards \(2,\)"),
        (lambda: bandits.Regression(np.eye(2), np.zeros(3)), r"gram is \(2, 2\), moment \(3,\)"),
        (lambda: KNOWN + bandits.Regression(np.eye(1), np.zeros(1)), "1 features do not add to 2"),
        (lambda: bandits.linear(KNOWN, 0.0, "v1", "e1"), "spread must be above 0, got 0"),
        (lambda: bandits.linear(bandits.Regression(-2 * np.eye(2), np.zeros(2)), 1, "v1", "e1"), "semidefinite"),
        (lambda: bandits.linear(KNOWN, 1, "v1", "e1").on([[1, 2, 3]]), r"must be \[arms, 2\], got \(1, 3\)"),
        (lambda: bandits.linear(KNOWN, 1, "v1", "e1").on([[1, np.nan]]), "features must be finite, got nan"),
        (lambda: bandits.linear(KNOWN, 1, "v1", "e1").on([[1, 1e300]]), "linear draws values that are not finite"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
