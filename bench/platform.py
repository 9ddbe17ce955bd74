"""How long the platform takes to start, and a rollback to take effect; needs a release with a predecessor.

    .venv/bin/python -m bench.platform

Rolls the live release back (what served before the benchmark does not serve after it, so `make bench` leaves it
out), then stops the platform and starts it. Prints one JSON line per figure.
"""

import sys
import time
from pathlib import Path

from bench import figures
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
        figures.report("platform.rollback", _rollback(settings), "s", limit=ROLLBACK_LIMIT_SECONDS)
    else:
        sys.stderr.write("no previous release: the rollback is left out; deploy a second one\n")
    local.down(settings)
    started = time.monotonic()
    local.up(settings)
    figures.report("platform.start", time.monotonic() - started, "s", limit=START_LIMIT_SECONDS)


def _rollback(settings: Settings) -> float:
    started = time.monotonic()
    deploy.rollback(settings, "benchmark")
    return time.monotonic() - started


if __name__ == "__main__":
    main()
