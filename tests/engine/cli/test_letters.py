"""``streammachine dlq``: list, show, redrive, purge."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.servers import redis_at

DATABASE = 8  # of the run's shared Valkey; no other test uses it
LETTER = {
    "id": "7",
    "note": "[red]é",
    "sm-group": "g",
    "sm-origin-stream": "orders",
    "sm-origin-id": "1-1",
    "sm-reason": "retries",
    "sm-attempts": "5",
    "sm-error-type": "ValueError",
    "sm-error": "bad",
    "sm-failed-at": "1638360000000",
    "sm-traceback": "Traceback: in line 7\n",
}


@pytest.fixture
def store(cli: Any, shared_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A stream ``orders`` with a group and two dead letters."""
    url = f"{shared_server.url}?db={DATABASE}"
    cli.env.update({"REDIS_URL": url, "STREAMMACHINE_EMBEDDED": "auto"})
    with redis_at(url) as client:
        client.flushdb()
        client.xgroup_create("orders", "g", mkstream=True)
        client.xadd("{orders}:dlq", LETTER, id="1-0")
        client.xadd("{orders}:dlq", {**LETTER, "id": "8", "sm-group": "h"}, id="2-0")
        yield client
        client.flushdb()


def test_list_shows_the_newest_first(cli: Any, store: redis.Redis) -> None:
    done = cli("dlq", "list", "orders")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if row and row[0] in ("1-0", "2-0")] == ["2-0", "1-0"]
    assert "ValueError: bad" in done.stdout
    assert "note=[red]é" in done.stdout
    assert "2 of 2" in done.stdout
    assert " 1-0 " not in cli("dlq", "list", "orders", "--count", "1").stdout
    assert " 2-0 " not in cli("dlq", "list", "orders", "--group", "g").stdout


def test_list_as_json_and_without_a_stream(cli: Any, store: redis.Redis) -> None:
    letters = [json.loads(line) for line in cli("dlq", "list", "orders", "--json").stdout.splitlines()]
    assert [letter["id"] for letter in letters] == ["2-0", "1-0"]
    assert letters[1]["data"] == {"id": "7", "note": "[red]é"}
    assert letters[1]["failed_at"] == "2021-12-01 12:00:00"
    assert cli("dlq", "list").stdout.split() == ["2", "{orders}:dlq"]


def test_show_gives_the_traceback(cli: Any, store: redis.Redis) -> None:
    shown = cli("dlq", "show", "orders", "1-0").stdout
    for text in ("reason: retries", "attempts: 5", '"note": "[red]é"', "Traceback: in line 7"):
        assert text in shown
    done = cli("dlq", "show", "orders", "9-9")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no dead letter 9-9" in done.stderr


def test_redrive_gives_back_to_the_group_alone(cli: Any, store: redis.Redis) -> None:
    assert "1 of 1" in cli("dlq", "redrive", "orders", "1-0").stdout
    ((_, entry),) = store.xrange("{orders}:retry:g")
    assert entry[b"id"] == b"7"
    assert b"sm-reason" not in entry
    done = cli("dlq", "redrive", "orders", "--all")
    assert done.returncode == 1
    assert "2-0: refused: its group 'h' is gone" in done.stdout
    assert "1-0: there is no such dead letter" in cli("dlq", "redrive", "orders", "1-0").stdout
    assert "give --all" in cli("dlq", "redrive", "orders").stderr


def test_purge_needs_yes_where_nobody_can_be_asked(cli: Any, store: redis.Redis) -> None:
    done = cli("dlq", "purge", "orders")
    assert (done.returncode, store.xlen("{orders}:dlq")) == (1, 2)
    assert "Give --yes" in done.stderr
    assert "2 dead letters deleted" in cli("dlq", "purge", "orders", "--yes").stdout
    assert store.xlen("{orders}:dlq") == 0
    assert "no dead letters" in cli("dlq", "purge", "orders").stdout


@pytest.mark.parametrize(("answer", "left", "status"), [("n", 2, 1), ("", 2, 1), ("y", 0, 0)])
def test_purge_asks_on_a_terminal(cli: Any, store: redis.Redis, answer: str, left: int, status: int) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "streammachine.cli", "dlq", "purge", "orders"],
            env=cli.environment(), stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.write(ours, f"{answer}\n".encode())
        out, _ = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"Delete 2 dead letters of orders? [y/N]" in out
    assert (process.returncode, store.xlen("{orders}:dlq")) == (status, left)


def test_a_stream_that_is_not_there_names_the_nearest(cli: Any, store: redis.Redis) -> None:
    done = cli("dlq", "list", "order")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Did you mean 'orders'?" in done.stderr
