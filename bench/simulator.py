"""How fast the simulator makes and writes events.

    .venv/bin/python -m bench.simulator [--events 1000000] [--repeats 3]

Prints two JSON lines: the median of the repeats in events per second and per CPU second, beside the promised 100,000.
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
    rates = {"simulator": [], "simulator_per_cpu_second": []}  # the second tells a busy machine from slow code
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            wall, cpu = time.perf_counter(), time.process_time()
            meta = canonical.write(plan, Path(scratch) / "shop")
            rates["simulator"].append(meta["events"] / (time.perf_counter() - wall))
            rates["simulator_per_cpu_second"].append(meta["events"] / (time.process_time() - cpu))
    for name, found in rates.items():
        rate = statistics.median(found)
        line = {
            "name": name,
            "value": round(rate),
            "unit": "events/s",
            "limit": LIMIT,
            "ratio": round(rate / LIMIT, 2),
            "settings": {**plan.model_dump(mode="json"), "repeats": options.repeats},
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
