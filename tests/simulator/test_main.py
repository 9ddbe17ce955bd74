"""The command line: results as one JSON line, errors that name the option."""

import json
import subprocess
import sys
from pathlib import Path


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulator", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_writes_a_shop_and_says_what(tmp_path: Path) -> None:
    done = _run("--out", str(tmp_path / "shop"), "--users", "60", "--items", "60", "--events", "1500", "--days", "2")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["users"] == 60
    assert (tmp_path / "shop" / "events" / "day=2026-01-05.parquet").exists()


def test_a_wrong_option_is_named(tmp_path: Path) -> None:
    done = _run("--out", str(tmp_path / "shop"), "--users", "1")
    assert done.returncode == 64
    assert "--users" in done.stderr
