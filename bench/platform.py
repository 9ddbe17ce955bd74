"""How long the platform takes to start, and a rollback to take effect.

    .venv/bin/python -m bench.platform [--rollback]

Stops the platform and starts it. With `--rollback` the live release is rolled back before, which needs one with a
predecessor; what served before does not serve after it, so `make bench` does without. Prints one JSON line per figure.
"""

import argparse
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollback", action="store_true", help="roll the live release back, for good")
    options = parser.parse_args()
    settings = configuration.load()
    if options.rollback:
        live = release.Releases(Path(settings.storage.root)).live()
        if live is None or not live.previous:
            sys.exit("no release to go back to; run the daily pipeline twice")
        figures.report("platform.rollback", _rollback(settings), "s", limit=ROLLBACK_LIMIT_SECONDS)
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
