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

from support.docs import blocks, environment, run_python
from support.mcp import clean_environment
from support.simulator import exchange

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
RUN_HERE = [
    page for page in PAGES if page.name not in ("sinks.md", "tutorial.md")
]  # tests/test_sinks_page.py, test_howto_pages.py
GUIDES = [page for folder in ("howto", "explain") for page in sorted((ROOT / "docs" / folder).glob("*.md"))]
SHOWN = re.compile(r"# -> (.*)$", re.MULTILINE)


def every(language: str, pages: list[Path] = PAGES) -> list[Any]:
    """The pages' blocks of one language, named by page and line; without those that are files of a page's own test."""
    found = [block for page in pages for block in blocks(page, language) if block.file is None]
    return [pytest.param(block.code, id=str(block)) for block in found]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of all blocks. The exchanges are simulated, a minute of the market is two seconds."""
    with (
        environment(tmp_path_factory.mktemp("readme")) as found,
        exchange("binance", "okx", "kraken", "bybit", speed=30, symbols=("BTC/USDT", "ETH/USDT", "BTC/USD")) as market,
    ):
        yield {**found, **market.env}


@pytest.mark.parametrize("code", every("python", RUN_HERE))
def test_a_python_block_runs_and_shows_what_it_says(code: str, env: dict[str, str]) -> None:
    shown = run_python(["-c", code], env).splitlines()
    assert [wanted for wanted in SHOWN.findall(code) if wanted not in shown] == []


def test_only_pages_with_a_test_of_their_own_show_files() -> None:
    shown = {page.name for page in PAGES if any(block.file for block in blocks(page))}
    assert shown == {"alerts.md", "app.md", "tutorial.md"}  # and their own tests


@pytest.mark.parametrize("code", every("json"))
def test_a_json_block_is_json(code: str) -> None:
    json.loads(code)


def test_the_tables_are_those_of_the_code() -> None:
    command = [sys.executable, str(ROOT / "docs" / "tables.py")]
    done = subprocess.run(command, env=clean_environment({}), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "start.md"], ids=lambda page: page.name)
def test_the_installed_commands_are_found_by_the_shell(page: Path, tmp_path: Path) -> None:
    """The page's own lines, but that ``pip install`` puts an empty command where pip puts ours."""
    install = next(block.code for block in blocks(page, "sh") if "pip install" in block.code)
    command = '"$VIRTUAL_ENV/bin/streammachine"'
    put = f'printf "#!/bin/sh\necho ran" > {command} && chmod +x {command}'
    script = re.sub(r"^pip install .*$", lambda _: put, install, flags=re.MULTILINE)
    done = subprocess.run(
        ["sh", "-ec", script.replace("-m venv", "-m venv --without-pip")],
        env={**clean_environment({}), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ran\n", "")


def test_the_configuration_shown_is_the_example_file() -> None:
    shown = [json.loads(found.values[0]) for found in every("json", [ROOT / "docs" / "claude-desktop.md"])]
    assert json.loads((ROOT / "claude_desktop_config.example.json").read_text(encoding="utf-8")) in shown


@pytest.mark.parametrize("page", [*PAGES, *GUIDES], ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    named = set(re.findall(r"(?<![\w/])((?:docs|examples|tests|server)/[\w/.-]*\w)", page.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|; )make (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test", "check", "bench"} <= named <= targets


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 160


@pytest.mark.parametrize("page", [*PAGES, *GUIDES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_no_path_of_this_machine_is_shown(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert re.findall(r"(?<![\w.])/(?:tmp|work|root|opt)/\S*", text) == []
