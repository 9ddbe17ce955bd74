"""A small shop, real gRPC servers in place of the predictors, and the API over a real Redis."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import grpc
import grpc.aio
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import redis
from numpy.typing import NDArray

from feature_repo import events, online, shoppers, transforms
from models import artifact, catalogue
from models.release import Reference, Release, ReleaseId
from recsys import inference
from recsys.inference import Profile, RankingRequest, RankingResponse, RetrievalRequest, RetrievalResponse
from recsys.settings import Role, Settings
from serving.api import app as application
from serving.api import auth, middleware, surfaces

AS_OF = "2024-03-01T00:00:00+00:00"
TOPS = ("Toys", "Home", "Garden", "Books")


def items(count: int = 60, titles: Mapping[int, str] | None = None) -> pa.Table:
    """i0, i1, …: the general categories in turn, two special ones in each; i1 is sold out, i2 is for Norway only."""
    rows = [
        {
            "item_id": f"i{n}",
            "title": (titles or {}).get(n, f"Thing {n}"),
            "description": None,
            "category": f"{TOPS[n % 4]} > {'big' if n % 8 < 4 else 'small'}",
            "tags": [],
            "brand": "Acme",
            "price": float(n) if n % 10 else None,
            "currency": "GBP",
            "regions": ["Norway"] if n == 2 else [],
            "created_at": None,
            "available": n != 1,
            "popularity": float(count - n),
        }
        for n in range(count)
    ]
    schema = pa.schema([*(f.with_nullable(True) for f in events.ITEMS.arrow()), pa.field("popularity", pa.float64())])
    return pa.Table.from_pylist(rows, schema)


def embeddings(count: int = 60) -> NDArray[np.float32]:
    """[count, 2] of unit norm; the angle grows with the number, a quarter turn in all."""
    angle = np.linspace(0, np.pi / 2, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def ranked(*numbers: int) -> list[tuple[str, float]]:
    return [(f"i{n}", round(1 - place / 100, 2)) for place, n in enumerate(numbers)]


POPULAR: dict[str, dict[str, Any]] = {
    "global": {"": ranked(*range(30, 50))},
    "region": {"Germany": ranked(*range(40, 48))},
    "top_category": {"Toys": ranked(8, 4, 0)},
    "category": {"Toys > big": ranked(8, 0)},
}
ONLINE = {
    ("global", ""): ranked(*range(10, 30)),
    ("region", "Germany"): ranked(20, 21, 22, 23),
    ("age_region", "25-34|Germany"): ranked(24, 25),
    ("top_category", "Toys"): ranked(12, 16, 20),
    ("category", "Toys > big"): ranked(16, 8),
}


def publish(
    settings: Settings,
    name: str = "r1",
    *,
    meta: dict[str, Any] | None = None,
    count: int = 60,
    titles: Mapping[int, str] | None = None,
) -> Release:
    """Make a release live, as a deployment would."""
    root = Path(settings.storage.root)
    with artifact.draft(root / "models", kind="catalogue", run=name, as_of=AS_OF) as draft:
        catalogue.write(draft.path, items(count, titles), POPULAR, ["gone"])
        draft.meta |= meta or {}
    towers = Reference("towers-1", "models/towers", "")  # nobody opens them here
    parents = {"retrieval": towers.version}
    with artifact.draft(root / "models", kind="index", run=name, as_of=AS_OF, parents=parents) as vectors:
        np.save(vectors.path / "embeddings.npy", embeddings(count))
        pyarrow.parquet.write_table(items(count).select(["item_id"]), vectors.path / "ids.parquet")
    artifacts = {
        kind: Reference(made.manifest.version, str(made.path.relative_to(root)), made.digest)
        for kind, made in (("catalogue", draft.finished), ("index", vectors.finished))
    }
    artifacts["retrieval"] = towers
    release = Release(ReleaseId(name), AS_OF, AS_OF, "blue", artifacts, "ranking_v1", None, "deploy")
    file = root / "releases" / "live.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    work = file.with_suffix(".tmp")
    work.write_text(json.dumps(asdict(release)))
    work.replace(file)
    return release


@dataclass
class Predictor:
    """A real server that speaks the wire contract; `answer` decides, `delay` seconds and `per_item` for each
    candidate later."""

    address: str
    answer: Callable[[Any], Any]
    role: Role
    release: str = "r1"
    delay: float = 0.0
    per_item: float = 0.0
    asked: list[Any] = field(default_factory=list)
    _server: grpc.aio.Server | None = None

    async def start(self) -> None:
        handler = grpc.unary_unary_rpc_method_handler(
            self._infer,
            request_deserializer=inference.messages.ModelInferRequest.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        self._server = grpc.aio.server()
        service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})
        self._server.add_generic_rpc_handlers((service,))
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(0)
            self._server = None

    async def _infer(self, message: Any, context: grpc.aio.ServicerContext) -> Any:
        wanted = message.parameters["release"].string_param
        if wanted not in ("", self.release):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"holds {self.release}, asked for {wanted}")
        pairs = zip(message.inputs, message.raw_input_contents, strict=True)
        tensors = {i.name: inference.decode(i.datatype, i.shape, raw) for i, raw in pairs}
        kind = RetrievalRequest if self.role == "retrieval" else RankingRequest
        request = kind.from_tensors(tensors)
        self.asked.append(request)
        size = request.k if isinstance(request, RetrievalRequest) else len(request.item_ids)
        await asyncio.sleep(self.delay + self.per_item * size)
        return inference.response_message(replace(self.answer(request), release=self.release), self.role)


def retrieved(request: RetrievalRequest) -> RetrievalResponse:
    """For "ann": all items, i59 first, each because she bought i58; strangers have no history."""
    last = request.recent[-1].item_id if request.recent else ""
    known = request.user_id == "ann" or bool(last) or bool(request.query_item)
    numbers = range(59, -1, -1)
    return RetrievalResponse(
        inference.strings([f"i{n}" for n in numbers]),
        np.linspace(0.9, 0.1, 60).astype(np.float32),
        np.zeros(60, np.int32),
        inference.strings([last or "i58"]),
        inference.strings(["view" if last else "purchase"]),
        embeddings()[59],
        Profile(known, 3 if known else 0, *(("Germany", "25-34") if request.user_id in ("ann", "new") else ("", ""))),
        visitor=json.dumps({"user_id": request.user_id, "recent": request.recent}),
        timings={"features": 1.0, "search": 2.0},
    )


def scored(request: RankingRequest) -> RankingResponse:
    """The ranker turns retrieval's order round: i0 is the best. The features of an item are its number and zeros."""
    scores = np.array([1 - int(item[1:]) / 100 for item in request.item_ids], np.float32)
    features = np.zeros(len(transforms.RANKING_FEATURES) if request.features_of else 0, np.float32)
    features[:1] = int(request.features_of[1:] or 0)
    return RankingResponse(scores, scores, scores, scores, scores, timings={"forward": 3.0}, features=features)


