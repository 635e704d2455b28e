"""``streammachine inspect``: once for scripts, live on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from rich.console import Console

from streammachine.cli.inspect import StreamRow, _table
from streammachine.cli.live import fitted
from streammachine.redis.embedded.server import EmbeddedServer
from support.servers import redis_at, until

DATABASE = 9  # of the run's shared Valkey; no other test uses it


@pytest.fixture
def store(cli: Any, shared_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """``orders``: three messages, a group that has one of them pending and one to come, and a dead letter."""
    url = f"{shared_server.url}?db={DATABASE}"
    cli.env.update({"REDIS_URL": url, "STREAMMACHINE_EMBEDDED": "auto"})
    with redis_at(url) as client:
        client.flushdb()
        client.xgroup_create("orders", "workers", mkstream=True)
        for number in range(3):
            client.xadd("orders", {"n": number})
        ((_, entries),) = client.xreadgroup("workers", "one", {"orders": ">"}, count=2)
        client.xack("orders", "workers", entries[0][0])
        client.xadd("{orders}:dlq", {"n": "9"})
        client.xadd("[red]plain", {"a": "1"})
        yield client
        client.flushdb()


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}


def test_once_shows_streams_groups_lag_pending_and_consumers(cli: Any, store: redis.Redis) -> None:
    done = cli("inspect", "--once")
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(done.stdout)
    name, length, dead, group, lag, pending, _oldest, consumers = found["orders"]
    assert (name, length, dead, group, lag, pending, consumers) == ("orders", "3", "1", "workers", "1", "1", "1")
    assert found["[red]plain"] == ["[red]plain", "1", "0"]
    assert "{orders}:dlq" not in found
    assert "2 streams on unix://" in done.stdout


def test_a_pattern_narrows_and_a_pipe_gets_it_once(cli: Any, store: redis.Redis) -> None:
    done = cli("inspect", "ord*")
    assert done.returncode == 0
    assert "orders" in done.stdout
    assert "plain" not in done.stdout
    assert "\x1b" not in done.stdout


def test_on_a_terminal_it_goes_on_until_ctrl_c(cli: Any, store: redis.Redis) -> None:
    ours, theirs = pty.openpty()
    shown = b""

    def shows(text: bytes) -> bool:
        nonlocal shown
        while select.select([ours], [], [], 0)[0]:
            shown += os.read(ours, 1 << 16)
        return text in shown

    process = subprocess.Popen(
        [sys.executable, "-m", "streammachine.cli", "inspect", "--every", "0.2"],
        env=cli.environment(COLUMNS="160", LINES="40", TERM="xterm-256color"),
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        until(lambda: shows(b"orders"))
        store.xadd("fresh", {"a": "1"})
        until(lambda: shows(b"fresh"))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, b"")
        until(lambda: shows(b"\x1b[?1049l"))
        assert b"fresh" in shown.rpartition(b"\x1b[?1049l")[2]  # the last picture stays
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
        os.close(theirs)


def test_as_json_each_row_is_an_object(cli: Any, store: redis.Redis) -> None:
    done = cli("inspect", "ord*", "--json")
    (row,) = map(json.loads, done.stdout.splitlines())
    assert {name: row[name] for name in ("stream", "group", "lag", "pending", "dead", "length")} == {
        "stream": "orders", "group": "workers", "lag": 1, "pending": 1, "dead": 1, "length": 3,
    }  # fmt: skip


def test_the_largest_lag_stands_first(cli: Any, store: redis.Redis) -> None:
    for name, count in (("a", 2), ("b", 30), ("c", 0)):
        store.xgroup_create(name, "g", mkstream=True)
        for number in range(count):
            store.xadd(name, {"n": number})

    found = [line.split()[0] for line in cli("inspect", "--once").stdout.splitlines() if line.strip()]
    assert [name for name in found if name in ("a", "b", "c", "orders", "[red]plain")] == [
        "b", "a", "orders", "c", "[red]plain",
    ]  # fmt: skip
    assert "by lag" in cli("inspect", "--once").stdout
    found = [line.split()[0] for line in cli("inspect", "--once", "--sort", "name").stdout.splitlines() if line.strip()]
    assert [name for name in found if name in ("a", "b", "c")] == ["a", "b", "c"]


@pytest.mark.parametrize("height", [1, 3, 4, 6, 10, 30])
@pytest.mark.parametrize("width", [30, 160])
def test_rows_that_the_window_has_no_room_for_are_counted(height: int, width: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    rows = [StreamRow(f"stream-{number:02}", 1, None, 0, "group " * 5, lag=number) for number in range(20)]
    table = fitted(console, len(rows), lambda count: _table(console, rows, False, "here", "lag", count))
    lines = ["".join(segment.text for segment in line).strip() for line in console.render_lines(table)]
    shown = [line.split()[0] for line in lines if line.startswith("stream-")]
    assert shown == [f"stream-{number:02}" for number in range(19, 19 - len(shown), -1)]
    hidden = [int(line.split()[1]) for line in lines if line.startswith("... ")]
    assert hidden == ([20 - len(shown)] if len(shown) < 20 else [])
    assert len(lines) <= height or not shown
    assert shown or height < 10 or width == 30
