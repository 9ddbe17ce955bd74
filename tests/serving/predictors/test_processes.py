"""Real predictor processes: what a client of the wire sees, how they start, what they refuse, how they end."""

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import predictor_process
import pytest

from models.release import Release, Releases
from recsys import inference, inference_client
from recsys.errors import Exit
from recsys.inference import RankingRequest, RetrievalRequest
from recsys.settings import ROLES, Role, Settings, child_environment
from serving.predictors import ranking as ranking_engine
from serving.predictors import retrieval as retrieval_engine
from serving.predictors import server

pytestmark = pytest.mark.services


@dataclass
class Process:
    """A predictor that runs."""

    role: Role
    settings: Settings
    popen: subprocess.Popen[bytes]
    seen_before_listening: bool

    @property
    def address(self) -> str:
        return self.settings.predictor_address(self.role, "blue")

    def url(self, path: str) -> str:
        return f"http://{self.settings.predictor_address(self.role, 'blue', 'rest')}{path}"

    def post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            self.url(f"/v2/models/{self.role}/infer"), json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def processes(platform: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Role, Process]]:
    """Both predictors, ready; they write nothing but their own few lines, and end cleanly on SIGTERM."""
    folder = tmp_path_factory.mktemp("logs")
    started = {role: predictor_process.start(platform, role, folder / role) for role in ROLES}
    found: dict[Role, Process] = {}
    try:
        for role, popen in started.items():
            with inference_client.BlockingClient(platform.predictor_address(role, "blue")) as client:
                early = client.ready(role)
            predictor_process.wait_until_ready(platform, role, popen, folder / role)
            found[role] = Process(role, platform, popen, early)
        yield found
    finally:
        for popen in started.values():
            popen.send_signal(signal.SIGTERM)
        codes = {role: popen.wait(60) for role, popen in started.items()}
    assert codes == {"retrieval": 0, "ranking": 0}
    for role in ROLES:
        ours = [line for line in (folder / role).read_text().splitlines() if " INFO " in line or " ERROR " in line]
        assert len(ours) < 10, ours  # no line per request


@pytest.fixture(scope="module")
def retrieval(processes: dict[Role, Process]) -> Process:
    return processes["retrieval"]


@pytest.fixture(scope="module")
def ranking(processes: dict[Role, Process]) -> Process:
    return processes["ranking"]


def test_ready_means_warm(retrieval: Process, ranking: Process) -> None:
    """The first visitor does not pay for loading: before this nobody was answered, and the first answer is quick."""
    assert not retrieval.seen_before_listening
    with inference_client.BlockingClient(retrieval.address) as client:
        started = time.monotonic()
        client.retrieve(RetrievalRequest(user_id="u1", k=100), deadline=1.0)
        assert time.monotonic() - started < 0.5
        assert client.release("retrieval") == "r1"


def test_retrieval_over_the_wire(retrieval: Process) -> None:
    with inference_client.BlockingClient(retrieval.address) as client:
        found = client.retrieve(RetrievalRequest(user_id="u1", region="Spain", k=30), release="r1")
        assert set(found.item_ids[:2]) == {"i1", "i5"}
        assert found.scores.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found.query), 1.0, rtol=1e-5)
        assert (found.release, found.profile.region, found.profile.history_size) == ("r1", "France", 2)
        assert found.timings["search"] > 0
        stranger = client.retrieve(RetrievalRequest(user_id="nobody", k=30))
        assert len(stranger.item_ids) == 30
        visit = client.retrieve(RetrievalRequest(session_id="s1", k=3))
        assert visit.item_ids[0] == "i2"
        similar = client.retrieve(RetrievalRequest(query_item="i8", k=3))
        assert "i8" not in similar.item_ids


