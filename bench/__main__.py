"""Run the benchmarks and keep their figures in bench/results.jsonl, newest last.

    make bench [DATA=online_retail:PATH]

What needs nothing runs always; the pipeline runs on DATA. A start of the platform (which is stopped for it), the
predictors and the API are measured if there is a live release, and left out with a word if there is none. A rollback is
measured by `python -m bench.platform --rollback`, a ranker of a simulated shop by `--only position`.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from recsys import settings as configuration

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.jsonl"
ALONE = ("simulator", "ingest", "index", "bandits", "training", "ranker", "rerank")
ON_THE_PLATFORM = ("platform", "predictors", "api")  # the first starts it anew, if it was away


def main() -> int:
    """Run all that can run; the exit code is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="simulator", help="what the pipeline is measured on")
    parser.add_argument("--only", nargs="+", help="names of benchmarks; all if left out")
    options = parser.parse_args()
    chosen = options.only or [*ALONE, "pipeline", *ON_THE_PLATFORM]
    if not options.only and not _is_live():
        sys.stderr.write(f"no live release: {', '.join(ON_THE_PLATFORM)} left out; `make run` brings one live\n")
        chosen = [name for name in chosen if name not in ON_THE_PLATFORM]
    return max(_run(name, ["--source", options.source] if name == "pipeline" else []) for name in chosen)


def _run(name: str, arguments: list[str]) -> int:
    """Run one benchmark, passing its lines on as they come and keeping those that are figures."""
    sys.stderr.write(f"{name} …\n")
    command = [sys.executable, "-m", f"bench.{name}", *arguments]
    env = configuration.child_environment(configuration.load(), PYTHONPATH=str(HERE.parent))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=HERE.parent) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            _keep(line)
    return int(process.returncode != 0)


def _keep(line: str) -> None:
    try:
        figure = json.loads(line)
    except ValueError:
        return
    with RESULTS.open("a") as stream:
        stream.write(json.dumps(figure | {"at": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")


def _is_live() -> bool:
    return (Path(configuration.load().storage.root) / "releases" / "live.json").exists()


if __name__ == "__main__":
    sys.exit(main())
