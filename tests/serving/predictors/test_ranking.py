"""What the ranking engine answers; in process, against a real Redis."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_release
import numpy as np
import pytest

from feature_repo import store, transforms
from models import catalogue
from models.release import Release, Releases
from recsys.errors import Permanent, Retryable
from recsys.inference import Deed, RankingRequest, Refused, RetrievalRequest
from recsys.settings import Predictors, Services, Settings
from serving.predictors import items, ranking, server, stages, visitors
from serving.predictors.ranking import Ranker

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def engine(platform: Settings) -> Iterator[Ranker]:

    releases = Releases(Path(platform.storage.root))
    release = releases.candidate("blue")
    assert release is not None
    opened = ranking.open_engine(platform, release, server.verified("ranking", release, releases))
    opened.warm_up()
    yield opened
    opened.close()


def test_scores_are_the_blend_of_the_heads_in_the_order_of_the_request(engine: Ranker) -> None:
    found = engine.answer(RankingRequest(["i1", "i2", "i5"], [0.5, 0.4, 0.3], user_id="u1"))
    np.testing.assert_allclose(found.purchase, [0.01, 0.51, 0.01], atol=1e-6)  # "Toys" sell
    np.testing.assert_allclose(found.cart, 0.1 * found.click, rtol=1e-5)
    expected = (1 * found.click + 2 * found.cart + 4 * found.purchase) / 7
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    assert found.release == "r1"
    assert set(found.timings) == {"features", "transforms", "forward"}


def test_a_request_may_bring_its_own_weights(engine: Ranker) -> None:
    ask = RankingRequest(["i1", "i2"], [0.5, 0.4], blend={"purchase": 1.0})
    found = engine.answer(ask)
    np.testing.assert_allclose(found.scores, found.purchase)
    dearest = engine.answer(replace(ask, blend={"revenue": 1.0}))
    np.testing.assert_allclose(dearest.scores, found.revenue)
    assert np.argsort(-dearest.scores).tolist() == np.argsort(found.scores).tolist() == [0, 1], "toys bring in least"


def test_who_asks_may_be_handed_on_from_retrieval(engine: Ranker, platform: Settings, release: Release) -> None:
    who = {
        "user_id": "u1",
        "session_id": "s1",
        "recent": (Deed(int(fake_release.NOW), "view", "i77"),),
        "preferences": ("Toys",),
    }
    known = visitors.Reader.of(release, store.connect(platform))
    read = known.read(RetrievalRequest(**who), stages.Watch("retrieval"))
    ask = RankingRequest(["i1", "i2", "i77"], [0.5, 0.4, 0.3], **who)
    alone = replace(ask, recent=(), preferences=(), visitor=read.to_json())
    handed = RankingRequest.from_tensors(alone.tensors())
    assert visitors.Visitor.from_json(handed.visitor) == read
    found = engine.answer(handed)
    np.testing.assert_array_equal(found.scores, engine.answer(ask).scores)
    assert "features" not in found.timings, "the feature store is not read again"


def test_an_item_says_what_the_forward_pass_saw_of_it(engine: Ranker) -> None:
    ask = RankingRequest(["i1", "i2", "i5"], [0.5, 0.4, 0.3], user_id="u1")
    assert engine.answer(ask).features.shape == (0,)
    found = engine.answer(RankingRequest.from_tensors(replace(ask, features_of="i2").tensors()))
    told = dict(zip(transforms.RANKING_FEATURES, found.features.tolist(), strict=True))
    assert found.features.dtype == np.float32
    assert (told["retrieval_score"], told["retrieval_rank"]) == pytest.approx((0.4, np.log1p(1)))
    np.testing.assert_array_equal(found.scores, engine.answer(ask).scores)


def test_the_features_of_an_item_that_is_no_candidate_are_refused(engine: Ranker) -> None:
    with pytest.raises(Refused, match="features_of is 'i9', which is none of the 2 candidates"):
        engine.answer(RankingRequest(["i1", "i2"], [0.5, 0.4], features_of="i9"))


@pytest.mark.parametrize(
    ("visitor", "why"),
    [
        ("{", "not what retrieval answered with"),
        ('{"values": {}}', "KeyError\\('known'\\)"),
        ('{"values": [], "known": true, "degraded": false, "now": 1}', "not a mapping"),
    ],
)
def test_a_visitor_that_retrieval_never_answered_is_refused(engine: Ranker, visitor: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        engine.answer(RankingRequest(["i1"], [0.5], visitor=visitor))


def test_what_retrieval_of_older_code_did_not_hand_on_is_unknown(
    engine: Ranker, platform: Settings, release: Release
) -> None:
    def degraded() -> float:
        return stages.DEGRADED.labels("ranking")._value.get()

    who = {"user_id": "u1", "recent": (Deed(int(fake_release.NOW), "view", "i77"),)}
    read = visitors.Reader.of(release, store.connect(platform)).read(RetrievalRequest(**who), stages.Watch("retrieval"))
    older = replace(read, values={name: value for name, value in read.values.items() if name != "age_group"})
    unknown = replace(read, values={**read.values, "age_group": None})
    before, ask = degraded(), RankingRequest(["i1", "i77"], [0.5, 0.4], user_id="u1")
    expected = engine.answer(replace(ask, visitor=unknown.to_json()))
    assert degraded() == before
    np.testing.assert_array_equal(engine.answer(replace(ask, visitor=older.to_json())).scores, expected.scores)
    assert degraded() == before + 1


def test_unknown_items_and_strangers_are_scored(engine: Ranker) -> None:
    found = engine.answer(RankingRequest(["gone", "i1"], [0.0, np.nan], user_id="nobody", session_id="nobody"))
    assert np.isfinite(found.scores).all()
    assert (found.scores > 0).all()


def test_no_candidates_give_no_scores(engine: Ranker) -> None:
    assert engine.answer(RankingRequest([], [])).scores.shape == (0,)


def test_one_forward_pass_gives_what_many_would(engine: Ranker) -> None:
    ids, scores = [f"i{n}" for n in range(60)], np.linspace(1, 0.1, 60, dtype=np.float32)
    whole = engine.answer(RankingRequest(ids, scores, user_id="u1"))
    turned = engine.answer(RankingRequest(ids[::-1], scores[::-1], user_id="u1"))
    np.testing.assert_allclose(whole.click, turned.click[::-1], rtol=1e-5)


def test_ranks_follow_the_retrieval_scores() -> None:
    scores = np.array([0.2, 0.0, 0.9, np.nan, -0.3], np.float32)
    assert ranking.ranks(scores).tolist() == [1, -1, 0, -1, 2]


def test_without_the_feature_store_a_stranger_is_ranked_for(
    platform: Settings, release: Release, releases: Releases
) -> None:
    away = platform.model_copy(update={"services": Services(redis_url="redis://127.0.0.1:1/0")})
    engine = ranking.open_engine(away, release, server.verified("ranking", release, releases))
    assert np.isfinite(engine.answer(RankingRequest(["i1"], [0.5], user_id="u1")).scores).all()


def test_weights_of_the_settings_replace_those_of_the_release(
    platform: Settings, release: Release, releases: Releases
) -> None:
    only_clicks = platform.model_copy(update={"predictors": Predictors(blend={"click": 1.0})})
    found = ranking.open_engine(only_clicks, release, server.verified("ranking", release, releases)).answer(
        RankingRequest(["i1"], [0.5])
    )
    np.testing.assert_allclose(found.scores, found.click)
    wrong = platform.model_copy(update={"predictors": Predictors(blend={"stars": 1.0})})
    with pytest.raises(Permanent, match="blend must weigh some of click, cart, purchase, revenue"):
        ranking.open_engine(wrong, release, server.verified("ranking", release, releases))


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        ({"features": ["item_price"]}, "trained on 1 features"),
        ({"heads": ["click", "cart", "purchase"]}, "has the heads click, cart, purchase, this code serves"),
    ],
)
def test_a_ranker_of_other_code_is_refused(
    platform: Settings, release: Release, releases: Releases, meta: dict[str, Any], why: str
) -> None:
    opened = server.verified("ranking", release, releases)
    manifest = opened["ranker"].manifest
    other = replace(opened["ranker"], manifest=replace(manifest, meta={**manifest.meta, **meta}))
    with pytest.raises(Permanent, match=why):
        ranking.open_engine(platform, release, {**opened, "ranker": other})


def opened_items(platform: Settings, release: Release, releases: Releases, interval: float = 300) -> items.Items:
    found = releases.open(release, "catalogue")
    shown = catalogue.read(found.path, found.manifest.meta)
    return items.Items(shown, store.connect(platform), interval)


def price(known: items.Items, item_id: str) -> float:
    return float(np.expm1(known.matrix.log_price[known.matrix.row_of[item_id]]))


def test_items_are_read_again_and_swapped_whole(platform: Settings, release: Release, releases: Releases) -> None:
    known = opened_items(platform, release, releases)
    assert price(known, "i7") == pytest.approx(8.0)
    before = known.matrix
    fake_release.write_online(platform, "item_content", item_id="i7", price=99.0, category="Toys > Cars")
    known.refresh()
    assert price(known, "i7") == pytest.approx(99.0)
    assert known.matrix.category[known.matrix.row_of["i7"]] == "Toys > Cars"
    assert price(known, "i8") == pytest.approx(9.0)  # the store does not know it: as the release has it
    assert known.matrix is not before
    assert known.matrix.row_of == before.row_of


def test_the_thread_reads_by_itself_and_ends(platform: Settings, release: Release, releases: Releases) -> None:
    known = opened_items(platform, release, releases, interval=0.05)
    before, running = known.matrix, threading.enumerate()
    known.start()
    [thread] = [found for found in threading.enumerate() if found.name == "items" and found not in running]
    deadline = time.monotonic() + 20
    while known.matrix is before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert known.matrix is not before
    known.close()
    assert not thread.is_alive()


def test_items_stay_as_they_were_while_the_store_is_away(
    platform: Settings, release: Release, releases: Releases, failures: Callable[[str, str], float]
) -> None:
    away = platform.model_copy(update={"services": Services(redis_url="redis://127.0.0.1:1/0")})
    known = opened_items(away, release, releases, interval=0.05)
    before = known.matrix
    with pytest.raises(Retryable):
        known.refresh()
    counted = failures("items", "Retryable")
    known.start()
    deadline = time.monotonic() + 20
    while failures("items", "Retryable") < counted + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    known.close()
    assert failures("items", "Retryable") >= counted + 2, "each reading counts, and the next comes all the same"
    assert known.matrix is before
