"""Two splits small enough to rank by hand."""

import json
from pathlib import Path

import pandas as pd
import pytest

from bench import protocol

ITEMS = ["a", "b", "c", "d"]


def frame(rows: list[tuple[str, str, int]], user: str = "user_id") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[user, "item_id", "ts"])


@pytest.fixture
def by_time(tmp_path: Path) -> Path:
    """Two months; `d` was never seen before the window, and ann comes back."""
    start = int(pd.Timestamp("2024-03-01", tz="UTC").timestamp())
    windows = {"valid_window": ["2024-02-01", "2024-03-01"], "test_window": ["2024-03-01", "2024-04-01"]}
    (tmp_path / "meta.json").write_text(json.dumps(windows))
    pd.DataFrame({"item_id": ITEMS, "title": [f"Red mug {name}" for name in ITEMS]}).to_parquet(
        tmp_path / "items.parquet"
    )
    frame([("ann", "a", start - 40 * protocol.DAY), ("bob", "b", start - 39 * protocol.DAY)]).to_parquet(
        tmp_path / "train.parquet"
    )
    frame([("ann", "b", start - 5 * protocol.DAY)]).to_parquet(tmp_path / "valid.parquet")
    frame([("ann", "b", start), ("ann", "c", start), ("ann", "d", start), ("eve", "a", start)]).to_parquet(
        tmp_path / "test.parquet"
    )
    frame([("i1", "c", start - 35 * protocol.DAY)], "invoice").to_parquet(tmp_path / "anon_train.parquet")
    return tmp_path


@pytest.fixture
def one_out(tmp_path: Path) -> Path:
    """Histories of which only the order is known."""
    (tmp_path / "meta.json").write_text("{}")
    pd.DataFrame({"item_id": ITEMS, "attributes": ["1", "1 2", "2", ""]}).to_parquet(tmp_path / "items.parquet")
    frame([("ann", "a", 0), ("ann", "b", 1), ("bob", "b", 0)]).to_parquet(tmp_path / "train.parquet")
    frame([("ann", "c", 2), ("bob", "a", 1)]).to_parquet(tmp_path / "valid.parquet")
    frame([("ann", "d", 3), ("bob", "c", 2)]).to_parquet(tmp_path / "test.parquet")
    return tmp_path
