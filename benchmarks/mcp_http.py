"""The MCP server over HTTP (protocol 2026-07-28) beside an empty FastMCP server: ten clients, a mix of ten tools.

    python -m benchmarks.mcp_http [--rounds 5] [--calls 200] [--clients 10] [--json]

The empty server's only tool takes one argument and does nothing. It runs twice: by FastMCP's own ``run``, and served
as ours is (the same web server and event loop, and ``gc.freeze()`` after the start). Both have the SDK's setting
``get_tool_input_schema``. ``ours, listing`` is our server without that setting: the SDK then serves each call by its
own road and runs ``tools/list`` before one that has arguments. It is spared what else a call no longer costs, so it is
faster than the builds were that listed. The servers take turns, each answering all its clients, and a ratio is the
median of the rounds' ratios. The clients are connections of one process that are kept open; each has one call under
way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.mcp import OURS, START_MS, environment, message
from benchmarks.measuring import Row, keep, median_ratio, table

VERSION = "2026-07-28"
BARE = "sm_bench_bare_http"
EMPTY = "sm_bench_empty_http"
_NOTHING = """
from fastmcp import FastMCP

mcp = FastMCP("empty")


@mcp.tool
async def nothing(number: int) -> dict[str, str]:
    return {}


mcp._mcp_server.get_tool_input_schema = {}.get
"""
BARE_SOURCE = f"""
import socket
{_NOTHING}
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
print(f"listening on http://127.0.0.1:{{port}}/mcp", flush=True)
mcp.run(transport="http", port=port, show_banner=False, log_level="WARNING")
"""
EMPTY_SOURCE = f"""
import gc
import socket

import anyio
from streammachine_mcp.entry import EVENT_LOOP, configure_logging, join_fastmcp_log, run_http

configure_logging("INFO")
{_NOTHING}
join_fastmcp_log()
listening = socket.create_server(("127.0.0.1", 0))
print(f"listening on http://127.0.0.1:{{listening.getsockname()[1]}}/mcp", flush=True)
gc.freeze()
anyio.run(run_http, mcp.http_app(path="/mcp"), [listening], backend_options=EVENT_LOOP)
"""
LISTING = "sm_bench_listing"
LISTING_SOURCE = """
import streammachine_mcp.server as assembly
from streammachine_mcp.entry import main

assembly.declare_static = lambda server, tools: None
raise SystemExit(main())
"""
SERVERS = {BARE: "empty FastMCP", EMPTY: "empty, served as ours", LISTING: "ours, listing", OURS: "ours"}

Call = tuple[str, dict[str, Any]]


def mix(number: int) -> Call:
    """The call of this number, of ten tools in turn."""
    tick = {"symbol": "BTCUSDT", "price": 61837.63, "volume": 0.5, "timestamp_ms": START_MS + number}
    calls: tuple[Call, ...] = (
        ("stream_read", {"stream": "ticks", "count": 1}),
        ("stream_send", {"stream": "ticks", "message": message(number)}),
        ("stream_info", {"stream": "ticks"}),
        ("storage_read", {"key": "k"}),
        ("storage_write", {"key": "k", "value": {"price": 61837.63, "n": number}}),
        ("storage_keys", {}),
        ("ohlc_get_candles", {"name": "ten", "symbol": "BTCUSDT", "interval_ms": 60_000}),
        ("ohlc_update", {"name": "fed", **tick}),
        ("ohlc_stats", {"name": "ten"}),
        ("redis_ping", {}),
    )
    return calls[number % len(calls)]


def main(argv: list[str] | None = None) -> None:
    """Measure; print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="The MCP server over HTTP beside an empty FastMCP server.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200, help="calls of each client in a round")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sm-bench-") as name:
        rows = asyncio.run(measured(Path(name), options.rounds, options.calls, options.clients))
    keep(rows)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{options.clients} clients, medians of {options.rounds} rounds of {options.calls} calls a client\n")
    print(table(rows))


