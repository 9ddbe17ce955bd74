"""The gRPC clients of the predictors: one for the API's event loop, one for scripts and deployments.

Both speak the wire contract of `recsys.inference` and raise its errors, whatever gRPC says.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from recsys.errors import RecsysError
from recsys.inference import (
    RELEASE_HEADER,
    RankingRequest,
    RankingResponse,
    Refused,
    RetrievalRequest,
    RetrievalResponse,
    Timeout,
    Unavailable,
    WrongRelease,
    messages,
    read_response,
    request_message,
)
from recsys.settings import Role

OPTIONS = [
    # A predictor that was restarted on its port is found again within a second, not within gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A peer that vanished without closing is noticed after 12 s; the predictors allow pings this often.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

Response = TypeVar("Response", RetrievalResponse, RankingResponse)


def answered(message: Any, address: str, kind: type[Response]) -> Response:
    """The answer in a `ModelInferResponse`. Raises Refused where it is not one of this version of the wire."""
    try:
        return kind.from_tensors(*read_response(message))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        remedy = "start it again with this code, or deploy again"
        raise Refused(f"{address} answers in another version of the wire: {error}; {remedy}") from error


def translated(error: grpc.RpcError, address: str, deadline: float) -> RecsysError:
    """The platform's own error for a failed call."""
    code, details = error.code(), error.details()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Timeout(f"{address} did not answer within {1000 * deadline:.0f} ms")
    if code == grpc.StatusCode.FAILED_PRECONDITION:
        return WrongRelease(f"{address}: {details}")
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return Refused(f"{address} refused the request: {details}")
    return Unavailable(f"{address}: {code.name} {details}")


def _methods(channel: Any) -> dict[str, Any]:
    calls = {
        "ModelInfer": messages.ModelInferResponse,
        "ModelReady": messages.ModelReadyResponse,
        "ModelMetadata": messages.ModelMetadataResponse,
    }
    return {
        name: channel.unary_unary(
            f"/inference.GRPCInferenceService/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        for name, answer in calls.items()
    }


class Client:
    """Asynchronous client of any number of predictors; one channel per address, kept open.

    Deadlines are seconds. Calls raise Unavailable, Timeout, WrongRelease or Refused, and nothing else.
    """

    def __init__(self) -> None:
        self._channels: dict[str, tuple[grpc.aio.Channel, dict[str, Any]]] = {}

    async def retrieve(
        self, address: str, request: RetrievalRequest, *, release: str = "", deadline: float
    ) -> RetrievalResponse:
        answer = await self._call(address, "ModelInfer", request_message(request, release), deadline, release)
        return answered(answer, address, RetrievalResponse)

    async def rank(
        self, address: str, request: RankingRequest, *, release: str = "", deadline: float
    ) -> RankingResponse:
        answer = await self._call(address, "ModelInfer", request_message(request, release), deadline, release)
        return answered(answer, address, RankingResponse)

    async def ready(self, address: str, role: Role, *, deadline: float = 1.0) -> bool:
        """Whether the predictor is up and warm; False, never an error, where it is not."""
        try:
            answer = await self._call(address, "ModelReady", messages.ModelReadyRequest(name=role), deadline)
        except RecsysError:
            return False
        return bool(answer.ready)

    async def close(self) -> None:
        for channel, _ in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def _call(self, address: str, method: str, message: Any, deadline: float, release: str = "") -> Any:
        if address not in self._channels:
            channel = grpc.aio.insecure_channel(address, options=OPTIONS)
            self._channels[address] = (channel, _methods(channel))
        call: Callable[..., Awaitable[Any]] = self._channels[address][1][method]
        header = ((RELEASE_HEADER, release),) if release else ()
        try:
            return await call(message, timeout=deadline, metadata=header)
        except grpc.aio.AioRpcError as error:
            raise translated(error, address, deadline) from error


class BlockingClient:
    """The same for scripts and deployments; one address, use it in a `with` block."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._methods = _methods(self._channel)

    def __enter__(self) -> "BlockingClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def retrieve(self, request: RetrievalRequest, *, release: str = "", deadline: float = 5.0) -> RetrievalResponse:
        answer = self._call("ModelInfer", request_message(request, release), deadline, release)
        return answered(answer, self.address, RetrievalResponse)

    def rank(self, request: RankingRequest, *, release: str = "", deadline: float = 5.0) -> RankingResponse:
        answer = self._call("ModelInfer", request_message(request, release), deadline, release)
        return answered(answer, self.address, RankingResponse)

    def ready(self, role: Role, *, deadline: float = 1.0) -> bool:
        """Whether the predictor is up and warm; False, never an error, where it is not."""
        try:
            return bool(self._call("ModelReady", messages.ModelReadyRequest(name=role), deadline).ready)
        except RecsysError:
            return False

    def release(self, role: Role, *, deadline: float = 1.0) -> str:
        """Id of the release that the predictor holds."""
        answer = self._call("ModelMetadata", messages.ModelMetadataRequest(name=role), deadline)
        return str(answer.versions[0]) if answer.versions else ""

    def _call(self, method: str, message: Any, deadline: float, release: str = "") -> Any:
        header = ((RELEASE_HEADER, release),) if release else ()
        try:
            return self._methods[method](message, timeout=deadline, metadata=header)
        except grpc.RpcError as error:
            raise translated(error, self.address, deadline) from error
