"""The same request twice: scored by the predictor from Redis, and offline from Feast's point-in-time join.

Both know the same. Redis holds what `materialize` brought there for the day, and the offline join looks at the same
rows; what happened since midnight is in neither but for the item on the page, which the request names online and the
past of the visitor holds offline. Candidates, their scores and their order are retrieval's own on either side.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import busy_shop
import fake_models
import fake_release
import numpy as np
import pandas as pd
import predictor_process
import pytest
import redis
from numpy.typing import NDArray

from feature_repo import store, transforms
from feature_repo.neighbours import Neighbours
from models import catalogue, ranker, two_tower
from models.release import Release, Releases
from pipelines import datasets, materialize, ranking_examples, ranking_requests, ranking_users
from pipelines.past import Deeds, Past
from recsys import inference_client
from recsys.inference import Deed, RankingRequest, RetrievalRequest
from recsys.settings import Network, Services, Settings, Storage
from serving.predictors import items, ranking, retrieval, server, visitors
from serving.predictors.changed import Follower

pytestmark = pytest.mark.services
NOW = datetime(2024, 3, 10, 13, 37, tzinfo=UTC)  # where the clock of the release stands still
CANDIDATES = 60  # of 119
CLOSE = 1e-5


@dataclass(frozen=True)
class Visitor:
    """Who asks, in the words of a request."""

    user_id: str = ""
    session_id: str = ""
    region: str = ""
    last_item: str = ""


VISITORS = {
    "a regular": Visitor(user_id="ann"),
    "a regular abroad who looks at an item": Visitor(user_id="amy", region="Spain", last_item="i8"),
    "a user without history": Visitor(user_id=busy_shop.NEWCOMER, session_id=busy_shop.SESSION),
    "an anonymous session": Visitor(session_id=busy_shop.SESSION, region="Spain"),
    "nobody": Visitor(user_id="nobody", region="France"),
}
every_visitor = pytest.mark.parametrize("number", range(len(VISITORS)), ids=list(VISITORS))


class Recorder:
    """A scorer that remembers what it was asked."""

    def __init__(self, scorer: ranker.Scorer) -> None:
        self._scorer = scorer
        self.inputs: Mapping[str, NDArray[Any]] = {}

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        self.inputs = inputs
        return self._scorer.score(inputs)


@dataclass(frozen=True)
class Online:
    """What serves: both predictors in this process, and the ranking predictor as a process of its own."""

    retriever: retrieval.Retriever
    ranker: ranking.Ranker
    shown: items.Items
    recorder: Recorder
    client: inference_client.BlockingClient


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_url: str, port_block: Callable[[], int]) -> Iterator[Settings]:
    """The busy shop with a release, a day of it materialised into a database of Redis that others do not use."""
    settings = Settings(
        storage=Storage(root=str(tmp_path_factory.mktemp("equality") / "var")),
        network=Network(base_port=port_block()),
        services=Services(redis_url=redis_url.removesuffix("/0") + "/6"),
    )
    release = fake_release.publish(settings, shop=busy_shop.write, ranker=fake_models.untaught_ranker)
    as_of = NOW.timestamp() - transforms.MAX_FEATURE_AGE_DAYS * transforms.SECONDS_PER_DAY
    stands = replace(release, as_of=datetime.fromtimestamp(as_of, UTC).isoformat())
    Releases(Path(settings.storage.root)).candidate_file("blue").write_text(stands.to_json())
    run = datasets.RunId(release.release_id)
    materialize.main(materialize.Params(day=fake_release.DAY, run=run, views=["features"]), settings)
    yield settings
    with redis.Redis.from_url(settings.redis_url) as client:
        client.flushdb()


@pytest.fixture(scope="module")
def release(shop: Settings) -> Release:
    found = Releases(Path(shop.storage.root)).candidate("blue")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def online(shop: Settings, release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Online]:
    releases, features = Releases(Path(shop.storage.root)), store.connect(shop)
    ranked, found = releases.open(release, "ranker"), releases.open(release, "catalogue")
    recorder = Recorder(ranker.Scorer.load(ranked.path / "model"))
    shown = items.Items(catalogue.read(found.path, found.manifest.meta), features, 300, Neighbours.load(ranked.path))
    known = visitors.Reader.of(release, features)
    blend, changes = ranked.manifest.meta["blend"], Follower(shop, shown.lay)
    engine = ranking.Ranker(recorder, blend, shown, known, release_id=release.release_id, changes=changes)
    retriever = retrieval.open_engine(shop, release, server.verified("retrieval", release, releases))
    with predictor_process.running(shop, "ranking", tmp_path_factory.mktemp("logs") / "ranking") as client:
        yield Online(retriever, engine, shown, recorder, client)


@pytest.fixture(scope="module")
def offline(shop: Settings, release: Release) -> ranking_examples.Examples:
    """The rows of these requests as training makes them: one request per visitor, in the order of VISITORS."""
    releases = Releases(Path(shop.storage.root))
    towers = two_tower.Towers.load(releases.open(release, "retrieval").path)
    neighbours = Neighbours.load(releases.open(release, "ranker").path)
    shelf = ranking_examples.Shelf(datasets.lake(shop), fake_release.DAY, towers, neighbours)
    asked = pd.DataFrame(
        [
            {"user_id": v.user_id, "session_id": v.session_id, "region": v.region, "surface": "home"}
            for v in VISITORS.values()
        ]
    ).assign(time=NOW.timestamp())
    looked = {v.user_id: viewed(v.last_item) for v in VISITORS.values() if v.last_item}
    users = ranking_users.users_at(store.connect(shop), asked, Past(looked))
    chosen = pd.DataFrame({"request": range(len(asked)), "item_id": "i1", "position": -1})
    judged = ranking_requests.Judged(asked, chosen.assign(**dict.fromkeys(ranker.CHAIN, 1.0), amount=10.0), shown=False)
    plan = ranking_examples.Plan(candidates=CANDIDATES, negatives=0, allow_repeats=True, seed=1)
    return ranking_examples.build(judged, users, shelf, towers, fake_models.HISTORY_LENGTH, plan)


def viewed(item: str) -> Deeds:
    """A view of an item in the second before the request."""
    moment = np.array([int(NOW.timestamp()) - 1])
    return Deeds(np.array([item], object), np.array(["view"], object), moment, np.empty((1, 0)))


def request_of(visitor: Visitor, online: Online) -> RankingRequest:
    """What the API asks the ranker: retrieval's candidates, from where the request or else the profile says."""
    now = int(NOW.timestamp())
    recent = (Deed(now, "view", visitor.last_item),) if visitor.last_item else ()
    ask = RetrievalRequest(visitor.user_id, visitor.session_id, recent=recent, region=visitor.region, k=CANDIDATES)
    found = online.retriever.answer(ask)
    return RankingRequest(
        found.item_ids,
        found.scores,
        visitor.user_id,
        visitor.session_id,
        visitor.region or found.profile.region,
        "home",
        recent,
    )


