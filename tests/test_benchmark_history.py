"""The history of the benchmarks: a line a run, shown side by side."""

from __future__ import annotations

import importlib
import json
import re
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


def test_targets_stand_beside_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    targets = importlib.import_module("benchmarks.targets")
    assert targets.shown("redis", [{"what": "XADD", "ratio": 2.0}]) == ""
    rows = [
        {"what": "columns", "how": "ours, categorical symbols", "ratio": 8.0},
        {"what": "columns", "how": "ours, the same on two cores", "ratio": 12.0},
        {"what": "columns", "how": "ours, polars Categorical", "ratio": 4.0},
    ]
    lines = targets.shown("ohlc", rows).splitlines()
    assert [line.split()[-2:] for line in lines if "cores" in line or "categories" in line] == [
        ["8.00", "yes"],
        ["12.00", "yes"],
    ]
    assert lines[-1].split()[-4:] == ["least", "4", "4.00", "yes"]
    later = targets.shown("latency", [{"ticks a second": "1,000, native road", "p99.9 x plain": 1.01}])
    assert later.splitlines()[1].split()[-4:] == ["most", "1", "1.01", "no"]
    rows = [{"server": "ours, listing", ": empty": 0.2}, {"server": "ours", ": empty": 0.9}]
    assert targets.shown("mcp_http", rows).splitlines()[1].split()[-2:] == ["0.90", "yes"]


def test_the_page_shows_each_subject_and_the_targets_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    page = importlib.import_module("benchmarks.page")
    table = "target   wanted  here  reached\nours  at least 7  7.10  yes"
    output = (
        f"\n== Ticks (benchmarks/ohlc.py) ==\n\nwhat  ratio\nours   7.10\n\n{table}\n"
        "\n== Redis (benchmarks/redis.py) ==\n\nXADD  3.00\n\nMeasured on 2 cores.\n"
    )
    text = "<!-- run: {} -->\nold\n<!-- /run -->\n"
    places = "".join(text.format(name) for name in ("targets", "ohlc", "redis", "machine"))
    filled = page.written(places, page.parts(output))
    assert re.findall(r"```text\n(.*?)\n```", filled, re.DOTALL) == [
        f"ohlc\n{table}",
        "what  ratio\nours   7.10",
        "XADD  3.00",
        "Measured on 2 cores.",
    ]
    with pytest.raises(KeyError, match="mcp"):
        page.written(text.format("mcp"), page.parts(output))