def test_ranking_over_the_wire(ranking: Process) -> None:
    with inference_client.BlockingClient(ranking.address) as client:
        found = client.rank(RankingRequest(["i1", "i2", "gone"], [0.5, 0.4, 0.0], user_id="u1"), release="r1")
        np.testing.assert_allclose(found.purchase, [0.01, 0.51, 0.01], atol=1e-6)
        assert found.release == "r1"
        clicks = client.rank(RankingRequest(["i1", "i2"], [0.5, 0.4], blend={"click": 2.0}))
        np.testing.assert_allclose(clicks.scores, clicks.click)


def test_another_release_is_refused(retrieval: Process, ranking: Process) -> None:
    with (
        inference_client.BlockingClient(retrieval.address) as client,
        pytest.raises(inference.WrongRelease, match="'r1', not"),
    ):
        client.retrieve(RetrievalRequest(user_id="u1"), release="r0")
    with inference_client.BlockingClient(ranking.address) as client, pytest.raises(inference.WrongRelease):
        client.rank(RankingRequest(["i1"], [0.1]), release="r0")
    body = {"parameters": {"release": "r0"}, "inputs": rest_inputs(k=3)}
    status, answer = retrieval.post(body)
    assert (status, answer) == (412, {"error": "this predictor holds release 'r1', not 'r0'"})


def test_senseless_requests_are_refused_with_their_fault(ranking: Process) -> None:
    with inference_client.BlockingClient(ranking.address) as client:
        with pytest.raises(inference.Refused, match="must both be"):
            client.rank(RankingRequest(["i1", "i2"], [0.1]))
        with pytest.raises(inference.Refused, match="at least 0 and not all 0"):
            client.rank(RankingRequest(["i1"], [0.1], blend={"click": 0.0}))
        with pytest.raises(inference.Refused, match="not what retrieval answered with"):
            client.rank(RankingRequest(["i1"], [0.1], visitor="u1"))


def test_the_asynchronous_client_keeps_its_deadline(retrieval: Process, ranking: Process) -> None:
    async def calls() -> None:
        client = inference_client.Client()
        try:
            assert await client.ready(retrieval.address, "retrieval")
            assert not await client.ready("127.0.0.1:1", "retrieval")
            many = [
                client.retrieve(retrieval.address, RetrievalRequest(user_id="u1", k=9), deadline=5) for _ in range(20)
            ]
            assert {len(found.item_ids) for found in await asyncio.gather(*many)} == {9}
            with pytest.raises(inference.Timeout, match="within 0 ms"):
                await client.rank(ranking.address, RankingRequest(["i1"] * 3000, [0.1] * 3000), deadline=0.0001)
            with pytest.raises(inference.Unavailable):
                await client.retrieve("127.0.0.1:1", RetrievalRequest(), deadline=1.0)
        finally:
            await client.close()

    asyncio.run(calls())


def rest_inputs(**given: Any) -> list[dict[str, Any]]:
    texts = dict.fromkeys(("user_id", "session_id", "query_item", "region"), "") | given
    k = texts.pop("k")
    found = [{"name": n, "datatype": "BYTES", "shape": [1], "data": [t]} for n, t in texts.items()]
    return [*found, {"name": "k", "datatype": "INT32", "shape": [1], "data": [k]}]


def test_rest_answers_the_same(retrieval: Process) -> None:
    status, answer = retrieval.post({"id": "42", "inputs": rest_inputs(user_id="u1", k=3)})
    assert status == 200
    assert (answer["id"], answer["parameters"]["release"]) == ("42", "r1")
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    with urllib.request.urlopen(retrieval.url("/v2/models/retrieval"), timeout=10) as described:
        kinds = {output["name"]: output["datatype"] for output in json.load(described)["outputs"]}
    assert kinds == {output["name"]: output["datatype"] for output in answer["outputs"]}
    with inference_client.BlockingClient(retrieval.address) as client:
        found = client.retrieve(RetrievalRequest(user_id="u1", k=3))
    assert outputs["item_ids"] == found.item_ids.tolist()
    assert json.loads(outputs["profile"][0])["known"] is True
    assert retrieval.post({"inputs": rest_inputs(k=3)[:2]})[0] == 400


