"""docs/tutorial.md and docs/howto/: a reader who does what they say, block after block, gets what they promise."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streammachine.redis.embedded.server import EmbeddedServer
from support.cluster import cluster
from support.docs import blocks
from support.mcp import clean_environment
from support.reader import follow
from support.servers import free_port
from support.simulator import exchange
from support.valkey import Valkey

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]


@pytest.fixture(scope="module")
def market() -> Iterator[dict[str, str]]:
    """The exchanges that the pages reach: simulated, a minute is two seconds."""
    with exchange("binance", "okx", speed=30) as found:
        yield found.env


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, since the path of a socket has 104 bytes at the most."""
    path = Path(tempfile.mkdtemp(prefix="smp-"))
    activate = path / "streammachine-env" / "bin" / "activate"  # as `python3 -m venv ~/streammachine-env` leaves it
    activate.parent.mkdir(parents=True)
    activate.touch()
    yield path
    shutil.rmtree(path, ignore_errors=True)


SHELL_ONLY = [  # whose Python runs elsewhere: test_readme.py
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("charts", "claude-desktop", "http", "market", "start", "trade_files")),
]


@contextmanager
def server_of(page: Path, folder: Path) -> Iterator[dict[str, str]]:
    """The Redis that the page is for, and the variables by which the page knows it."""
    if page.stem == "cluster":
        with cluster(folder) as nodes:
            yield {"NODE": f"127.0.0.1:{nodes[0].port}"}
    elif page.stem == "acls":
        with Valkey(folder / "server") as valkey:
            yield {"SERVER": f"127.0.0.1:{valkey.port}"}
    else:
        data = folder / "data"
        with EmbeddedServer.acquire(data, fsync="everysec"):
            yield {"STREAMMACHINE_EMBEDDED": "always", "STREAMMACHINE_DATA_DIR": str(data)}


@pytest.mark.parametrize("page", [*PAGES, *SHELL_ONLY], ids=lambda page: page.stem)
def test_a_reader_gets_what_the_page_promises(page: Path, folder: Path, market: dict[str, str]) -> None:
    ours = {
        "STREAMMACHINE_EMBEDDED_FSYNC": "everysec",
        "STREAMMACHINE_DATA_DIR": str(folder / "data"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "PORT": str(free_port()),
    }
    with server_of(page, folder) as server:
        languages = ("sh",) if page in SHELL_ONLY else ("sh", "python")
        follow(page, folder, clean_environment({**market, **ours, **server}), languages)


def test_the_commands_of_every_page_are_run() -> None:
    shown = {page for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if blocks(page, "sh")}
    elsewhere = {ROOT / "docs" / "app.md"}  # test_app_page.py
    assert {page for page in shown if "contributing" not in page.parts} == {*PAGES, *SHELL_ONLY, *elsewhere} & shown
    assert set(SHELL_ONLY) <= shown


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_of_systemd_is_one(folder: Path, market: dict[str, str]) -> None:
    page = ROOT / "docs" / "howto" / "service.md"
    follow(page, folder, clean_environment(market))
    units = list((folder / ".config/systemd/user").glob("*.service"))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *units],
        env={**clean_environment({}), "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if str(folder) in line or "shop.service" in line] == []
    assert len(units) == 1


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    left_out = [block for page in [*PAGES, *SHELL_ONLY] for block in blocks(page) if block.mark == "not run"]
    assert all(len(block.said) > 10 for block in left_out)
    assert len(left_out) <= 12
