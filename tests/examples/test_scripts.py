"""The scripts in examples/, run as a user runs them, on an embedded Valkey of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.docs import environment, run_python

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with environment(tmp_path_factory.mktemp("examples")) as found:
        yield found


def run(name: str, env: dict[str, str]) -> str:
    return run_python([str(EXAMPLES / name)], env)


def test_every_script_is_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in source] == []


def test_candles_from_ticks(env: dict[str, str]) -> None:
    *candles, written = run("candles_from_ticks.py", env).splitlines()
    assert len(candles) == 3
    assert all(line.endswith("300 trades") for line in candles)
    assert written.startswith("3 candles written to the stream candles_1m of unix://")


def test_storage_counter_goes_on_in_the_next_process(env: dict[str, str]) -> None:
    assert run("storage_counter.py", env) == "run number 1\nruns so far: [1]\n"
    assert run("storage_counter.py", env) == "run number 2\nruns so far: [1, 2]\n"


def test_stream_tail_sees_what_was_sent(env: dict[str, str]) -> None:
    lines = run("stream_tail.py", env).splitlines()
    assert [re.sub(r"\d+-\d+", "ID", line) for line in lines] == [
        f"orders ID: {{'number': '{n}', 'side': 'buy', 'price': '{100.5 + n}'}}" for n in range(3)
    ]