def test_metrics_tell_the_time_of_each_stage(retrieval: Process, ranking: Process) -> None:
    for process, stages in ((retrieval, ("features", "tower", "search")), (ranking, ("transforms", "forward"))):
        with urllib.request.urlopen(process.url("/metrics"), timeout=10) as answer:
            text = answer.read().decode()
        for stage in stages:
            assert f'recsys_predictor_stage_seconds_count{{role="{process.role}",stage="{stage}"}}' in text
        assert f'recsys_predictor_release{{release="r1",role="{process.role}"}} 1.0' in text


def test_both_protocols_listen_on_the_settings_address_alone(retrieval: Process) -> None:
    tables = [Path(f"/proc/{retrieval.popen.pid}/net/{table}").read_text() for table in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    bound = [address.split(":") for _, address, _, state, *_ in lines if state == "0A"]  # listening
    ports = {retrieval.settings.network.predictor("retrieval", "blue", protocol) for protocol in ("rest", "grpc")}
    ours = [host for host, port in bound if int(port, 16) in ports]
    loopback = "0100007F"
    assert len(ours) == 2
    assert set(ours) <= {loopback, "0000000000000000FFFF0000" + loopback}


def copied(platform: Settings, folder: Path) -> Settings:
    """The same installation in a folder that a test may break."""
    shutil.copytree(platform.storage.root, folder)
    return platform.model_copy(update={"storage": platform.storage.model_copy(update={"root": str(folder)})})


@pytest.fixture
def broken(platform: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy that the settings of this process point at, for the process's main function."""
    found = copied(platform, tmp_path / "var")
    for name, value in child_environment(found, RECSYS_SERVICES__REDIS_URL=found.redis_url).items():
        monkeypatch.setenv(name, value)
    return found


def damage(root: Path, release: Release) -> None:
    """Change a few bytes of the index."""
    with (root / release.artifacts["index"].path / "embeddings.npy").open("r+b") as stream:
        stream.seek(-8, os.SEEK_END)
        stream.write(b"\0" * 4)


def test_a_process_with_a_corrupt_index_ends_before_it_listens(
    platform: Settings, release: Release, tmp_path: Path
) -> None:
    settings = copied(platform, tmp_path / "var")
    damage(tmp_path / "var", release)
    assert predictor_process.start(settings, "retrieval", tmp_path / "log").wait(300) == Exit.CONFIG
    assert "embeddings.npy does not match its manifest" in (tmp_path / "log").read_text()


def test_another_ranker_than_the_one_validated_is_refused(
    broken: Settings, release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = Path(broken.storage.root) / release.artifacts["ranker"].path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"purchase": 4.0', '"purchase": 9.0'))
    assert server.run("ranking", ranking_engine.open_engine, ["--colour", "blue"]) == Exit.CONFIG
    assert "is not the ranker" in caplog.text


def test_an_index_of_other_towers_is_refused(
    broken: Settings, release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    towers = dataclasses.replace(release.artifacts["retrieval"], version="r0-00000000")
    mixed = dataclasses.replace(release, artifacts={**release.artifacts, "retrieval": towers})
    Releases(Path(broken.storage.root)).candidate_file("blue").write_text(mixed.to_json())
    assert server.run("retrieval", retrieval_engine.open_engine, ["--colour", "blue"]) == Exit.CONFIG
    assert "was made from retrieval" in caplog.text or "is not the retrieval" in caplog.text


def test_without_a_release_it_says_what_to_do(broken: Settings, caplog: pytest.LogCaptureFixture) -> None:
    (Path(broken.storage.root) / "releases" / "blue.json").unlink()
    assert server.run("retrieval", retrieval_engine.open_engine, ["--colour", "blue"]) == Exit.CONFIG
    assert "no release for blue" in caplog.text
    assert "deploy one" in caplog.text
