"""One predictor process: opens the release of its colour, warms up, and only then listens.

KServe's model server speaks the Open Inference Protocol v2 on gRPC (raw tensors, the hot path) and REST. What it
does not do by itself is done here: bind the address that the settings say, name the release in the model's
metadata, pass raw tensors through without boxing them, and answer 412 or FAILED_PRECONDITION for a release that
this process does not hold.
"""

import argparse
import asyncio
import gc
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, cast

import kserve
import numpy as np
import threadpoolctl
import uvloop
from fastapi import Request
from fastapi.responses import JSONResponse
from grpc import aio
from grpc_interceptor.exceptions import FailedPrecondition, GrpcException, InvalidArgument
from kserve import model_server
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as stubs
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.rest.server import RESTServer
from numpy.typing import NDArray

from feature_repo import events
from models import artifact
from models.release import ARTIFACTS_OF_ROLE, Release, Releases
from recsys import inference
from recsys import settings as configuration
from recsys.errors import Exit, RecsysError
from recsys.inference import RankingRequest, RankingResponse, RetrievalRequest, RetrievalResponse, messages
from recsys.settings import COLOURS, Role, Settings
from serving.predictors import stages

Opened = Mapping[artifact.Kind, artifact.Artifact]
GRACE_SECONDS = 10  # requests take milliseconds; on Kubernetes a preStop sleep comes before
log = logging.getLogger(__name__)


class Engine(Protocol):
    """What answers requests; its methods are called from several threads."""

    def answer(self, request: Any) -> RetrievalResponse | RankingResponse: ...

    def warm_up(self) -> None: ...

    def close(self) -> None: ...


REQUESTS: Mapping[Role, type[RetrievalRequest] | type[RankingRequest]] = {
    "retrieval": RetrievalRequest,
    "ranking": RankingRequest,
}
_STRING_INPUTS = {
    *("user_id", "session_id", "query_item", "recent", "preferences", "region", "surface", "item_ids"),
    *("visitor", "features_of"),
}


