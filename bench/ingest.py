"""What memory and time ingestion takes as its input grows: the peak must not follow the size of the file.

    nice .venv/bin/python -m bench.ingest [--megabytes 100 800] [--source online_retail]

Makes a csv of each size (order lines, or canonical events) and ingests it in a process of its own. Prints one JSON
line per size, and one with the growth of the peak per growth of the input; 1 would be a reader that holds it all.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from bench import figures
from recsys.settings import Settings, Storage, child_environment

LIMIT = 0.25  # bytes of memory per byte of input; cancellations, which are remembered, are 0.1 of order lines
CHUNK = 200_000  # lines made at a time
CUSTOMERS, PRODUCTS = 20_000, 5_000
DAYS = 300


def order_lines(number: int, rng: np.random.Generator) -> pd.DataFrame:
    """A chunk of Online Retail: ten lines an invoice, one in fifty a cancellation."""
    line = number * CHUNK + np.arange(CHUNK)
    code = 10_000 + rng.integers(PRODUCTS, size=CHUNK)
    cancelled = (line // 10) % 50 == 49
    invoice = pd.Series(400_000 + line // 10).astype(str)
    return pd.DataFrame(
        {
            "Invoice": invoice.where(~cancelled, "C" + invoice),
            "StockCode": code.astype(str),
            "Description": [f"CERAMIC MUG NO {c}" for c in code],
            "Quantity": np.where(cancelled, -1, 1) * rng.integers(1, 9, size=CHUNK),
            "InvoiceDate": _times(line),
            "Price": (code % 97 + 1) / 4,
            "Customer ID": 10_000 + (line // 10) % CUSTOMERS,
            "Country": "United Kingdom",
        }
    )


def events(number: int, rng: np.random.Generator) -> pd.DataFrame:
    """A chunk of canonical events."""
    line = number * CHUNK + np.arange(CHUNK)
    return pd.DataFrame(
        {
            "event_id": [f"e{n:012}" for n in line],
            "user_id": [f"u{n:08}" for n in rng.integers(CUSTOMERS, size=CHUNK)],
            "session_id": [f"s{n:010}" for n in line // 10],
            "item_id": [f"i{n:08}" for n in rng.integers(PRODUCTS, size=CHUNK)],
            "event": "view",
            "region": "DE",
            "event_time": _times(line),
        }
    )


def _times(line: np.ndarray) -> "pd.Series[str]":
    """A day of a chunk's own, the last one first: a source without recent events is refused."""
    start = pd.Timestamp("2010-12-31") - pd.Timedelta(days=line[0] // CHUNK % DAYS)
    moments = start + pd.to_timedelta(30_000 + line // 10 % 30_000, unit="s")
    return pd.Series(moments.strftime("%Y-%m-%d %H:%M:%S"))


def make(path: Path, size: int, chunk: Callable[[int, np.random.Generator], pd.DataFrame]) -> None:
    """Write chunks until the file is as large as asked."""
    rng, number = np.random.default_rng(0), 0
    while number == 0 or path.stat().st_size < size:
        chunk(number, rng).to_csv(path, mode="a", header=number == 0, index=False)
        number += 1


def measure(spec: str, root: Path) -> tuple[float, float]:
    """Peak memory in MB and seconds of processor time of one ingestion."""
    command = [sys.executable, "-m", "pipelines", "ingest", "--day", "2010-12-31", "--run", "bench", "--source", spec]
    environment = child_environment(Settings(storage=Storage(root=str(root))))
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs=2, default=[100, 800])
    parser.add_argument("--source", choices=["online_retail", "canonical"], default="online_retail")
    options = parser.parse_args()
    peaks = []
    for size in options.megabytes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if options.source == "canonical":
                make(folder / "events.csv", size << 20, events)
                (folder / "items.csv").write_text(
                    "item_id,title,category,created_at,available\ni1,Mug,Home,2009-01-01,true\n"
                )
                spec = f"canonical:{folder}"
            else:
                make(folder / "retail.csv", size << 20, order_lines)
                spec = f"online_retail:{folder / 'retail.csv'}"
            peak, seconds = measure(spec, folder / "var")
        peaks.append(peak)
        what = {"source": options.source, "input_mb": size}
        figures.report("ingest.cpu_per_gb", seconds * 1024 / size, "CPU s/GB", limit=120.0, **what)
        figures.report("ingest.peak_memory", peak, "MB", limit=size * LIMIT + 512, **what)
    growth = (peaks[1] - peaks[0]) / (options.megabytes[1] - options.megabytes[0])
    figures.report("ingest.memory_growth", growth, "bytes per byte of input", limit=LIMIT, source=options.source)


if __name__ == "__main__":
    main()
