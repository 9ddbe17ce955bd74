"""THE wire contract between the API and the predictors: tensor names, requests, answers and errors.

The protocol is KServe's Open Inference Protocol v2 with raw tensors. Its messages are KServe's own generated
file, loaded by its path: `import kserve` would bring pandas, Kubernetes and FastAPI (0.8 s and 126 MB, against
13 ms and 2 MB), and the API needs none of them.

Every request names the release it must be answered from, or "" for any, and every answer names the release that
made it, so that one page never mixes two releases.
"""

import importlib.util
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from recsys.errors import Permanent, Retryable
from recsys.settings import Role

RELEASE_HEADER = "x-recsys-release"  # pins a request to a colour where a gateway routes (Kubernetes)
HEADS = ("click", "cart", "purchase", "revenue")
MAX_CANDIDATES = 3_000  # the widest funnel; more would not be ranked in time

Tensors = Mapping[str, NDArray[Any]]
NOTHING = np.empty(0, np.float32)


class Unavailable(Retryable):
    """The predictor cannot be reached, is not ready, or failed."""


class Timeout(Retryable):
    """The predictor did not answer within the deadline."""


class WrongRelease(Retryable):
    """The predictor holds another release than the one asked for; resolve the live release again."""


class Refused(Permanent):
    """The predictor says that the request itself is wrong, or answers in another version of the wire."""


class Deed(NamedTuple):
    """One positive event of a visitor; `time` is epoch seconds."""

    time: int
    event: str
    item_id: str

    def encode(self) -> str:
        return f"{self.time}\t{self.event}\t{self.item_id}"

    @classmethod
    def decode(cls, line: str) -> Self:
        """What `encode` wrote. Raises ValueError for anything else."""
        try:
            time, event, item_id = line.split("\t", 2)
            return cls(int(time), event, item_id)
        except ValueError:
            raise ValueError(f"a deed is <epoch seconds> TAB <event> TAB <item_id>, got {line!r}") from None


@dataclass(frozen=True)
class Profile:
    """What retrieval knew about the visitor.

    Attributes:
        known: the feature store holds this user or session.
        history_size: positive events that the user tower saw, after the request's own were added.
        region: of the profile, or of the request where the profile has none.
        age_group: band such as "25-34", or "".
        recent: item ids of the history, newest first, at most 20.
        degraded: the feature store did not answer, so the visitor was served as a stranger.
    """

    known: bool
    history_size: int
    region: str
    age_group: str
    recent: tuple[str, ...] = ()
    degraded: bool = False

    def to_json(self) -> str:
        return orjson.dumps(self).decode()

    @staticmethod
    def from_json(text: str) -> "Profile":
        raw = orjson.loads(text)
        return Profile(**raw | {"recent": tuple(raw["recent"])})


@dataclass(frozen=True)
class RetrievalRequest:
    """Ask for candidates.

    Attributes:
        user_id: "" for an anonymous visitor.
        session_id: "" if none; its history is used where the user has none.
        query_item: candidates similar to this item instead of personal ones; "" for personal.
        recent: what the visitor did this moment, which the feature store may not know yet, oldest first.
        preferences: categories that the visitor stated this moment; empty: those of the feature store.
        region: country of the visitor; "" if unknown.
        k: candidates wanted, 1..MAX_CANDIDATES.
    """

    model: ClassVar[Role] = "retrieval"
    user_id: str = ""
    session_id: str = ""
    query_item: str = ""
    recent: tuple[Deed, ...] = ()
    preferences: tuple[str, ...] = ()
    region: str = ""
    k: int = 500

    def tensors(self) -> dict[str, NDArray[Any]]:
        names = ("user_id", "session_id", "query_item", "region")
        texts = {name: strings([getattr(self, name)]) for name in names}
        return texts | _moment(self) | {"k": np.array([self.k], np.int32)}

    @staticmethod
    def from_tensors(tensors: Tensors) -> "RetrievalRequest":
        """Raises KeyError or ValueError if a tensor is missing or empty, or `k` is out of range."""
        names = ("user_id", "session_id", "query_item", "region")
        texts: dict[str, Any] = {name: str(_single(tensors, name)) for name in names}
        k = int(_single(tensors, "k"))
        if not 1 <= k <= MAX_CANDIDATES:
            raise ValueError(f"k must be in 1..{MAX_CANDIDATES}, got {k}")
        return RetrievalRequest(**texts, **_read_moment(tensors), k=k)


