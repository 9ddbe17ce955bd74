"""Every benchmark prints lines of one shape."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import bandits, figures, index, ranker, rerank, simulator

HERE = Path(figures.__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("__main__", "figures"))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was printed, each line checked for its shape."""
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line in found:
        beside = "peer" if "peer" in line else "limit"
        assert list(line) == ["name", "value", "unit", beside, "ratio", "settings"]
        assert (line["ratio"] is None) == (line[beside] is None)
    return found


def test_a_figure_stands_beside_its_limit_or_its_peer(capsys: pytest.CaptureFixture[str]) -> None:
    figures.report("api.p99", 45.00049, "ms", limit=60.0, rate=20)
    figures.report("api.p50", 4.0, "ms")
    figures.report("quality.recall", 0.6, "share", peer=0.5)
    assert lines(capsys) == [
        {"name": "api.p99", "value": 45.0, "unit": "ms", "limit": 60.0, "ratio": 0.75, "settings": {"rate": 20}},
        {"name": "api.p50", "value": 4.0, "unit": "ms", "limit": None, "ratio": None, "settings": {}},
        {"name": "quality.recall", "value": 0.6, "unit": "share", "peer": 0.5, "ratio": 1.2, "settings": {}},
    ]


def test_a_figure_with_two_measures_is_refused() -> None:
    with pytest.raises(ValueError, match="once against each"):
        figures.report("quality.recall", 0.6, "share", limit=0.4, peer=0.5)


def test_percentiles_are_those_of_single_calls() -> None:
    called: list[int] = []
    p50, p99 = figures.milliseconds(lambda n=n: called.append(n) for n in range(100))  # type: ignore[misc]
    assert called == list(range(100))
    assert 0 <= p50 <= p99


def run(module: Any, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    module.main()


def test_the_ranker_prints_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(ranker, ["--items", "600", "--repeats", "3"], monkeypatch)
    assert [line["name"] for line in lines(capsys)] == [
        "ranker.item_matrix",
        "ranker.features_p50",
        "ranker.features_p99",
        "ranker.forward_pass_p50",
        "ranker.forward_pass_p99",
    ]


def test_the_rules_print_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(rerank, ["--repeats", "3"], monkeypatch)
    assert [line["name"] for line in lines(capsys)] == [
        f"rerank.{method}_{length}_{percentile}"
        for method in ("mmr", "dpp")
        for length in (20, 200)
        for percentile in ("p50", "p99")
    ]


def test_the_index_prints_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(index, ["--sizes", "600", "--dim", "16"], monkeypatch)
    found = {line["name"]: line for line in lines(capsys)}
    assert found["index.recall_600_at_20"]["value"] > 0.9
    assert found["index.search_600_p50"]["limit"] == index.LIMIT_MS


def test_the_bandits_print_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(bandits, ["--arms", "20", "--dim", "4"], monkeypatch)
    found = {line["name"]: line for line in lines(capsys)}
    assert found.keys() == {
        *(f"bandits.{policy}_edition" for policy in ("thompson", "linear")),
        *(f"bandits.{name}_{p}" for name in ("thompson", "linear", "epsilon_greedy") for p in ("p50", "p99")),
    }
    assert found["bandits.linear_p50"]["limit"] == bandits.LIMIT_MS


def test_the_simulator_prints_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(simulator, ["--events", "2000", "--repeats", "1"], monkeypatch)
    assert [line["unit"] for line in lines(capsys)] == ["events/s", "events/s"]


@pytest.mark.parametrize("name", NAMES)
def test_no_benchmark_prints_by_itself(name: str) -> None:
    text = (HERE / f"{name}.py").read_text()
    assert "print(" not in text
    assert "stdout.write" not in text
