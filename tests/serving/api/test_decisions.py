"""The decision log keeps what is recent."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from recsys import bus
from recsys.settings import Settings
from serving.api import decisions
from serving.api.metrics import Metrics


def test_decisions_older_than_the_retention_are_deleted(settings: Settings) -> None:
    folder = bus.folder(Path(settings.storage.root), decisions.TOPIC)
    folder.mkdir(parents=True)
    made = {}
    for days in (6, 8):
        opened = datetime.now(UTC) - timedelta(days=days)
        made[days] = folder / f"{int(opened.timestamp() * 1e9):020d}-77-0a1b2c3d.jsonl"
        made[days].write_text("{}\n")
    decisions.Decisions(settings, Metrics()).close()
    assert made[6].exists()
    assert not made[8].exists()