async def measured(folder: Path, rounds: int, calls: int, clients: int) -> list[Row]:
    """One row a server."""
    (folder / f"{BARE}.py").write_text(BARE_SOURCE)
    (folder / f"{EMPTY}.py").write_text(EMPTY_SOURCE)
    (folder / f"{LISTING}.py").write_text(LISTING_SOURCE)
    seconds: dict[str, list[float]] = {module: [] for module in SERVERS}
    p99: dict[str, list[float]] = {module: [] for module in SERVERS}
    with contextlib.ExitStack() as stack:
        ports = {module: stack.enter_context(started(module, folder)) for module in SERVERS}
        for module in (LISTING, OURS):
            await prepare(ports[module])
        for turn in range(rounds + 1):  # the first one warms up
            for module, port in ports.items():
                made = nothing if module in (BARE, EMPTY) else mix
                began = time.perf_counter()
                taken = await all_called(port, made, calls if turn else calls // 4, clients)
                if turn:
                    seconds[module].append(time.perf_counter() - began)
                    p99[module].append(statistics.quantiles(taken, n=100)[98])
    return [
        {
            "server": label,
            "calls/s": calls * clients / statistics.median(seconds[module]),
            ": empty": median_ratio(seconds[BARE], seconds[module]),
            ": as ours": median_ratio(seconds[EMPTY], seconds[module]),
            ": listing": median_ratio(seconds[LISTING], seconds[module]),
            "p99 ms": statistics.median(p99[module]) * 1000,
            "p99 : empty": median_ratio(p99[module], p99[BARE]),
        }
        for module, label in SERVERS.items()
    ]


def nothing(number: int) -> Call:
    """The empty server's call."""
    return "nothing", {"number": number}


async def prepare(port: int) -> None:
    """What the reading tools read."""
    ticks = [
        {"symbol": "BTCUSDT", "price": 1.0 + minute, "volume": 1.0, "timestamp_ms": START_MS + minute * 60_000}
        for minute in range(10)
    ]
    calls: list[Call] = [("storage_write", {"key": "k", "value": {}})]
    calls += [("ohlc_create", {"name": name, "intervals": [60_000, 300_000]}) for name in ("ten", "fed")]
    calls += [("ohlc_update", {"name": "ten", "ticks": ticks}), ("stream_send", {"stream": "ticks", "message": {}})]
    calls[-1][1]["message"] = message(0)
    await called(port, iter(calls))


# -- the clients ------------------------------------------------------------------------------


async def all_called(port: int, made: Callable[[int], Call], calls: int, clients: int) -> list[float]:
    """Seconds of every call; the clients share one row of numbers, so they call different tools at the same time."""
    numbers = itertools.count()
    each = [called(port, (made(next(numbers)) for _ in range(calls))) for _ in range(clients)]
    return [taken for client in await asyncio.gather(*each) for taken in client]


async def called(port: int, calls: Iterator[Call]) -> list[float]:
    """Make these calls one after the other on one connection; seconds of each.

    Raises:
        RuntimeError: one failed.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken = []
    for tool, arguments in calls:
        request = encoded(tool, arguments)
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if length is None:
            raise RuntimeError(head.decode())
        body = await reader.readexactly(int(length[1]))
        taken.append(time.perf_counter() - began)
        if b'"isError":true' in body or b'"error":{' in body:
            raise RuntimeError(f"{tool}: {body.decode()}")
    writer.close()
    return taken


def encoded(tool: str, arguments: dict[str, Any]) -> bytes:
    """A tools/call of the modern protocol as an HTTP request."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    head = (
        "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "Accept: application/json, text/event-stream\r\n"
        f"Mcp-Protocol-Version: {VERSION}\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# -- the servers ------------------------------------------------------------------------------


@contextlib.contextmanager
def started(module: str, folder: Path) -> Iterator[int]:
    """A server process, each of ours with an embedded Valkey of its own; gives its port."""
    options = [] if module in (BARE, EMPTY) else ["--transport", "http", "--port", "0"]
    log = folder / f"{module}.log"
    env = environment(folder, "everysec")
    env["STREAMMACHINE_DATA_DIR"] = str(folder / f"data-{module}")
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", module, *options], stdout=output, stderr=output, env=env)
    try:
        yield listening(process, log)
    finally:
        process.terminate()
        process.wait(30)


def listening(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port, once it is told."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (found := re.search(r"listening on http://.*:(\d+)/mcp", log.read_text())) is not None:
            port = int(found[1])
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return port
        time.sleep(0.05)
    raise RuntimeError(log.read_text())


if __name__ == "__main__":
    main()
