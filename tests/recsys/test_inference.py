"""The wire contract: what is sent is what arrives, and failures have names."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import inference, inference_client
from recsys.inference import Deed, Profile, RankingRequest, RankingResponse, RetrievalRequest, RetrievalResponse

text = st.text(max_size=12)


def received(message: object) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """The tensors of a request message after a trip over the wire."""
    arrived = inference.messages.ModelInferRequest.FromString(message.SerializeToString())  # type: ignore[attr-defined]
    pairs = zip(arrived.inputs, arrived.raw_input_contents, strict=True)
    return {tensor.name: inference.decode(tensor.datatype, tensor.shape, raw) for tensor, raw in pairs}


VIEWED = Deed(1_700_000_000, "view", "i9")
deeds = st.lists(st.builds(Deed, st.integers(0, 2**40), st.sampled_from(["view", "purchase"]), text), max_size=3)


@given(text, text, text, deeds, st.lists(text, max_size=3), text, st.integers(1, 3000))
def test_a_retrieval_request_arrives_as_it_was(
    user: str, session: str, query: str, recent: list[Deed], stated: list[str], region: str, k: int
) -> None:
    request = RetrievalRequest(user, session, query, tuple(recent), tuple(stated), region, k)
    message = inference.request_message(request, "r7")
    assert message.parameters["release"].string_param == "r7"
    assert RetrievalRequest.from_tensors(received(message)) == request


@given(
    st.lists(st.tuples(text, st.floats(-1, 1, width=32)), max_size=20),
    st.sampled_from([{}, {"click": 2.0}, {"revenue": 1.0}]),
)
def test_a_ranking_request_arrives_as_it_was(items: list[tuple[str, float]], blend: dict[str, float]) -> None:
    ids, scores = [i for i, _ in items], [s for _, s in items]
    request = RankingRequest(ids, scores, user_id="u", surface="cart", recent=(VIEWED,), blend=blend, features_of="é")
    found = RankingRequest.from_tensors(received(inference.request_message(request, "")))
    assert list(found.item_ids) == ids
    np.testing.assert_array_equal(found.retrieval_scores, np.array(scores, np.float32))
    assert (found.user_id, found.surface, found.recent, found.blend) == ("u", "cart", (VIEWED,), blend)
    assert found.features_of == "é"


def test_responses_arrive_as_they_were() -> None:
    profile = Profile(True, 3, "France", "25-34", ("i1", "i2"), degraded=True)
    ids, scores = inference.strings(["é", "i2", "i3", "i4"]), np.array([0.5, 0.25, 0.1, 0.1], np.float32)
    because, causes, events = np.array([0, 1, 0, 1], np.int32), *map(inference.strings, (["", "i2"], ["", "view"]))
    query = np.array([0.6, -0.8, 0.0], np.float32)
    sent = RetrievalResponse(ids, scores, because, causes, events, query, profile, "{é}", "r1", {"tower": 1.5})
    message = inference.response_message(sent, "retrieval", "id-1")
    arrived = inference.messages.ModelInferResponse.FromString(message.SerializeToString())
    assert (arrived.id, arrived.model_version) == ("id-1", "r1")
    found = RetrievalResponse.from_tensors(*inference.read_response(arrived))
    assert found.item_ids.tolist() == ["é", "i2", "i3", "i4"]
    assert found.evidence.tolist() == ["", "i2", "", "i2"]
    assert found.evidence_events.tolist() == ["", "view", "", "view"]
    np.testing.assert_array_equal(found.query, query)
    assert (found.profile, found.visitor) == (profile, "{é}")
    assert (found.release, found.timings) == ("r1", {"tower": 1.5})
    plain = RankingResponse(scores, scores, scores, scores, 2 * scores, "r1")
    for features in ([], [1.5, -2.0]):
        answered = replace(plain, features=np.array(features, np.float32))
        ranked = inference.read_response(inference.response_message(answered, "ranking"))
        assert RankingResponse.from_tensors(*ranked).revenue.tolist() == (2 * scores).tolist()
        assert RankingResponse.from_tensors(*ranked).features.tolist() == features


@contextmanager
def answering(message: Any) -> Iterator[str]:
    """The address of a predictor that knows one answer."""
    serializer = inference.messages.ModelInferResponse.SerializeToString
    method = grpc.unary_unary_rpc_method_handler(lambda *_: message, response_serializer=serializer)
    server = grpc.server(ThreadPoolExecutor(1))
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


SCORE = np.array([0.5], np.float32)
CANDIDATE = inference.strings(["i1"])
FIRST = np.zeros(1, np.int32)
CANDIDATES = RetrievalResponse(CANDIDATE, SCORE, FIRST, CANDIDATE, CANDIDATE, SCORE, Profile(True, 1, "", ""))
SCORES = RankingResponse(SCORE, SCORE, SCORE, SCORE, SCORE)


@pytest.mark.parametrize(
    ("answer", "tensor", "instead", "words"),
    [
        (CANDIDATES, "because", None, "tensor 'because' is missing"),
        (CANDIDATES, "because", np.array([9], np.int32), "because must be places among 1 causes"),
        (CANDIDATES, "causes", None, "tensor 'causes' is missing"),
        (CANDIDATES, "visitor", None, "tensor 'visitor' is missing"),
        (CANDIDATES, "profile", inference.strings(["ann"]), "expected a JSON value"),
        (CANDIDATES, "profile", inference.strings(['{"recent": [], "name": "ann"}']), "'name'"),
        (SCORES, "revenue", None, "tensor 'revenue' is missing"),
    ],
)
async def test_an_answer_of_another_version_is_refused_by_both_clients(
    answer: RetrievalResponse | RankingResponse, tensor: str, instead: Any, words: str
) -> None:
    """So whoever asks falls a rung, or loads the colour anew."""
    message = inference.response_message(answer, "any")
    place = [output.name for output in message.outputs].index(tensor)
    if instead is None:
        del message.outputs[place], message.raw_output_contents[place]
    else:
        _, message.raw_output_contents[place] = inference.encode(instead)
    ask: Any = RetrievalRequest() if answer is CANDIDATES else RankingRequest(["i1"], [0.5])
    method = "retrieve" if answer is CANDIDATES else "rank"
    with answering(message) as address, inference_client.BlockingClient(address) as blocking:
        why = f"{address} answers in another version of the wire: .*{words}.*start it again"
        with pytest.raises(inference.Refused, match=why):
            getattr(blocking, method)(ask)
        client = inference_client.Client()
        with pytest.raises(inference.Refused, match=why):
            await getattr(client, method)(address, ask, deadline=5.0)
        await client.close()


def test_a_request_without_a_tensor_is_named() -> None:
    tensors = RetrievalRequest(k=5).tensors()
    with pytest.raises(KeyError, match="tensor 'k' is missing"):
        RetrievalRequest.from_tensors({name: value for name, value in tensors.items() if name != "k"})
    with pytest.raises(ValueError, match="'k' must hold one value"):
        RetrievalRequest.from_tensors(tensors | {"k": np.array([1, 2], np.int32)})
    with pytest.raises(ValueError, match=r"k must be in 1..3000, got 0"):
        RetrievalRequest.from_tensors(RetrievalRequest(k=0).tensors())
    with pytest.raises(ValueError, match="a deed is <epoch seconds> TAB"):
        RetrievalRequest.from_tensors(tensors | {"recent": inference.strings(["yesterday"])})
    with pytest.raises(ValueError, match="datatype 'FP64'"):
        inference.decode("FP64", [1], b"\0" * 8)


@pytest.mark.parametrize("weights", [{"click": -1.0}, {"click": 0.0, "cart": 0.0}, {"purchase": float("inf")}])
def test_senseless_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="blend weights must be at least 0"):
        RankingRequest.from_tensors(RankingRequest(["i"], [0.1], blend=weights).tensors())


def test_the_contract_needs_nothing_of_kserve_but_its_messages() -> None:
    """Half the API's start-up time and memory hang on it."""
    import subprocess
    import sys

    code = "import sys, recsys.inference; sys.exit(any(m in sys.modules for m in ('kserve', 'pandas', 'fastapi')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nobody_listening_is_unavailable() -> None:
    with inference_client.BlockingClient("127.0.0.1:1") as client:
        assert client.ready("retrieval") is False
        with pytest.raises(inference.Unavailable, match=r"127\.0\.0\.1:1"):
            client.retrieve(RetrievalRequest(), deadline=0.5)
