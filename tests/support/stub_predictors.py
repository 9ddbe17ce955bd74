"""Predictors without models, that speak the real protocol, hold a release, and misbehave on demand.

`StubBackend` runs one gRPC server per role and colour, in threads, or in processes that outlive the one that starts
them. `<root>/stub.json` says how the stub of a release behaves, by release id: "" well, "corrupt" (ends at once),
"never_ready", "nan", "unsorted", "strangers" (items that nobody sells), "other_release", "slow" (60 ms more), "fails"
(an error for some users), "dies" (ends a second after it was first asked), "degraded" (has no feature store), "old"
(answers without what this version of the wire has besides).
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from models import catalogue
from models.release import Release, Releases
from recsys import inference, inference_client
from recsys.errors import Permanent
from recsys.inference import Profile, RankingRequest, RankingResponse, RetrievalRequest, RetrievalResponse, messages
from recsys.settings import ROLES, Colour, Role, Settings

NEWEST = 2  # tensors that every version of retrieval has answered with: the items and their scores
NOBODY = "nobody"
KNOWN_USERS = ("u1", "u2", "u3")
_STARTED: list[subprocess.Popen[bytes]] = []  # a Popen that is collected before its process ends warns


class StubBackend:
    """A backend (see pipelines.backend) whose predictors are stubs."""

    def __init__(self, settings: Settings, *, processes: bool = False) -> None:
        self._settings = settings
        self._processes = processes
        self._servers: dict[Colour, grpc.Server] = {}
        self.root = Path(settings.storage.root).resolve()

    def start(self, colour: Colour) -> None:
        self.stop(colour)
        ports = [self._settings.network.predictor(role, colour, "grpc") for role in ROLES]
        if not self._processes:
            self._start_threads(colour, ports)
            return
        command = [sys.executable, __file__, str(self.root), colour, *map(str, ports)]
        stub = subprocess.Popen(command, start_new_session=True)
        _STARTED.append(stub)
        self._pid_file(colour).write_text(str(stub.pid))

    def stop(self, colour: Colour) -> None:
        if server := self._servers.pop(colour, None):
            server.stop(None).wait()
        if process := self._process(colour):
            process.kill()
            process.wait(10)
        self._pid_file(colour).unlink(missing_ok=True)

    def running(self, colour: Colour) -> bool:
        return colour in self._servers or self._process(colour) is not None

    def ready(self, colour: Colour) -> bool:
        if not self.running(colour):
            raise Permanent(f"the stub of {colour} has ended")
        for role in ROLES:
            with inference_client.BlockingClient(self.address(role, colour)) as client:
                if not client.ready(role):
                    return False
        return True

    def address(self, role: Role, colour: Colour) -> str:
        return self._settings.predictor_address(role, colour)

    def _start_threads(self, colour: Colour, ports: list[int]) -> None:
        def die() -> None:
            self._servers.pop(colour).stop(None)

        try:
            self._servers[colour] = serve(self.root, colour, ports, die)
        except Corrupt:
            return  # a real predictor ends

    def _pid_file(self, colour: Colour) -> Path:
        return self.root / f"stub-{colour}.pid"

    def _process(self, colour: Colour) -> psutil.Process | None:
        try:
            process = psutil.Process(int(self._pid_file(colour).read_text()))
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None
        return None if process.status() == psutil.STATUS_ZOMBIE else process


class Corrupt(Exception):
    """The stub cannot load its release."""


class Stub:
    """What one colour answers."""

    def __init__(self, root: Path, release: Release, die: Callable[[], None]) -> None:
        self._die, self._dying = die, False
        releases = Releases(root)
        for kind in release.artifacts:
            releases.open(release, kind)  # type: ignore[arg-type]
        opened = releases.open(release, "catalogue")
        self.ids = catalogue.read(opened.path, opened.manifest.meta).ids
        self.release = release.release_id
        stub = root / "stub.json"
        self.behaviour = json.loads(stub.read_text()).get(self.release, "") if stub.exists() else ""
        if self.behaviour == "corrupt":
            raise Corrupt

    def infer(self, message: Any, context: grpc.ServicerContext) -> Any:
        wanted = message.parameters["release"].string_param
        if wanted and wanted != self.release:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"holds {self.release}")
        if self.behaviour == "dies" and not self._dying:
            self._dying = True
            threading.Timer(1.0, self._die).start()
        raw = zip(message.inputs, message.raw_input_contents, strict=True)
        tensors = {tensor.name: inference.decode(tensor.datatype, tensor.shape, data) for tensor, data in raw}
        if message.model_name == "retrieval":
            answer = inference.response_message(self.retrieve(RetrievalRequest.from_tensors(tensors)), "retrieval")
            if self.behaviour == "old":
                del answer.outputs[NEWEST:], answer.raw_output_contents[NEWEST:]
            return answer
        return inference.response_message(self.rank(RankingRequest.from_tensors(tensors)), "ranking")

    def retrieve(self, ask: RetrievalRequest) -> RetrievalResponse:
        if self.behaviour == "slow":
            time.sleep(0.06)
        if self.behaviour == "fails" and ask.user_id in KNOWN_USERS[1:]:
            raise RuntimeError("planted")
        count = min(ask.k, len(self.ids))
        scores = np.linspace(1, 0, count, dtype=np.float32)
        ids = self.ids[:count]
        if self.behaviour == "nan":
            scores = np.full(count, np.nan, np.float32)
        if self.behaviour == "unsorted":
            scores = scores[::-1].copy()
        if self.behaviour == "strangers":
            ids = inference.strings([f"stranger-{row}" for row in range(count)])
        profile = Profile(ask.user_id in KNOWN_USERS, 1, "", "", degraded=self.behaviour == "degraded")
        nothing = inference.strings([""])
        release = "another" if self.behaviour == "other_release" else self.release
        return RetrievalResponse(
            ids,
            scores,
            np.zeros(count, np.int32),
            nothing,
            nothing,
            np.ones(1, np.float32),
            profile,
            visitor=ask.user_id or NOBODY,
            release=release,
        )

    def rank(self, ask: RankingRequest) -> RankingResponse:
        if ask.visitor != (ask.user_id or NOBODY):
            raise RuntimeError("who asks was not handed on from retrieval, as the API does")
        scores = np.asarray(ask.retrieval_scores, np.float32)
        return RankingResponse(scores, scores, scores, scores, scores, self.release)

    def ready(self, message: Any, context: grpc.ServicerContext) -> Any:
        return messages.ModelReadyResponse(ready=self.behaviour != "never_ready")


def serve(root: Path, colour: Colour, ports: Sequence[int], die: Callable[[], None]) -> grpc.Server:
    """Start the stub of a colour. Raises Corrupt if there is no release for it, or one that it cannot load."""
    release = Releases(root).candidate(colour)
    if release is None:
        raise Corrupt
    stub = Stub(root, release, die)
    calls = {
        "ModelInfer": (stub.infer, messages.ModelInferRequest),
        "ModelReady": (stub.ready, messages.ModelReadyRequest),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=ask.FromString, response_serializer=lambda answer: answer.SerializeToString()
        )
        for name, (call, ask) in calls.items()
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    for port in ports:
        server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


if __name__ == "__main__":
    of: Colour = "green" if sys.argv[2] == "green" else "blue"
    serve(Path(sys.argv[1]), of, [int(port) for port in sys.argv[3:]], lambda: os._exit(1)).wait_for_termination()
