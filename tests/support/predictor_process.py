"""A real predictor as a process of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys import inference_client
from recsys.settings import REPOSITORY, Role, Settings, child_environment


def start(settings: Settings, role: Role, log: Path) -> subprocess.Popen[bytes]:
    """Start the blue predictor of a role; both its streams go to a file."""
    environment = child_environment(settings, RECSYS_SERVICES__REDIS_URL=settings.redis_url)
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", f"serving.predictors.{role}", "--colour", "blue"],
            cwd=REPOSITORY, env=environment, stderr=stream, stdout=stream,
        )  # fmt: skip


def wait_until_ready(settings: Settings, role: Role, popen: subprocess.Popen[bytes], log: Path) -> None:
    """Return when it answers; fails with its log if it ends, or takes longer than minutes."""
    deadline = time.monotonic() + 300
    with inference_client.BlockingClient(settings.predictor_address(role, "blue")) as client:
        while not client.ready(role):
            assert popen.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


@contextmanager
def running(settings: Settings, role: Role, log: Path) -> Iterator[inference_client.BlockingClient]:
    """A client of a predictor that runs as long as the block."""
    popen = start(settings, role, log)
    try:
        wait_until_ready(settings, role, popen, log)
        with inference_client.BlockingClient(settings.predictor_address(role, "blue")) as client:
            yield client
    finally:
        popen.terminate()
        popen.wait(60)