class Predictor(kserve.Model):  # type: ignore[misc]
    """An engine as a KServe model. It is made when the engine is warm, so it is ready from the start."""

    def __init__(self, role: Role, release_id: str, engine: Engine, threads: int) -> None:
        super().__init__(role)
        self.role, self.release_id = role, release_id
        self._engine = engine
        # Probes and other connections are served by the event loop, which must not wait for a forward pass.
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answer a raw gRPC message with one, and a decoded REST request with a KServe response.

        Raises:
            FailedPrecondition: the request is for a release that this process does not hold.
            InvalidArgument: a tensor is missing, has a wrong shape, or holds what the engine refuses.
        """
        raw = isinstance(payload, messages.ModelInferRequest)
        wanted = payload.parameters["release"].string_param if raw else (payload.parameters or {}).get("release")
        if wanted and wanted != self.release_id:
            raise FailedPrecondition(f"this predictor holds release {self.release_id!r}, not {wanted!r}")
        try:
            tensors = _raw_tensors(payload) if raw else _rest_tensors(payload)
            request = REQUESTS[self.role].from_tensors(tensors)
        except (KeyError, ValueError) as error:
            raise InvalidArgument(f"{self.role}: {error}") from error
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._pool, self._engine.answer, request)
        except inference.Refused as error:
            raise InvalidArgument(f"{self.role}: {error}") from error
        return inference.response_message(answer, self.role, payload.id) if raw else _rest_response(answer, payload)

    def get_input_types(self) -> list[dict[str, Any]]:
        names = ("user_id", "session_id", "region")
        more: dict[Role, dict[str, str]] = {
            "retrieval": {"query_item": "BYTES", "k": "INT32"},
            "ranking": dict.fromkeys(("surface", "visitor", "features_of"), "BYTES"),
        }
        single = dict.fromkeys(names, "BYTES") | more[self.role]
        described = [{"name": n, "datatype": t, "shape": [1]} for n, t in single.items()]
        described += [{"name": n, "datatype": "BYTES", "shape": [-1]} for n in ("recent", "preferences")]
        if self.role == "ranking":
            described += [{"name": "item_ids", "datatype": "BYTES", "shape": [-1]}]
            described += [{"name": "retrieval_scores", "datatype": "FP32", "shape": [-1]}]
            described += [{"name": "blend", "datatype": "FP32", "shape": [len(inference.HEADS)]}]
        return described

    def get_output_types(self) -> list[dict[str, Any]]:
        texts = ("item_ids", "causes", "cause_events") if self.role == "retrieval" else ()
        numbers = ("scores", "query") if self.role == "retrieval" else ("scores", *inference.HEADS, "features")
        kinds = dict.fromkeys(texts, "BYTES") | dict.fromkeys(numbers, "FP32")
        described = [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in kinds.items()]
        if self.role == "retrieval":
            described += [{"name": "because", "datatype": "INT32", "shape": [-1]}]
            described += [{"name": name, "datatype": "BYTES", "shape": [1]} for name in ("profile", "visitor")]
        return described

    def stop(self) -> None:
        super().stop()
        self._pool.shutdown(wait=True)
        self._engine.close()


def _raw_tensors(message: Any) -> dict[str, NDArray[Any]]:
    pairs = zip(message.inputs, message.raw_input_contents, strict=True)
    return {tensor.name: inference.decode(tensor.datatype, tensor.shape, raw) for tensor, raw in pairs}


def _rest_tensors(request: Any) -> dict[str, NDArray[Any]]:
    tensors = {tensor.name: tensor.as_numpy() for tensor in request.inputs}
    for name in _STRING_INPUTS & set(tensors):
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in tensors[name].ravel()]
        tensors[name] = inference.strings(texts).reshape(tensors[name].shape)
    return tensors


def _rest_response(answer: RetrievalResponse | RankingResponse, request: Any) -> Any:
    outputs = []
    for name, tensor in answer.tensors().items():
        kind, _ = inference.encode(tensor[:0])
        output = kserve.InferOutput(name, list(tensor.shape), kind)
        output.set_data_from_numpy(np.ascontiguousarray(tensor), binary_data=False)
        outputs.append(output)
    facts = {"release": answer.release, "timings": json.dumps(dict(answer.timings))}
    return kserve.InferResponse(request.id, request.model_name, outputs, answer.release, parameters=facts)


class _Servicer(InferenceServicer):  # type: ignore[misc]
    """KServe's servicer, with raw tensors all the way and the release in the metadata."""

    def __init__(self, data_plane: Any, extension: Any, release_id: str) -> None:
        super().__init__(data_plane, extension)
        self._plane, self._release_id = data_plane, release_id

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802  gRPC's own name
        answer, _ = await self._plane.infer(model_name=request.model_name, request=request, headers=None)
        return answer

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = await super().ModelMetadata(request, context)
        answer.versions.append(self._release_id)
        return answer


class _GrpcServer(GRPCServer):  # type: ignore[misc]
    """KServe's gRPC server on one address instead of all, and patient with keepalive pings."""

    def __init__(self, address: str, release_id: str, data_plane: Any, extension: Any) -> None:
        super().__init__(0, data_plane, extension, {}, GRACE_SECONDS)
        self._address, self._servicer = address, _Servicer(data_plane, extension, release_id)

    async def start(self, max_workers: int) -> None:
        options = [
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.so_reuseport", 0),  # two predictors on one port is a mistake that must show
        ]
        self._server = aio.server(interceptors=(ExceptionToStatusInterceptor(),), options=options)
        stubs.add_GRPCInferenceServiceServicer_to_server(self._servicer, self._server)
        self._server.add_insecure_port(self._address)
        await self._server.start()
        await self._server.wait_for_termination()


