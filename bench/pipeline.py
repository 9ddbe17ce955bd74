"""What a day's run costs: seconds and peak memory of every stage on one source, in a storage root of its own.

    .venv/bin/python -m bench.pipeline --source online_retail:PATH [--root DIR]

Stages run one after another, without Airflow, so that each figure is the stage's own. `register` and `deploy` need
the platform (`recsys up`) and are measured in `make run`. Prints one JSON line per stage and one for the total.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import redis

from bench import figures
from pipelines import sources, stage
from recsys import settings as configuration
from recsys.settings import Network, Settings, Storage

TOTAL_LIMIT_SECONDS = 360.0
STAGES = [name for name in stage.DAILY if name not in ("register", "deploy")]
SAMPLE_EVERY = 0.2  # seconds between two looks at the memory of a stage


def main() -> None:
    """Run the stages in order; stops at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="as `recsys data describe` takes it")
    parser.add_argument("--root", type=Path, help="storage root; a temporary one if left out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(
            storage=Storage(root=str(options.root or Path(scratch) / "var")), network=Network(base_port=_free_base())
        )
        run(settings, options.source)


def run(settings: Settings, source: str) -> None:
    """Measure every stage for the last day of a source."""
    day = sources.last_day(source, settings)
    facts: dict[str, object] = {"source": source.partition(":")[0], "cores": os.cpu_count()}
    servers = [_redis(settings), _mlflow(settings)]
    total = 0.0
    try:
        _wait_for_redis(settings)
        for name in STAGES:
            extra = ["--source", source] if name == "ingest" else []
            seconds, peak = measure(settings, name, ["--day", str(day), "--run", "bench", *extra])
            total += seconds
            figures.report(f"pipeline.{name}.seconds", seconds, "s", **facts)
            figures.report(f"pipeline.{name}.peak_memory", peak / 2**20, "MiB", **facts)
        figures.report("pipeline.total.seconds", total, "s", limit=TOTAL_LIMIT_SECONDS, **facts)
    finally:
        for server in servers:
            server.terminate()
            server.wait(20)


def measure(settings: Settings, name: str, arguments: list[str]) -> tuple[float, int]:
    """Run one stage; returns its wall seconds and the peak resident memory, in bytes, of it and its children."""
    command = [sys.executable, "-m", "pipelines", name, *arguments]
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=configuration.child_environment(settings), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.monotonic() - started
    watcher.join()
    if process.returncode:
        sys.exit(f"{name} ended with exit code {process.returncode}:\n{errors.decode()[-2000:]}")
    return seconds, peak[0]


def _watch(process: "subprocess.Popen[bytes]", peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], _memory(process.pid))
        time.sleep(SAMPLE_EVERY)


def _memory(pid: int) -> int:
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        return sum(member.memory_info().rss for member in family)
    except psutil.NoSuchProcess:
        return 0


def _redis(settings: Settings) -> "subprocess.Popen[bytes]":
    folder = Path(settings.storage.root) / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    port = str(settings.network.redis)
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _mlflow(settings: Settings) -> "subprocess.Popen[bytes]":
    folder = Path(settings.storage.root) / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(settings.network.mlflow)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait_for_redis(settings: Settings) -> None:
    with redis.Redis.from_url(settings.redis_url) as server:
        for _ in range(100):
            try:
                server.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.1)
    sys.exit(f"redis-server did not answer at {settings.redis_url}")


def _free_base() -> int:
    for base in range(30_000, 60_000, 40):
        with socket.socket() as probe:
            if all(probe.connect_ex(("127.0.0.1", base + offset)) for offset in (1, 3)):
                return base
    sys.exit("no free ports")


if __name__ == "__main__":
    main()
