"""Over HTTP, 200 charts and queries at once hold up nobody's ping.

By order, not by time: what the ping waits for is seen by how many of the calls were answered before it. The slowest is
printed.
"""

from __future__ import annotations

import http.client
import itertools
import json
import select
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.http_server import ACCEPT, HttpServer
from support.klines import random_candles, write_klines
from support.mcp import LEGACY, MODERN_META

pytest.importorskip("duckdb", reason="the extra [sql] is not installed")

CALLS = 200
PINGS = 10
FIRST, LAST = CALLS // 4, CALLS // 2  # calls answered before the first and before the last ping, at most
CHART = {"exchange": "binance", "symbol": "BTCUSDT", "indicators": ["sma:20"]}
QUERY = {"sql": "SELECT sum(a.range * b.range) AS s FROM range(1000) a, range(1000) b"}


class Era:
    """Requests of one protocol: 2025-11-25 in a session, 2026-07-28 each by itself (its ping is server/discover)."""

    def __init__(self, server: HttpServer, version: str) -> None:
        self._server = server
        self.modern = version != LEGACY
        self.ping = "server/discover" if self.modern else "ping"
        self.headers = {**ACCEPT, "MCP-Protocol-Version": version}
        self._numbers = itertools.count(1)

    def open_session(self) -> None:
        """Requests from here on are of a session of their own."""
        if self.modern:
            return
        self.headers.pop("mcp-session-id", None)
        client = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        with closing(self.send("initialize", **client)) as connection:
            answer = connection.getresponse()
            answer.read()
            self.headers["mcp-session-id"] = answer.headers["mcp-session-id"]

    def send(self, method: str, **params: Any) -> http.client.HTTPConnection:
        """A request on a connection of its own; its answer is not waited for."""
        connection = self._server.connection()
        headers = dict(self.headers)
        if self.modern:
            params["_meta"] = MODERN_META
            headers |= {"Mcp-Method": method} | ({"Mcp-Name": params["name"]} if "name" in params else {})
        body = json.dumps({"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": params})
        connection.request("POST", "/mcp", body.encode(), headers)
        return connection

    def answer(self, method: str, **params: Any) -> bytes:
        """The body of the answer to a request."""
        with closing(self.send(method, **params)) as connection:
            return connection.getresponse().read()

    def call(self, tool: str, arguments: dict[str, Any]) -> http.client.HTTPConnection:
        """A tool call that is not waited for."""
        return self.send("tools/call", name=tool, arguments=arguments)


class Answers:
    """What came on connections so far; a stream's head is no answer yet."""

    def __init__(self, connections: list[http.client.HTTPConnection]) -> None:
        self._came = {connection.sock: b"" for connection in connections}

    def count(self) -> int:
        """How many were answered."""
        for sock in select.select(list(self._came), [], [], 0)[0]:
            self._came[sock] += sock.recv(1 << 20)
        return sum(b'"jsonrpc"' in data for data in self._came.values())


@pytest.mark.parametrize("version", [LEGACY, "2026-07-28"])
def test_pings_are_answered_before_most_of_200_charts_and_queries(
    shared_server: EmbeddedServer, tmp_path: Path, version: str
) -> None:
    with redis.Redis(unix_socket_path=str(shared_server.socket_path), db=5) as database:
        database.flushdb()
        write_klines(database, "kline:binance:BTCUSDT:1m", 1_723_161_600_000, random_candles(300))
    env = {"REDIS_URL": f"{shared_server.url}?db=5", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with HttpServer(env, tmp_path / "log") as server, ExitStack() as stack:
        era = Era(server, version)
        era.open_session()
        for tool, arguments in (("candles_chart", CHART), ("stream_query", QUERY)):  # their processes have started
            answer = era.answer("tools/call", name=tool, arguments=arguments)
            assert b'"isError":true' not in answer.replace(b" ", b""), answer[-500:]
        calls = [
            era.call(*(("candles_chart", CHART) if number % 2 else ("stream_query", QUERY))) for number in range(CALLS)
        ]
        for each in calls:
            stack.callback(each.close)
        answers, before, slowest = Answers(calls), [], 0.0
        for number in range(PINGS):
            if number == PINGS // 2:
                era.open_session()  # the first half is of the busy session
            began = time.monotonic()
            answer = era.answer(era.ping)
            slowest = max(slowest, time.monotonic() - began)
            before.append(answers.count())
            assert b'"result"' in answer
        print(f"{version}: slowest ping {slowest * 1000:.0f} ms, answered before: {before}")
        assert before[0] < FIRST
        assert before[-1] < LAST
