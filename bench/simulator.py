"""How fast the simulator makes and writes events.

    .venv/bin/python -m bench.simulator [--events 1000000] [--repeats 3]

Prints one JSON line: the median of the repeats in events per second, beside the promised 100,000.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from simulator import canonical
from simulator.world import Plan

LIMIT = 100_000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    plan = Plan(events=options.events)
    rates = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            meta = canonical.write(plan, Path(scratch) / "shop")
            rates.append(meta["events"] / (time.perf_counter() - started))
    rate = statistics.median(rates)
    line = {
        "name": "simulator",
        "value": round(rate),
        "unit": "events/s",
        "limit": LIMIT,
        "ratio": round(rate / LIMIT, 2),
        "settings": {**plan.model_dump(mode="json"), "repeats": options.repeats},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
