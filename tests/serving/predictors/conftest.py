"""One release of the fake models with a real online store, shared by the tests of the predictors."""

from collections.abc import Callable, Iterator
from pathlib import Path

import fake_release
import pytest
import redis
from prometheus_client import REGISTRY

from models.release import Release, Releases
from recsys.settings import Network, Services, Settings, Storage


@pytest.fixture(scope="session")
def platform(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str, port_block: Callable[[], int]
) -> Iterator[Settings]:
    """A storage root with a blue release, and user u1 and session s1 in a database of Redis that others do not use."""
    settings = Settings(
        storage=Storage(root=str(tmp_path_factory.mktemp("predictors") / "var")),
        network=Network(base_port=port_block()),
        services=Services(redis_url=redis_url.removesuffix("/0") + "/5"),
    )
    fake_release.publish(settings)
    fake_release.known_user(settings, "u1", ["i1", "i5"])
    fake_release.write_online(
        settings, "session_history", session_id="s1",
        history_items=["i2"], history_events=["view"], history_times=[int(fake_release.NOW) - 60],
    )  # fmt: skip
    yield settings
    with redis.Redis.from_url(settings.redis_url) as client:
        client.flushdb()


@pytest.fixture
def releases(platform: Settings) -> Releases:
    return Releases(Path(platform.storage.root))


@pytest.fixture
def release(releases: Releases) -> Release:
    found = releases.candidate("blue")
    assert found is not None
    return found


@pytest.fixture
def failures() -> Callable[[str, str], float]:
    """How often some work beside the requests has failed in this process, by the kind of error."""

    def counted(work: str, kind: str) -> float:
        labels = {"work": work, "kind": kind}
        return REGISTRY.get_sample_value("recsys_predictor_background_errors_total", labels) or 0.0

    return counted
