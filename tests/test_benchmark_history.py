"""The history of the benchmarks: a line a run, shown side by side."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.history")


def test_runs_stand_side_by_side_with_machine_and_versions(history: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    assert history.runs(file) == []
    for ratio in (1.5, 2.5):
        rows = [{"what": "update_tick", "how": "ours", "ratio": ratio}]
        history.append({"ohlc": rows, "mcp": {"start": [{"server": "ours", "tools": 41}]}}, history.machine(), file)
    found = history.runs(file)
    assert [json.loads(line) for line in file.read_text().splitlines()] == found
    assert {"cores", "processor", "python", "load", "versions"} <= set(found[0]["machine"])
    _, numbers = history.shown("ohlc", found).splitlines()
    assert numbers.split() == ["update_tick", "ours:", "ratio", "1.50", "2.50"]
    assert "ours: tools" in history.shown("mcp", found)
    assert history.shown("redis", found) == "No run of redis yet."


def test_the_rows_of_a_benchmark_are_kept_where_the_run_collects_them(
    history: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring = importlib.import_module("benchmarks.measuring")
    measuring.keep([{"what": "alone"}])  # without a run nothing is written
    monkeypatch.setenv(measuring.ROWS, str(tmp_path / "rows.json"))
    measuring.keep([{"what": "in a run"}])
    assert json.loads((tmp_path / "rows.json").read_text()) == [{"what": "in a run"}]