@dataclass(frozen=True, eq=False)
class RetrievalResponse:
    """Candidates, best first.

    Attributes:
        item_ids: [k] str objects.
        scores: [k] float32, cosine of user and item embedding.
        because: [k] int32, which of `causes` is each candidate's; many candidates have few between them.
        causes: [m] an item of the visitor's history that is like the candidate and without which the candidate would
            score lower; the candidate itself where the history holds it; or "".
        cause_events: [m] what the visitor did with it last, or "".
        query: [dim] float32, unit norm, of the visitor, or of the request's item: times an item's vector, it is that
            item's score, whichever source proposed it.
        profile: what was known about the visitor.
        visitor: the same in full, in the predictors' own form, for a `RankingRequest` of the same moment.
        release: id of the release that answered.
        timings: milliseconds by stage of the predictor.
    """

    _ARRAYS: ClassVar = ("item_ids", "scores", "because", "causes", "cause_events", "query")
    item_ids: NDArray[np.object_]
    scores: NDArray[np.float32]
    because: NDArray[np.int32]
    causes: NDArray[np.object_]
    cause_events: NDArray[np.object_]
    query: NDArray[np.float32]
    profile: Profile
    visitor: str = ""
    release: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def evidence(self) -> NDArray[np.object_]:
        """[k] the cause of each candidate."""
        return self.causes[self.because]

    @property
    def evidence_events(self) -> NDArray[np.object_]:
        """[k] what the visitor did last with the cause of each candidate."""
        return self.cause_events[self.because]

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, name) for name in self._ARRAYS} | {
            "profile": strings([self.profile.to_json()]),
            "visitor": strings([self.visitor]),
        }

    @staticmethod
    def from_tensors(tensors: Tensors, release: str, timings: Mapping[str, float]) -> "RetrievalResponse":
        """Raises KeyError, ValueError or TypeError for tensors of another version of the wire."""
        arrays = {name: _tensor(tensors, name) for name in RetrievalResponse._ARRAYS}
        because, count = arrays["because"], min(len(arrays["causes"]), len(arrays["cause_events"]))
        if because.dtype != np.int32 or not ((because >= 0) & (because < count)).all():
            raise ValueError(f"because must be places among {count} causes, got {because}")
        profile, visitor = Profile.from_json(_single(tensors, "profile")), str(_single(tensors, "visitor"))
        return RetrievalResponse(**arrays, profile=profile, visitor=visitor, release=release, timings=timings)


