"""docs/app.md: its files, its commands and its tests do what the page says."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.docs import Block, blocks, environment, run_python
from support.servers import redis_at, until

PAGE = Path(__file__).parents[1] / "docs" / "app.md"
COMMANDS = [line for block in blocks(PAGE, "sh") for line in block.code.splitlines()]
RUN = "streammachine run shop.py:app --workers 2"
ORDERS = [{"id": "1", "amount": "9.50"}, {"id": "2", "amount": "-1"}, {"id": "3", "amount": "5"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the page shows."""
    for block in blocks(PAGE):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.code, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def env(data: Path) -> Iterator[dict[str, str]]:
    with environment(data) as found:
        yield found


@pytest.fixture
def store(env: dict[str, str], data: Path) -> Iterator[redis.Redis]:
    """The server that the page's commands use."""
    with EmbeddedServer.acquire(data, fsync="everysec") as server, redis_at(server.url) as client:
        client.flushall()
        yield client


def shell(line: str, env: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    program, *arguments = shlex.split(line)
    assert program == "streammachine"
    return subprocess.Popen(
        [sys.executable, "-m", "streammachine.cli", *arguments],
        env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def said(line: str, env: dict[str, str], folder: Path) -> str:
    with shell(line, env, folder) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize("start", ["python shop.py", RUN])
def test_the_shop_runs_and_its_dead_letters_come_back(
    start: str, env: dict[str, str], folder: Path, store: redis.Redis
) -> None:
    assert start == "python shop.py" or start in COMMANDS
    assert f"`{start}`" in PAGE.read_text(encoding="utf-8") or start in COMMANDS
    if start == RUN:
        process = shell(RUN, env, folder)
    else:
        command = [sys.executable, "shop.py"]
        process = subprocess.Popen(
            command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    with process:
        try:
            for order in ORDERS:
                store.xadd("orders", order)  # type: ignore[arg-type]
            until(lambda: store.xlen("bills") == 2 and store.xlen("{orders}:dlq") == 1, "billed")
            assert "a negative amount" in said("streammachine dlq list orders", env, folder)
            ((letter, _),) = store.xrange("{orders}:dlq")
            assert "a negative amount" in said(f"streammachine dlq show orders {letter.decode()}", env, folder)
            said("streammachine dlq redrive orders --all", env, folder)
            until(lambda: [i for i, _ in store.xrange("{orders}:dlq")] not in ([], [letter]), "given up again")
            said("streammachine dlq purge orders --yes", env, folder)
            assert store.xlen("{orders}:dlq") == 0
            table = said("streammachine inspect --once", env, folder)
            assert "orders" in table and "billing" in table
            assert store.hget("sm:storage", "billed") == b"2"
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=100)
    assert process.returncode == 0
    assert store.xlen("bills") == 2


def test_every_command_of_the_page_is_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [line for line in COMMANDS if f'"{line}"' not in source] == []


@pytest.mark.parametrize("block", [b for b in blocks(PAGE) if (b.file or "").startswith("test_")], ids=str)
def test_its_tests_pass_as_they_stand(block: Block, env: dict[str, str], folder: Path) -> None:
    out = run_python(["-m", "pytest", "-q", "-p", "no:valkey", "-p", "no:cacheprovider", str(block.file)], env, folder)
    assert f"{block.code.count('def test_')} passed" in out
