"""The quality factor: its bounds, its pace, what it saves under overload, and what a page says of it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import inference
from recsys.settings import Settings
from serving.api import quality
from serving.api.quality import Quality

MINIMUM = 0.2
FINE, SLOW, LATE = 0.3, 0.9, 1.0  # times of a call as shares of its deadline

calls = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 5)), max_size=200)  # share of the deadline, seconds since


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def factors(shares: Sequence[float], seconds: Sequence[float]) -> Iterator[float]:
    """The factor after each of these calls."""
    clock = Clock()
    made = Quality(MINIMUM, clock=clock)
    for share, gap in zip(shares, seconds, strict=True):
        clock.now += gap
        made.observe(share)
        yield made.factor


def after(*runs: tuple[int, float], per_second: float = 30) -> float:
    """The factor after so many calls of each share of the deadline."""
    shares = [share for count, share in runs for _ in range(count)]
    return list(factors(shares, [1 / per_second] * len(shares)))[-1]


@given(calls)
def test_it_is_never_out_of_bounds(made: list[tuple[float, float]]) -> None:
    assert all(MINIMUM <= factor <= 1 for factor in factors([share for share, _ in made], [gap for _, gap in made]))


@given(calls, st.data())
def test_slower_calls_never_raise_it(made: list[tuple[float, float]], data: st.DataObject) -> None:
    if made:
        shares, seconds = zip(*made, strict=True)
        slower = [share + data.draw(st.floats(0, 1)) for share in shares]
        pairs = zip(factors(slower, seconds), factors(shares, seconds), strict=True)
        assert all(below <= above + 1e-9 for below, above in pairs)


@given(calls)
def test_it_recovers_from_anything_in_twenty_seconds_of_quick_calls(made: list[tuple[float, float]]) -> None:
    shares, seconds = [share for share, _ in made], [gap for _, gap in made]
    assert list(factors([*shares, *[FINE] * 600], [*seconds, *[1 / 30] * 600]))[-1] == 1


def test_a_second_of_slow_calls_at_thirty_a_second_reaches_the_minimum_and_so_do_ten_that_are_late() -> None:
    assert after((29, SLOW)) > MINIMUM
    assert after((30, SLOW)) == pytest.approx(MINIMUM)
    assert after((9, LATE)) > MINIMUM
    assert after((10, LATE)) == pytest.approx(MINIMUM)


def test_it_rests_where_one_call_in_twenty_one_is_slow() -> None:
    assert after((300, SLOW), *[(20, FINE), (1, SLOW)] * 10) == pytest.approx(MINIMUM)
    assert after((300, SLOW), *[(25, FINE), (1, SLOW)] * 10) > MINIMUM
    assert after(*[(20, FINE), (1, SLOW)] * 100) == pytest.approx(after((20, FINE), (1, SLOW)))


@pytest.mark.parametrize("per_second", [0.2, 3, 30])
def test_a_quiet_shop_recovers_as_soon_as_a_busy_one(per_second: float) -> None:
    quick = int(21 * per_second) or 4
    assert after((30, LATE), (quick, FINE), per_second=per_second) == 1


def test_slowness_right_after_the_start_does_not_count() -> None:
    clock = Clock()
    made = Quality(MINIMUM, delay=10, clock=clock)
    for clock.now in range(10):
        made.observe(LATE)
    assert made.factor == 1
    clock.now = 10
    made.observe(LATE)
    assert made.factor < 1


def test_a_minimum_of_one_asks_for_everything_always() -> None:
    made = Quality(1.0)
    made.observe(LATE)
    assert made.factor == 1


def test_quotas_shrink_alike_down_to_what_a_ranker_and_a_page_need() -> None:
    wanted = {"personal": 400, "together": 40, "new": 10}
    assert quality.scaled(wanted, 1.0, page=20) == wanted
    assert quality.scaled(wanted, 0.5, page=20) == {"personal": 200, "together": 20, "new": 5}
    assert quality.scaled(wanted, 0.1, page=20) == {"personal": 89, "together": 9, "new": 3}  # 100, each rounded up
    assert sum(quality.scaled(wanted, 0.1, page=100).values()) in range(200, 203)
    assert quality.scaled({"new": 10}, 0.1, page=20) == {"new": 10}


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 3000), min_size=1), st.floats(0.01, 1), st.integers(1, 100))
def test_no_quota_grows_vanishes_or_leaves_too_little(wanted: dict[str, int], factor: float, page: int) -> None:
    kept = quality.scaled(wanted, factor, page)
    assert all(1 <= kept[name] <= wanted[name] for name in wanted)
    assert sum(kept.values()) >= min(sum(wanted.values()), max(100, 2 * page))
    assert sum(kept.values()) >= factor * sum(wanted.values()) - 1e-6


def simulated(per_second: float, minimum: float, seconds: float = 60) -> float:
    """The share of late answers of one server under Poisson arrivals, without sleeping.

    A full request takes 600 × 80 µs = 48 ms of the server; the caller waits for 50. The server takes requests in
    their order, and leaves out those that nobody waits for any more, as gRPC does.
    """
    rng, clock = np.random.default_rng(7), Clock()
    made = Quality(minimum, clock=clock)
    arrivals = np.cumsum(rng.exponential(1 / per_second, int(per_second * seconds))).tolist()
    free, late, known = 0.0, 0, []  # known: when the caller learns how its call went, and how it went
    for arrival in arrivals:
        known.sort()
        while known and known[0][0] <= arrival:
            clock.now, share = known.pop(0)
            made.observe(share)
        candidates = sum(quality.scaled({"personal": 600}, made.factor, page=20).values())
        begins = max(arrival, free)
        if begins - arrival < 0.05:
            free = begins + candidates * 80e-6
        spent = min((free if begins - arrival < 0.05 else np.inf) - arrival, 0.05)
        late += spent >= 0.05
        known.append((arrival + spent, spent / 0.05))
    return late / len(arrivals)


@pytest.mark.parametrize("per_second", [25, 30, 45])
def test_under_overload_fewer_candidates_keep_the_deadline(per_second: float) -> None:
    assert simulated(per_second, minimum=1.0) > 0.5
    assert simulated(per_second, MINIMUM) < 0.05


def test_without_load_nothing_is_taken_away() -> None:
    assert list(factors([FINE] * 100, [0.01] * 100)) == [1.0] * 100


@pytest.mark.services
async def test_a_slow_ranker_is_asked_about_fewer_items_and_the_page_says_so(
    online_settings: Settings, shop: Any
) -> None:
    api = shop.patient(online_settings).api.model_copy(
        update={"ranking_deadline_ms": 400, "quality_delay_seconds": 0.0}
    )
    settings = online_settings.model_copy(update={"api": api})
    shop.publish(settings, count=1000)
    shop.fill(settings.redis_url)
    async with shop.running(settings) as world:
        world.retrieval.answer = lambda request: wide(request.k)
        world.ranking.per_item = 0.00125  # more than 400 candidates are too many
        pages = [await world.page(user_id="ann", count=5) for _ in range(12)]
        assert (pages[0]["rung"], pages[0]["degraded"], pages[0]["quality"]) == ("retrieval", True, 1)
        assert all(page["rung"] == "ranked" and not page["degraded"] for page in pages[5:])
        page = pages[-1]
        assert page["quality"] < 0.75
        assert len(world.ranking.asked[-1].item_ids) < 0.75 * len(world.ranking.asked[0].item_ids)
        assert page["notes"] == [
            f"the models are slow now, so {page['quality']:.0%} of the usual candidates were looked at"
        ]
        assert await world.metric("recsys_api_quality_factor") < 0.75
        later = await world.page(user_id="ann", count=5, cursor=page["cursor"])
        assert (later["quality"], later["notes"]) == (page["quality"], page["notes"])
        assert (await world.page(surface="trending", count=5))["quality"] == 1

        world.ranking.per_item = 0.0
        faster = [await world.page(user_id="ann", count=5) for _ in range(20)]
        assert faster[-1]["quality"] > page["quality"]


def wide(k: int) -> inference.RetrievalResponse:
    """The first items of a large catalogue, for a shopper with a history."""
    ids = inference.strings([f"i{n}" for n in range(20, 20 + k)])
    because, unknown = np.zeros(k, np.int32), inference.strings([""])
    scores, profile = np.linspace(0.9, 0.1, k).astype(np.float32), inference.Profile(True, 3, "Germany", "25-34")
    return inference.RetrievalResponse(ids, scores, because, unknown, unknown, np.ones(2, np.float32), profile)