@dataclass(frozen=True, eq=False)
class RankingRequest:
    """Ask for the scores of candidates, all in one forward pass.

    Attributes:
        user_id, session_id, region: as in RetrievalRequest.
        surface: where the items will be shown.
        item_ids: [n] str.
        retrieval_scores: [n] float32, as retrieval gave them; 0 or NaN for an item from another source. Their order
            gives the retrieval rank, so the items themselves may come in any order.
        recent, preferences: as in RetrievalRequest, where there is no `visitor`; beside one they say nothing, for what
            a shopper did and stated this moment goes to retrieval, whose answer carries it on.
        blend: weights of HEADS in the final score, at least 0 and not all 0; empty: the weights of the release.
        visitor: who asks as retrieval knew them, from its response; "": the predictor reads them itself. With it both
            see the same history at the same second, the feature store is read once, and the past can be asked again.
        features_of: an item of the request whose inputs the response shall have as well; "" for none.
    """

    model: ClassVar[Role] = "ranking"
    item_ids: Sequence[str] | NDArray[np.object_]
    retrieval_scores: Sequence[float] | NDArray[np.float32]
    user_id: str = ""
    session_id: str = ""
    region: str = ""
    surface: str = "home"
    recent: tuple[Deed, ...] = ()
    preferences: tuple[str, ...] = ()
    blend: Mapping[str, float] = field(default_factory=dict)
    visitor: str = ""
    features_of: str = ""

    def tensors(self) -> dict[str, NDArray[Any]]:
        names = ("user_id", "session_id", "region", "surface", "visitor", "features_of")
        texts = {name: strings([getattr(self, name)]) for name in names}
        return (
            texts
            | _moment(self)
            | {
                "item_ids": strings(self.item_ids),
                "retrieval_scores": np.asarray(self.retrieval_scores, np.float32),
                # NaN where the weight of the release holds.
                "blend": np.array([self.blend.get(head, np.nan) for head in HEADS], np.float32),
            }
        )

    @staticmethod
    def from_tensors(tensors: Tensors) -> "RankingRequest":
        """Raises KeyError or ValueError if a tensor is missing, the lengths differ, or the weights are senseless."""
        texts: dict[str, Any] = {n: str(_single(tensors, n)) for n in ("user_id", "session_id", "region", "surface")}
        texts |= {n: str(_single(tensors, n)) for n in ("visitor", "features_of") if n in tensors}
        items, scores = tensors["item_ids"], tensors["retrieval_scores"]
        if items.shape != scores.shape or items.ndim != 1:
            raise ValueError(f"item_ids {items.shape} and retrieval_scores {scores.shape} must both be [n]")
        given = zip(HEADS, tensors.get("blend", np.full(len(HEADS), np.nan)), strict=True)
        blend = {head: float(weight) for head, weight in given if not np.isnan(weight)}
        if blend and (min(blend.values()) < 0 or not 0 < sum(blend.values()) < np.inf):
            raise ValueError(f"blend weights must be at least 0 and not all 0, got {blend}")
        return RankingRequest(items, scores, **texts, **_read_moment(tensors), blend=blend)


@dataclass(frozen=True, eq=False)
class RankingResponse:
    """Scores in the order of the request.

    Attributes:
        scores: [n] float32, the blend of the heads.
        click, cart, purchase: [n] float32 probabilities.
        revenue: [n] float32, expected, in average purchases of the training data.
        release: id of the release that answered.
        timings: milliseconds by stage of the predictor.
        features: [F] float32, what the forward pass saw of the item that the request names in `features_of`, in the
            order of `transforms.RANKING_FEATURES`; empty where it names none.
    """

    scores: NDArray[np.float32]
    click: NDArray[np.float32]
    cart: NDArray[np.float32]
    purchase: NDArray[np.float32]
    revenue: NDArray[np.float32]
    release: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    features: NDArray[np.float32] = field(default_factory=lambda: NOTHING)

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, name) for name in ("scores", *HEADS, "features")}

    @staticmethod
    def from_tensors(tensors: Tensors, release: str, timings: Mapping[str, float]) -> "RankingResponse":
        """Raises KeyError for tensors of another version of the wire."""
        arrays = {name: _tensor(tensors, name) for name in ("scores", *HEADS)}
        features = tensors.get("features", NOTHING)
        return RankingResponse(**arrays, release=release, timings=timings, features=features)