def rows_of(offline: ranking_examples.Examples, number: int, item_ids: NDArray[np.object_]) -> NDArray[np.int64]:
    """The offline rows of a request's candidates, in the order of the request; they must be the same items."""
    rows = np.flatnonzero(offline.request == number)
    row_of = dict(zip(offline.item_id[rows], rows, strict=True))
    assert set(row_of) == set(item_ids)
    return np.array([row_of[item] for item in item_ids])


def apart(
    item_ids: NDArray[np.object_], offline: Mapping[str, NDArray[Any]], online: Mapping[str, NDArray[Any]]
) -> list[str]:
    """Where the inputs of the model differ: the feature, the item, and both values."""
    found = []
    for column, name in enumerate(transforms.RANKING_FEATURES):
        ours, theirs = (np.asarray(inputs["numeric"][:, column], np.float64) for inputs in (offline, online))
        found += [
            f"{name} of {item_ids[row]}: offline {ours[row]:.7g}, online {theirs[row]:.7g}"
            for row in np.flatnonzero(~(np.abs(ours - theirs) < CLOSE))
        ]
    for name in ranker.STRINGS:
        found += [
            f"{name} of {item}: offline {ours!r}, online {theirs!r}"
            for item, ours, theirs in zip(item_ids, offline[name], online[name], strict=True)
            if ours != theirs
        ]
    return found


@every_visitor
def test_every_feature_is_the_same(online: Online, offline: ranking_examples.Examples, number: int) -> None:
    request = request_of(list(VISITORS.values())[number], online)
    rows = rows_of(offline, number, np.asarray(request.item_ids))
    trained = {name: values[rows] for name, values in offline.inputs().items()}
    for _ in ("as the release has them", "read again from the store"):
        online.ranker.answer(request)
        different = apart(np.asarray(request.item_ids), trained, online.recorder.inputs)
        assert not different, "\n".join(different)
        online.shown.refresh()


@every_visitor
def test_every_score_over_the_wire_is_the_same(
    shop: Settings, release: Release, online: Online, offline: ranking_examples.Examples, number: int
) -> None:
    request = request_of(list(VISITORS.values())[number], online)
    rows = rows_of(offline, number, np.asarray(request.item_ids))
    ranked = Releases(Path(shop.storage.root)).open(release, "ranker")
    trained = ranker.Scorer.load(ranked.path / "model").score({n: v[rows] for n, v in offline.inputs().items()})
    answer = online.client.rank(request, release=release.release_id)
    for head, probability in trained.items():
        np.testing.assert_allclose(getattr(answer, head), probability, rtol=0, atol=CLOSE, err_msg=head)
    blended = ranker.blend(trained, ranked.manifest.meta["blend"])
    np.testing.assert_allclose(answer.scores, blended, rtol=0, atol=CLOSE)
    assert np.ptp(blended) > 1000 * CLOSE


def test_the_requests_have_something_to_compare(offline: ranking_examples.Examples) -> None:
    """A feature that is 0 for all says nothing about how it is computed."""
    silent = [name for name in transforms.RANKING_FEATURES if not offline.feature(name).any()]
    assert silent == []
