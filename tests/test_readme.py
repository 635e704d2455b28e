"""The README and docs/ tell the truth: their tables come from the code, and their examples run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streammachine.redis.embedded import EmbeddedServer
from support_mcp import clean_environment
from support_simulator import exchange

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN = re.compile(r"# -> (.*)$", re.MULTILINE)


def blocks(language: str, pages: list[Path] = PAGES) -> list[Any]:
    """The pages' blocks of one language, named by page and line."""
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if block[1] == language:
                line = text.count("\n", 0, block.start()) + 1
                found.append(pytest.param(block[2], id=f"{page.name}:{line}"))
    return found


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of all blocks; holding the server here saves each of them a start. The exchanges are simulated,
    a minute of the market is half a second."""
    folder = tmp_path_factory.mktemp("readme")
    with (
        EmbeddedServer.acquire(folder, fsync="everysec"),
        exchange("binance", "okx", "kraken", "bybit", speed=120, symbols=("BTC/USDT", "BTC/USD")) as market,
    ):
        yield clean_environment(
            {
                **market.env,
                "STREAMMACHINE_EMBEDDED": "always",
                "STREAMMACHINE_EMBEDDED_FSYNC": "everysec",
                "STREAMMACHINE_DATA_DIR": str(folder),
            }
        )


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_block_runs_and_shows_what_it_says(code: str, env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    shown = done.stdout.splitlines()
    assert [wanted for wanted in SHOWN.findall(code) if wanted not in shown] == []


@pytest.mark.parametrize("code", blocks("json"))
def test_a_json_block_is_json(code: str) -> None:
    json.loads(code)


def test_the_tables_are_those_of_the_code() -> None:
    command = [sys.executable, str(ROOT / "docs" / "tables.py")]
    done = subprocess.run(command, env=clean_environment({}), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_configuration_shown_is_the_example_file() -> None:
    shown = [json.loads(found.values[0]) for found in blocks("json", [README])]
    assert json.loads((ROOT / "claude_desktop_config.example.json").read_text(encoding="utf-8")) in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    named = set(re.findall(r"\b((?:docs|examples|tests|server)/[\w/.]*\w)", page.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|; )make (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test", "check", "bench"} <= named <= targets


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_no_path_of_this_machine_is_shown(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert re.findall(r"(?<![\w.])/(?:tmp|work|root|opt)/\S*", text) == []