class Server(kserve.ModelServer):  # type: ignore[misc]
    """KServe's model server for one predictor, at the addresses that the settings name."""

    def __init__(self, settings: Settings, release: Release, role: Role) -> None:
        super().__init__(enable_latency_logging=False, grace_period=GRACE_SECONDS)
        self._role, self._settings, self._release = role, settings, release

    def start(self, models: list[Any]) -> None:
        """Serve until SIGTERM or SIGINT; requests under way are finished."""
        for model in models:
            self.register_model(model)
        network, colour = self._settings.network, self._release.colour
        model_server.app.add_exception_handler(GrpcException, _refused)
        self._rest_server = RESTServer(
            "kserve.model_server:app",
            self.dataplane,
            self.model_repository_extension,
            network.predictor(self._role, colour, "rest"),
            grace_period=GRACE_SECONDS,
        )
        self._rest_server.config.host = network.host
        address = self._settings.predictor_address(self._role, colour)
        self._grpc_server = _GrpcServer(
            address, self._release.release_id, self.dataplane, self.model_repository_extension
        )
        self.servers = [self._rest_server.start(), self._grpc_server.start(1)]
        uvloop.run(self._run())

    async def _run(self) -> None:
        self.setup_event_loop()
        self.register_signal_handler()
        await self._serve()


async def _refused(_: Request, error: Exception) -> JSONResponse:
    """A refusal of `Predictor.predict`, as REST says it."""
    refusal = cast(GrpcException, error)
    status = 412 if isinstance(refusal, FailedPrecondition) else 400
    return JSONResponse({"error": refusal.details}, status)


def verified(role: Role, release: Release, releases: Releases) -> Opened:
    """The artifacts of a release that a role holds, every byte of them checked.

    Raises:
        ArtifactError: one is not what the release was validated with.
    """
    return {kind: releases.open(release, kind) for kind in ARTIFACTS_OF_ROLE[role]}


def run(role: Role, open_engine: Callable[[Settings, Release, Opened], Engine], arguments: Sequence[str]) -> int:
    """The process of one predictor; returns its exit code.

    A release that is missing or does not match its manifests ends the process before it listens.
    """
    parser = argparse.ArgumentParser(prog=f"python -m serving.predictors.{role}")
    parser.add_argument("--colour", choices=COLOURS, required=True, help="which release file to hold")
    options = parser.parse_args(arguments)
    _log_to_stderr()
    try:
        settings = configuration.load()
        events.configure(settings.events.custom)
        releases = Releases(Path(settings.storage.root).resolve())
        release = releases.candidate(options.colour)
        if release is None:
            log.error(
                "no release for %s: %s is not there; deploy one",
                options.colour,
                releases.candidate_file(options.colour),
            )
            return Exit.CONFIG
        opened = verified(role, release, releases)
        _limit_threads(settings.predictors.tensorflow_threads)
        engine = open_engine(settings, release, opened)
        started = time.monotonic()
        engine.warm_up()
        # A full collection would walk through TensorFlow and the catalogue while requests wait: 260 ms.
        gc.collect()
        gc.freeze()
        log.info("%s of release %s is warm after %.1f s", role, release.release_id, time.monotonic() - started)
        stages.RELEASE.labels(role, release.release_id).set(1)
        server = Server(settings, release, role)
        server.start([Predictor(role, release.release_id, engine, settings.predictors.threads)])
    except RecsysError as error:
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code
    return Exit.OK


def _limit_threads(threads: int) -> None:
    """Before TensorFlow's first operation: several processes share the cores, and pools of threads fight for them.

    Numpy's pool is the worst: its threads spin after each product, and on a busy machine turn the 0.4 ms of the
    evidence into 16 and the user tower's 2.5 ms, right behind them, into 15.
    """
    import tensorflow as tf

    threadpoolctl.threadpool_limits(1, user_api="blas")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _log_to_stderr() -> None:
    """Our own lines from INFO, KServe's from WARNING: as shipped it writes several lines per request."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.access", "feast", "absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # KServe configures its logger itself where it finds no handler.
    logging.getLogger("kserve").addHandler(logging.NullHandler())
