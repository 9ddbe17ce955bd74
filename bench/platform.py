"""How long the platform takes to start, and a rollback to take effect; needs a release with a predecessor.

    .venv/bin/python -m bench.platform

Rolls the live release back and forth again, so that what serves in the end is what served before, then stops the
platform and starts it. Prints one JSON line per figure.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from models import release
from pipelines import deploy
from recsys import local
from recsys import settings as configuration
from recsys.settings import Settings

ROLLBACK_LIMIT_SECONDS = 5.0
START_LIMIT_SECONDS = 120.0


def main() -> None:
    settings = configuration.load()
    live = release.Releases(Path(settings.storage.root)).live()
    if live is not None and live.previous:
        took = [_rollback(settings) for _ in range(4)]  # an even number: the release of before serves in the end
        report("rollback", statistics.median(took), ROLLBACK_LIMIT_SECONDS)
    else:
        sys.stderr.write("no previous release: the rollback is left out; deploy a second one\n")
    local.down(settings)
    started = time.monotonic()
    local.up(settings)
    report("platform.start", time.monotonic() - started, START_LIMIT_SECONDS)


def _rollback(settings: Settings) -> float:
    started = time.monotonic()
    deploy.rollback(settings, "benchmark")
    return time.monotonic() - started


def report(name: str, seconds: float, limit: float) -> None:
    """Print one figure beside its limit."""
    line = {"name": name, "value": round(seconds, 2), "unit": "s", "limit": limit, "ratio": round(seconds / limit, 3)}
    print(json.dumps(line | {"settings": {}}), flush=True)


if __name__ == "__main__":
    main()
