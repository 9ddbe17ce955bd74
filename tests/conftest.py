"""Fixtures that every suite shares: settings of its own, a real Redis, a Spark session."""

import itertools
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prometheus_client  # noqa: F401 - before Feast, which would make all metrics of this process share files
import pytest

from feature_repo import events
from recsys.settings import CustomEvent, Network, Services, Settings, Storage, load

load()

BLOCK = 30
# Below 32,768, where Linux begins to hand out ports to outgoing connections: one of those may come in between.
_BLOCKS = itertools.cycle(random.sample(range(10_000, 32_700, BLOCK), 756))


def free_block() -> int:
    """The first of 30 consecutive free loopback ports. A block comes again only after all others: a server may bind its
    port much later."""
    for base in itertools.islice(_BLOCKS, 756):
        if all(_is_free(port) for port in range(base, base + BLOCK)):
            return base
    raise RuntimeError(f"no {BLOCK} consecutive free ports on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a storage root and ports of this test's own."""
    return Settings(storage=Storage(root=str(tmp_path / "var")), network=Network(base_port=free_block()))


@pytest.fixture(scope="session")
def port_block() -> Callable[[], int]:
    """`free_block`, for fixtures of other folders."""
    return free_block


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on a free port; skips with the remedy where redis-server is not installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed; `make setup` installs it")
    port, folder = free_block(), tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def online_settings(settings: Settings, redis_url: str) -> Settings:
    """Settings whose online store is the real, emptied Redis."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    return settings.model_copy(update={"services": Services(redis_url=redis_url)})


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making its tables takes seconds, copying it does not."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    url = f"sqlite:///{path}"
    mlflow.MlflowClient(tracking_uri=url, registry_uri=url).search_experiments()
    return path


@pytest.fixture
def tracked_settings(settings: Settings, mlflow_template: Path, tmp_path: Path) -> Settings:
    """Settings whose MLflow is a database file of this test's own."""
    shutil.copyfile(mlflow_template, tmp_path / "mlflow.db")
    return settings.model_copy(update={"services": Services(mlflow_url=f"sqlite:///{tmp_path}/mlflow.db")})


def _wait_for(port: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while _is_free(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on 127.0.0.1:{port} after {seconds} s")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def spark() -> Iterator[object]:
    """One Spark session for the whole run; stages that ask for a session get this one."""
    from pipelines import spark as engine

    session = engine.session(
        Settings(spark={"master": "local[2]", "driver_memory": "1g", "shuffle_partitions": 2}), "tests"
    )
    yield session
    session.stop()


@pytest.fixture
def interpreted(spark: Any) -> Iterator[None]:
    """Spark that compiles no code for a query: over a handful of rows, that takes longer than the query."""
    quick = {
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
    }
    usual = {name: spark.conf.get(name) for name in quick}
    for name, value in quick.items():
        spark.conf.set(name, value)
    yield
    for name, value in usual.items():
        spark.conf.set(name, value)


@pytest.fixture(scope="session")
def tiny_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated shop in canonical form, with its truth: 300 users, 200 items, about 15,000 events, 12 days from
    2026-01-05 to 2026-01-16. Read it as `canonical:<path>`; never write to it."""
    from simulator import canonical
    from simulator.world import Plan

    folder = tmp_path_factory.mktemp("shop") / "tiny"
    canonical.write(Plan(users=300, items=200, events=15_000, days=12), folder)
    return folder


@pytest.fixture
def own_events() -> Iterator[None]:
    """A shop with two event types of its own: `play_trailer`, half a view, and `report`, half a dislike."""
    chosen = {
        "play_trailer": CustomEvent(weight=0.5, polarity="positive"),
        "report": CustomEvent(weight=2, polarity="negative"),
    }
    events.configure(chosen)
    yield
    events.configure({})