def strings(values: Sequence[str] | NDArray[np.object_]) -> NDArray[np.object_]:
    """[n] array of str objects, numpy's form of a BYTES tensor."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _moment(request: "RetrievalRequest | RankingRequest") -> dict[str, NDArray[Any]]:
    """What only this moment knows, as tensors of any length."""
    deeds = [deed.encode() for deed in request.recent]
    return {"recent": strings(deeds), "preferences": strings(request.preferences)}


def _read_moment(tensors: Tensors) -> dict[str, Any]:
    """The inverse of `_moment`; a caller with nothing to say may leave the tensors out."""
    nothing = strings([])
    recent, preferences = (tensors.get(name, nothing).ravel().tolist() for name in ("recent", "preferences"))
    return {"recent": tuple(map(Deed.decode, recent)), "preferences": tuple(preferences)}


def _tensor(tensors: Tensors, name: str) -> NDArray[Any]:
    if name not in tensors:
        raise KeyError(f"tensor {name!r} is missing; got {sorted(tensors)}")
    return tensors[name]


def _single(tensors: Tensors, name: str) -> Any:
    tensor = _tensor(tensors, name)
    if tensor.size != 1:
        raise ValueError(f"tensor {name!r} must hold one value, got shape {tensor.shape}")
    return tensor.ravel()[0]


def _load_messages() -> Any:
    package = importlib.util.find_spec("kserve")
    if package is None or package.origin is None:
        raise Permanent("the package kserve is not installed; run `make setup`")
    path = Path(package.origin).parent / "protocol" / "grpc" / "grpc_predict_v2_pb2.py"
    spec = importlib.util.spec_from_file_location("recsys_predict_v2", path)
    if spec is None or spec.loader is None:
        raise Permanent(f"kserve has no {path}; install the version of infra/locks/platform.txt")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


messages = _load_messages()
_LENGTH = struct.Struct("<I")
_DTYPES = {"INT32": np.dtype(np.int32), "FP32": np.dtype(np.float32)}


def encode(tensor: NDArray[Any]) -> tuple[str, bytes]:
    """A tensor's datatype and raw bytes: BYTES elements have a 4-byte length before them, numbers are little-endian."""
    if tensor.dtype == object:
        encoded = [value.encode() for value in tensor.ravel().tolist()]
        lengths = map(_LENGTH.pack, map(len, encoded))
        return "BYTES", b"".join(chain.from_iterable(zip(lengths, encoded, strict=True)))
    if tensor.dtype == np.int32:
        return "INT32", tensor.tobytes()
    return "FP32", np.asarray(tensor, np.float32).tobytes()


def decode(datatype: str, shape: Sequence[int], raw: bytes) -> NDArray[Any]:
    """The inverse of `encode`. Raises ValueError for another datatype or a wrong length."""
    if datatype in _DTYPES:
        return np.frombuffer(raw, _DTYPES[datatype]).reshape(shape)
    if datatype != "BYTES":
        raise ValueError(f"datatype {datatype!r} is not one of BYTES, {', '.join(_DTYPES)}")
    values, start = [], 0
    while start < len(raw):
        end = start + 4 + int.from_bytes(raw[start : start + 4], "little")
        values.append(raw[start + 4 : end].decode())
        start = end
    return strings(values).reshape(shape)


def request_message(request: RetrievalRequest | RankingRequest, release: str) -> Any:
    """A `ModelInferRequest` with raw tensors."""
    message = messages.ModelInferRequest(model_name=request.model)
    message.parameters["release"].string_param = release
    for name, tensor in request.tensors().items():
        datatype, raw = encode(tensor)
        message.inputs.add(name=name, datatype=datatype, shape=tensor.shape)
        message.raw_input_contents.append(raw)
    return message


def response_message(response: RetrievalResponse | RankingResponse, model: str, request_id: str = "") -> Any:
    """A `ModelInferResponse` with raw tensors."""
    message = messages.ModelInferResponse(model_name=model, model_version=response.release, id=request_id)
    message.parameters["release"].string_param = response.release
    message.parameters["timings"].string_param = orjson.dumps(dict(response.timings)).decode()
    for name, tensor in response.tensors().items():
        datatype, raw = encode(tensor)
        message.outputs.add(name=name, datatype=datatype, shape=tensor.shape)
        message.raw_output_contents.append(raw)
    return message


def read_response(message: Any) -> tuple[dict[str, NDArray[Any]], str, dict[str, float]]:
    """Tensors by name, release id and timings of a `ModelInferResponse`."""
    pairs = zip(message.outputs, message.raw_output_contents, strict=True)
    tensors = {output.name: decode(output.datatype, output.shape, raw) for output, raw in pairs}
    timings = orjson.loads(message.parameters["timings"].string_param or "{}")
    return tensors, message.parameters["release"].string_param, timings
