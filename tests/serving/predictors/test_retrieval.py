"""What the retrieval engine answers, and why, for each kind of visitor; in process, against a real Redis."""

import socket
from collections.abc import Iterator
from pathlib import Path

import fake_release
import numpy as np
import pytest
from numpy.typing import NDArray

from models.release import Release, Releases
from recsys.inference import Deed, RetrievalRequest, RetrievalResponse
from recsys.settings import Services, Settings
from serving.predictors import evidence, retrieval, server
from serving.predictors.retrieval import Retriever

pytestmark = pytest.mark.services
VIEWED = Deed(int(fake_release.NOW), "view", "i77")


@pytest.fixture(scope="module")
def engine(platform: Settings) -> Iterator[Retriever]:

    releases = Releases(Path(platform.storage.root))
    release = releases.candidate("blue")
    assert release is not None
    opened = retrieval.open_engine(platform, release, server.verified("retrieval", release, releases))
    opened.warm_up()
    yield opened
    opened.close()


def vector(engine: Retriever, item: str) -> NDArray[np.float32]:
    """[dim] float32, as the release's index has it."""
    return engine.answer(RetrievalRequest(query_item=item, k=1)).query


def test_a_known_user_gets_what_is_like_the_history_with_evidence(engine: Retriever) -> None:
    found = engine.answer(RetrievalRequest(user_id="u1", k=20))
    assert set(found.item_ids[:2]) == {"i1", "i5"}
    assert (np.diff(found.scores) <= 0).all()
    assert len(set(found.item_ids)) == 20
    assert dict(zip(found.item_ids, found.evidence, strict=True))["i1"] == "i1"
    assert {"i1", "i5"} <= set(found.evidence) <= {"i1", "i5", ""}
    assert set(found.evidence_events[found.evidence != ""]) == {"purchase"}
    assert found.profile.known
    assert (found.profile.history_size, found.profile.region, found.profile.age_group) == (2, "France", "25-34")
    assert found.profile.recent == ("i5", "i1")
    assert found.release == "r1"
    assert set(found.timings) == {"features", "tower", "search", "evidence"}


def test_an_unknown_user_is_served_by_region_alone(engine: Retriever) -> None:
    found = engine.answer(RetrievalRequest(user_id="nobody", region="Spain", k=20))
    other = engine.answer(RetrievalRequest(user_id="nobody", region="Italy", k=20))
    assert len(found.item_ids) == 20
    assert found.item_ids.tolist() != other.item_ids.tolist()
    assert set(found.evidence) == {""}
    assert not found.profile.known
    assert not found.profile.degraded
    assert (found.profile.history_size, found.profile.region) == (0, "Spain")


@pytest.mark.parametrize("user_id", ["", "nobody"])
def test_a_session_speaks_for_a_visitor_without_history(engine: Retriever, user_id: str) -> None:
    found = engine.answer(RetrievalRequest(user_id=user_id, session_id="s1", k=5))
    assert found.item_ids[0] == "i2"
    assert found.evidence_events[0] == "view"
    assert found.profile.known
    assert found.profile.recent == ("i2",)


def test_the_item_viewed_this_moment_counts_at_once(engine: Retriever) -> None:
    found = engine.answer(RetrievalRequest(user_id="", session_id="", recent=(VIEWED,), k=5))
    assert found.item_ids[0] == "i77"
    assert (found.evidence[0], found.evidence_events[0]) == ("i77", "view")
    assert found.profile.recent == ("i77",)


def test_similar_items_leave_out_the_item_itself(engine: Retriever) -> None:
    found = engine.answer(RetrievalRequest(query_item="i8", k=30))
    assert len(found.item_ids) == 30
    assert "i8" not in found.item_ids
    same = [item for item in found.item_ids[:10] if int(item[1:]) % 4 == 0]
    assert len(same) >= 5  # neighbours share the category
    assert set(found.evidence) == {"i8"}
    np.testing.assert_array_equal(found.query, vector(engine, "i8"))


def test_an_item_that_the_index_does_not_hold_falls_back_to_the_visitor(engine: Retriever) -> None:
    found = engine.answer(RetrievalRequest(user_id="u1", query_item="i3", k=5))  # i3 is not available
    assert found.item_ids.tolist() == engine.answer(RetrievalRequest(user_id="u1", k=5)).item_ids.tolist()


def test_more_than_the_catalogue_is_all_of_it(engine: Retriever) -> None:
    assert len(engine.answer(RetrievalRequest(user_id="u1", k=3_000)).item_ids) == 119
    assert len(engine.answer(RetrievalRequest(query_item="i8", k=3_000)).item_ids) == 118


