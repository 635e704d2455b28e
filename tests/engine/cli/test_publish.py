"""``streammachine publish``: one record from the arguments, many as JSON lines from stdin."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.servers import redis_at
from support.valkey import wait_until

DATABASE = 9  # of the run's shared Valkey; no other test uses it


@pytest.fixture
def store(cli: Any, shared_server: EmbeddedServer) -> Iterator[redis.Redis]:
    url = f"{shared_server.url}?db={DATABASE}"
    cli.env.update({"REDIS_URL": url, "STREAMMACHINE_EMBEDDED": "auto"})
    with redis_at(url) as client:
        client.flushdb()
        yield client
        client.flushdb()


def fields(client: redis.Redis, stream: str) -> list[dict[str, str]]:
    found: Any = client.xrange(stream)
    return [{k.decode(): v.decode() for k, v in each.items() if k != b"sm-sent"} for _, each in found]


def piped(cli: Any, stdin: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "streammachine.cli", "publish", *arguments]
    return subprocess.run(command, env=cli.environment(), input=stdin, capture_output=True, timeout=60, check=False)


def test_one_record_from_the_arguments(cli: Any, store: redis.Redis) -> None:
    done = cli("publish", "orders", "id=7", "note=a=b é", "empty=")
    assert (done.returncode, done.stderr) == (0, "")
    [(identifier, raw)] = store.xrange("orders")  # type: ignore[misc]
    assert identifier.decode() == done.stdout.strip()
    assert int(raw[b"sm-sent"]) > 1_600_000_000_000
    assert fields(store, "orders") == [{"id": "7", "note": "a=b é", "empty": ""}]


def test_what_is_no_field_is_refused(cli: Any, store: redis.Redis) -> None:
    for wrong, said in ((["id"], "write it as name=value"), (["a=1", "a=2"], "given twice"), ([""], "name=value")):
        done = cli("publish", "orders", *wrong)
        assert done.returncode == 1
        assert said in done.stderr
    assert not store.exists("orders")


def test_json_lines_keep_their_order_and_their_digits(cli: Any, store: redis.Redis) -> None:
    lines = b"".join(b'{"n": %d, "price": 0.10, "big": 123456789012345678901, "ok": true}\n\n' % n for n in range(2000))
    done = piped(cli, lines + b'{"n": "last"}', "ticks", "--maxlen", "0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"2001 entries appended to ticks\n"
    found = fields(store, "ticks")
    assert found[0] == {"n": "0", "price": "0.10", "big": "123456789012345678901", "ok": "true"}
    assert [each["n"] for each in found] == [*map(str, range(2000)), "last"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": null}', "Line 3 is no record: the field 'a' is null"),
        (b'{"a": [1]}', "the field 'a' is a list"),
        (b"[1]", "a record is a JSON object"),
        (b"{}", "at least one field"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b"{", "Line 3 is no record"),
        (b'{"a": "\xff"}', "it is not UTF-8"),
        (b"[" * 100_000, "Line 3 is no record"),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}', "longer than 1,048,576 bytes"),
    ],
)
def test_a_bad_line_is_named_and_what_was_before_is_there(cli: Any, store: redis.Redis, line: bytes, said: str) -> None:
    done = piped(cli, b'{"n": 1}\n{"n": 2}\n' + line + b'\n{"n": 4}\n', "s")
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert "2 records were appended before." in done.stderr.decode()
    assert [each["n"] for each in fields(store, "s")] == ["1", "2"]


def test_a_slow_writer_is_not_kept_waiting(cli: Any, store: redis.Redis) -> None:
    command = [sys.executable, "-m", "streammachine.cli", "publish", "slow"]
    process = subprocess.Popen(command, env=cli.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    for number in range(3):
        os.write(process.stdin.fileno(), json.dumps({"n": number}).encode() + b"\n")
        wait_until(lambda number=number: store.xlen("slow") == number + 1)  # type: ignore[misc]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.stdin.close()
    assert process.stdout is not None
    process.stdout.close()