@dataclass
class World:
    """Everything that a test may stop, slow down or change."""

    settings: Settings
    retrieval: Predictor
    ranking: Predictor
    http: httpx.AsyncClient
    app: Any
    key: str
    redis: "RedisServer | None" = None

    async def get(self, **parameters: Any) -> httpx.Response:
        headers = parameters.pop("headers", {})
        if request_id := parameters.pop("request_id", ""):  # chance comes from it
            with mock.patch.object(middleware, "new_id", return_value=request_id):
                return await self.http.get("/api/v1/recommendations", params=parameters, headers=headers)
        return await self.http.get("/api/v1/recommendations", params=parameters, headers=headers)

    async def page(self, **parameters: Any) -> dict[str, Any]:
        answer = await self.get(**parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def settings_file(self) -> Path:
        """Where the shop's own surfaces are configured."""
        path = surfaces.own_file(self.settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    async def metric(self, line: str) -> float:
        """The value of one metric line, 0 where it is not there."""
        text = (await self.http.get("/metrics")).text
        return next((float(row.rsplit(" ", 1)[1]) for row in text.splitlines() if row.startswith(line)), 0.0)


@contextlib.asynccontextmanager
async def running(settings: Settings, *, predictors: bool = True) -> AsyncIterator[World]:
    """The API in this process, with predictors beside it unless the test has its own."""
    made = application.create(settings)
    key = auth.demo_key_file(settings).read_text()
    retrieval = Predictor(settings.predictor_address("retrieval", "blue"), retrieved, "retrieval")
    ranking = Predictor(settings.predictor_address("ranking", "blue"), scored, "ranking")
    transport = httpx.ASGITransport(app=made, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://api", headers={"X-API-Key": key})
    try:
        if predictors:
            await retrieval.start()
            await ranking.start()
        async with made.router.lifespan_context(made), client:
            yield World(settings, retrieval, ranking, client, made, key)
    finally:
        await retrieval.stop()
        await ranking.stop()


def patient(settings: Settings) -> Settings:
    """Deadlines that a busy test machine keeps; tests of lateness set their own."""
    stages = ("retrieval", "ranking", "online", "explain")
    api = settings.api.model_copy(update={f"{stage}_deadline_ms": 2000 for stage in stages})
    return settings.model_copy(update={"api": api})


def fill(url: str) -> None:
    """Write the lists, and who ann and "new" are, as the pipelines do."""
    with online.connect(url) as store:
        lists = [(online.trending_key(*key), found) for key, found in ONLINE.items()]
        online.replace_lists(store, "trending", lists)
        together = [(online.covisit_key("bought", "i5"), ranked(6, 7)), (online.covisit_key("viewed", "i5"), ranked(9))]
        online.replace_lists(store, "covisitation", together)
        home: dict[str, Any] = {"region": "Germany", "age_group": "25-34"}
        ann = home | {"favourites": ["Books"], "items": ["i3", "i7"], "events": 3}
        shoppers.write_profiles(store, [("ann", ann), ("new", home)])
        online.add_watched(
            store, [("ann", {"i3": 1709200000.0, "i7": 1709200000.0, "i11": 1709200000.0})], 1709251200.0
        )


class RedisServer:
    """A Redis that a test may kill and start again; what was written to it is there again, as on a real platform."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        files = ("--dir", str(folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always")
        self._command = ["redis-server", "--port", str(settings.network.redis), "--bind", "127.0.0.1", *files]
        self._url = settings.redis_url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        with redis.Redis.from_url(self._url) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, f"no answer at {self._url}"
                    time.sleep(0.05)
                else:
                    return

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(10)


@pytest.fixture
def own_redis(settings: Settings, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(settings, tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def world(online_settings: Settings) -> AsyncIterator[World]:
    """A live release r1, lists in Redis, both predictors up."""
    settings = patient(online_settings)
    publish(settings)
    fill(settings.redis_url)
    async with running(settings) as made:
        yield made


@pytest.fixture
async def nothing_to_explore(world: World) -> None:
    """For tests of what the order places."""
    world.app.state.parts.explorer.pool = None


@pytest.fixture
async def fragile(settings: Settings, own_redis: RedisServer) -> AsyncIterator[World]:
    """The same, and a Redis that the test may kill."""
    made = patient(settings)
    publish(made)
    fill(made.redis_url)
    async with running(made) as world:
        world.redis = own_redis
        yield world


@pytest.fixture
def shop() -> Any:
    """The functions of this file, for tests that start the API themselves."""
    return SimpleNamespace(publish=publish, fill=fill, running=running, patient=patient, ranked=ranked)