def test_without_the_feature_store_a_stranger_is_served_and_the_answer_says_so(
    platform: Settings, release: Release, releases: Releases
) -> None:
    away = platform.model_copy(update={"services": Services(redis_url="redis://127.0.0.1:1/0")})
    engine = retrieval.open_engine(away, release, server.verified("retrieval", release, releases))
    found = engine.answer(RetrievalRequest(user_id="u1", recent=(VIEWED,), k=10))
    assert found.profile.degraded
    assert not found.profile.known
    assert found.item_ids[0] == "i77"


def test_a_store_that_hangs_costs_a_part_of_the_deadline_and_one_line_of_the_log(
    platform: Settings, release: Release, releases: Releases, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:
        url = f"redis://127.0.0.1:{hung.getsockname()[1]}/0"
        away = platform.model_copy(update={"services": Services(redis_url=url)})
        engine = retrieval.open_engine(away, release, server.verified("retrieval", release, releases))
        for user in ("u1", "u2", "u3"):
            found = engine.answer(RetrievalRequest(user_id=user, query_item="i8", k=10))
            assert found.profile.degraded
            assert found.timings["features"] < platform.api.retrieval_deadline_ms
            assert "i8" not in found.item_ids
    assert caplog.text.count("everybody is served as a stranger") == 1


def test_events_after_the_releases_time_are_the_newest(platform: Settings, engine: Retriever) -> None:
    """The clock of a release on historic data stands still; what is clicked today must count all the same."""
    days = 86_400
    fake_release.write_online(
        platform, "user_history", user_id="today",
        history_items=["i9", "i10"], history_events=["view", "view"],
        history_times=[int(fake_release.NOW) + 400 * days, int(fake_release.NOW) + 401 * days],
    )  # fmt: skip
    found = engine.answer(RetrievalRequest(user_id="today", k=2))
    assert set(found.item_ids) == {"i9", "i10"}
    assert found.profile.recent == ("i10", "i9")


HISTORIES = {
    "nothing": [],
    "one item": ["i1"],
    "a few": ["i1", "i5", "i2", "i77"],
    "one item again and again": ["i1", "i9", "i1", "i6", "i1"],
    "nothing but one item": ["i8"] * 3,
    "an item that is not sold any more": ["i3", "i1"],
    "more items than are tested": [f"i{7 * n}" for n in range(12)],
    "longer than the tower's, with an old item at the end": [f"i{n % 26 + 4}" for n in range(26)] + ["i5"],
}


@pytest.fixture(params=HISTORIES.values(), ids=HISTORIES.keys())
def history(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    return found


def everything_for(engine: Retriever, platform: Settings, history: list[tuple[str, int]]) -> RetrievalResponse:
    """All items for a user of France with this history of items and epoch seconds, read from the store."""
    user_id = f"user of {history}"  # Feast keeps the first of two rows of one time
    fake_release.write_online(platform, "user_profile", user_id=user_id, region="France", age_group="25-34")
    fake_release.write_online(
        platform, "user_history", user_id=user_id, history_items=[item for item, _ in history],
        history_events=["view"] * len(history), history_times=[when for _, when in history],
    )  # fmt: skip
    return engine.answer(RetrievalRequest(user_id=user_id, k=3_000))


def test_without_its_evidence_an_item_scores_lower_and_where_nothing_lowers_it_there_is_none(
    engine: Retriever, platform: Settings, history: list[str]
) -> None:
    """Each claim is put to the proof: by a request of the same user who never met the item that is named."""
    lived = [(item, int(fake_release.NOW) - 60 * (len(history) - k)) for k, item in enumerate(history)]
    found = everything_for(engine, platform, lived)
    newest = [item for item in dict.fromkeys(reversed(history)) if item != "i3"][: evidence.TESTED]
    without = {}
    for left_out in newest:
        other = everything_for(engine, platform, [event for event in lived if event[0] != left_out])
        without[left_out] = dict(zip(other.item_ids, other.scores, strict=True))
    others = 0
    for item, score, named in zip(found.item_ids, found.scores, found.evidence, strict=True):
        if item in history:
            assert named == item  # which is said to have been met before, and no more
        elif named:
            others += 1
            assert without[named][item] < score
            assert without[named][item] == min(lower[item] for lower in without.values())
            assert vector(engine, item) @ vector(engine, named) >= evidence.LIKENESS
        elif newest:
            most = min(newest, key=lambda left_out: without[left_out][item])
            falls = score - without[most][item] > evidence.NOISE
            assert not falls or vector(engine, item) @ vector(engine, most) < evidence.LIKENESS
    assert (others > 0) == bool(history)
    assert ((found.evidence_events == "view") == (found.evidence != "")).all()


def test_the_vector_of_the_answer_scores_every_item(engine: Retriever) -> None:
    found = engine.answer(RetrievalRequest(user_id="u1", k=3_000))
    exact = [vector(engine, item) @ found.query for item in found.item_ids]
    np.testing.assert_allclose(found.scores, exact, atol=1e-6)
