"""How fast the simulator makes and writes events.

    .venv/bin/python -m bench.simulator [--events 1000000] [--repeats 3]

Prints two JSON lines: the median of the repeats in events per second and per CPU second, beside the promised 100,000.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from bench import figures
from simulator import canonical
from simulator.world import Plan

LIMIT = 100_000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    plan = Plan(events=options.events)
    rates = {
        "simulator.rate": [],
        "simulator.rate_per_cpu_second": [],
    }  # the second tells a busy machine from slow code
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            wall, cpu = time.perf_counter(), time.process_time()
            meta = canonical.write(plan, Path(scratch) / "shop")
            rates["simulator.rate"].append(meta["events"] / (time.perf_counter() - wall))
            rates["simulator.rate_per_cpu_second"].append(meta["events"] / (time.process_time() - cpu))
    for name, found in rates.items():
        facts = {**plan.model_dump(mode="json"), "repeats": options.repeats}
        figures.report(name, statistics.median(found), "events/s", limit=LIMIT, **facts)


if __name__ == "__main__":
    main()
