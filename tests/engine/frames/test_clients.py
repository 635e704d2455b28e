"""Every client's reply, taken from a real server, gives one and the same frame."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import coredis
import pandas as pd
import pytest
import redis
from pandas.testing import assert_frame_equal

from streammachine.redis.transport.codec import NEED_MORE, ReplyParser

FILL = [
    ("trades:a", "1700000000000-0", {"symbol": "BTCUSDT", "price": "50000.5", "id": "t-1"}),
    ("trades:a", "1700000000001-0", {"symbol": "BTCUSDT", "price": "50001"}),
    ("trades:a", "1700000000001-7", {"symbol": "ΒTC", "price": "1e-07", "side": "buy"}),
    ("trades:b", "1700000000002-0", {"note": ""}),
]
GONE = "1700000000001-0"


class RawClient:
    """Commands in, parsed replies out, over a bare socket."""

    def __init__(self, path: Path, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._parser = ReplyParser()
        self("HELLO", str(protocol))

    def __call__(self, *command: str) -> Any:
        self._socket.sendall(b"*%d\r\n" % len(command))
        self._socket.sendall(b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in map(str.encode, command)))
        while (reply := self._parser.get()) is NEED_MORE:
            self._parser.feed(self._socket.recv(65536))
        return reply

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def filled(valkey_socket: Path) -> Iterator[Path]:
    """Two streams; group g has read all of them, and one pending entry is deleted."""
    with redis.Redis(unix_socket_path=str(valkey_socket)) as client:
        client.flushall()
        for stream, entry_id, fields in FILL:
            client.xadd(stream, fields, id=entry_id)
        yield valkey_socket
        client.flushall()


def delete_while_pending(path: Path) -> None:
    with redis.Redis(unix_socket_path=str(path)) as client:
        client.xgroup_create("trades:a", "g", "0")
        client.xreadgroup("g", "c", {"trades:a": ">"})
        client.xdel("trades:a", GONE)


def expected() -> pd.DataFrame:
    nan = float("nan")
    return pd.DataFrame(
        {
            "stream": ["trades:a", "trades:a", "trades:a", "trades:b"],
            "id": ["1700000000000-0", "1700000000001-0", "1700000000001-7", "1700000000002-0"],
            "timestamp_ms": [1700000000000, 1700000000001, 1700000000001, 1700000000002],
            "sequence": [0, 0, 7, 0],
            "symbol": ["BTCUSDT", "BTCUSDT", "ΒTC", nan],
            "price": ["50000.5", "50001", "1e-07", nan],
            "id_field": ["t-1", nan, nan, nan],
            "side": [nan, nan, "buy", nan],
            "note": [nan, nan, nan, ""],
        }
    )


async def read_with_coredis(path: Path, decode: bool, command: str) -> Any:
    async with coredis.Redis(unix_socket_path=str(path), decode_responses=decode) as client:
        if command == "xread":
            return await client.xread({"trades:a": "0-0", "trades:b": "0-0"})
        if command == "nothing":
            return await client.xread({"no:such": "0-0"})
        for stream in ("trades:a", "trades:b"):
            await client.xgroup_create(stream, "g", "0")
        return await client.xreadgroup("g", "c", {"trades:a": ">", "trades:b": ">"})


@pytest.mark.parametrize("command", ["xread", "xreadgroup"])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "str"])
def test_coredis_replies_become_the_expected_frame(filled: Path, to_frame: Any, decode: bool, command: str) -> None:
    reply = anyio.run(read_with_coredis, filled, decode, command)
    assert_frame_equal(to_frame(reply, include_sequence=True), expected())


@pytest.mark.parametrize("command", ["xread", "xreadgroup"])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "str"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_replies_become_the_expected_frame(
    filled: Path, to_frame: Any, protocol: int, decode: bool, command: str
) -> None:
    with redis.Redis(unix_socket_path=str(filled), protocol=protocol, decode_responses=decode) as client:
        if command == "xread":
            reply = client.xread({"trades:a": "0", "trades:b": "0"})
        else:
            for stream in ("trades:a", "trades:b"):
                client.xgroup_create(stream, "g", "0")
            reply = client.xreadgroup("g", "c", {"trades:a": ">", "trades:b": ">"})
    assert_frame_equal(to_frame(reply, include_sequence=True), expected())


@pytest.mark.parametrize("protocol", [2, 3])
def test_raw_replies_become_the_expected_frame(filled: Path, to_frame: Any, protocol: int) -> None:
    client = RawClient(filled, protocol)
    reply = client("XREAD", "STREAMS", "trades:a", "trades:b", "0", "0")
    client.close()
    assert_frame_equal(to_frame(reply, include_sequence=True), expected())


@pytest.mark.parametrize("protocol", [2, 3])
def test_deleted_entries_that_are_still_pending_are_left_out(filled: Path, to_frame: Any, protocol: int) -> None:
    delete_while_pending(filled)
    client = RawClient(filled, protocol)
    raw = client("XREADGROUP", "GROUP", "g", "c", "STREAMS", "trades:a", "0")
    client.close()
    with redis.Redis(unix_socket_path=str(filled), protocol=protocol) as library:
        parsed = library.xreadgroup("g", "c", {"trades:a": "0"})
    for reply in (raw, parsed):
        assert GONE.encode() in str(reply).encode()
        assert list(to_frame(reply)["id"]) == ["1700000000000-0", "1700000000001-7"]


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_read_that_finds_nothing_gives_an_empty_frame(filled: Path, to_frame: Any, protocol: int) -> None:
    client = RawClient(filled, protocol)
    raw = client("XREAD", "STREAMS", "no:such", "0")
    client.close()
    with redis.Redis(unix_socket_path=str(filled), protocol=protocol) as library:
        parsed = library.xread({"no:such": "0"})
    for reply in (raw, parsed, anyio.run(read_with_coredis, filled, False, "nothing")):
        frame = to_frame(reply)
        assert list(frame.columns) == ["stream", "id", "timestamp_ms"]
        assert len(frame) == 0


def test_the_entries_of_one_stream_are_taken_under_its_name(filled: Path, to_frame: Any) -> None:
    with redis.Redis(unix_socket_path=str(filled)) as client:
        entries = client.xrange("trades:b")
    assert to_frame({"trades:b": entries}).to_dict("records") == [
        {"stream": "trades:b", "id": "1700000000002-0", "timestamp_ms": 1700000000002, "note": ""}
    ]
    with pytest.raises(ValueError, match=r"give {stream name: entries}"):
        to_frame(entries)
