"""What the dashboard costs an App: the same App without it, with it, and with it while a page looks every second.

    python -m benchmarks.dashboard [--messages 300000] [--rounds 5] [--windows 10] [--seconds 1] [--json]

Beside the stream that is consumed stand 10,000 others with a group each and 100 announced agents. Everybody takes turns
on one private Valkey. First whole runs, each a process of its own, with the page's first look at everything in it. Then
``steady``: one App that is never out of messages, while a page is there for a window of ``--seconds`` and the next
window not, ``--windows`` times for each view. Each App is started as a script does, by ``app.start()``. ``CPU`` is the
App's process time for a message, which a busy machine disturbs less than its rate. Where Chromium is installed, the
time from opening the address to the first row is shown as well. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from benchmarks.app import private_valkey
from benchmarks.measuring import Row, keep, median_ratio, table

STREAM, GROUP, TOKEN = "bench", "bench", "a-token-of-the-benchmark"
STREAMS, AGENTS = 10_000, 100
CHROMIUM = Path("/usr/bin/chromium")
VIEWS = ("streams", "agents", "groups")
KINDS = ("without", "with it", *(f"with it, watched: {view}" for view in VIEWS))


def main(argv: list[str] | None = None) -> None:
    """Measure, and print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="What the dashboard costs.")
    parser.add_argument("--messages", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=("on", "off", "steady"))
    options = parser.parse_args(argv)
    if options.child:
        consume(options.messages, options.child)
        return
    with tempfile.TemporaryDirectory(prefix="sm-bench-") as folder, private_valkey(Path(folder)) as url:
        store = redis.Redis.from_url(url, socket_timeout=60)
        surround(store)
        fill(store, options.messages)
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for number in range(options.rounds + 1):
            for kind in KINDS:
                one = run(url, store, Path(folder), kind, options.messages)
                if number:  # the first round warms up
                    found[kind].append(one)
        steady = alternate(url, store, Path(folder), options)
        paints = first_paint(url, Path(folder), options.rounds)
    base = found["without"]
    rows: list[Row] = [
        {
            "App": kind,
            "msg/s": statistics.median(one["rate"] for one in runs),
            "throughput x without": median_ratio([one["rate"] for one in runs], [one["rate"] for one in base]),
            "CPU us/msg": statistics.median(one["cpu_us"] for one in runs),
            "CPU x without": median_ratio([one["cpu_us"] for one in runs], [one["cpu_us"] for one in base]),
        }
        for kind, runs in found.items()
    ]
    rows += [
        {
            "App": f"steady, watched: {view}",
            "msg/s": statistics.median(there["rate"] for there, _ in pairs),
            "throughput x without": median_ratio(
                [away["rate"] for _, away in pairs], [one["rate"] for one, _ in pairs]
            ),
            "CPU us/msg": statistics.median(there["cpu_us"] for there, _ in pairs),
            "CPU x without": median_ratio([one["cpu_us"] for one, _ in pairs], [away["cpu_us"] for _, away in pairs]),
        }
        for view, pairs in steady.items()
    ]
    if paints:
        rows.append({"App": f"first row of {STREAMS:,} streams, ms", "msg/s": statistics.median(paints)})
    keep(rows)
    print(json.dumps(rows, indent=2) if options.json else table(rows))


def surround(store: redis.Redis) -> None:
    """The other streams, and agents that are announced."""
    for start in range(0, STREAMS, 1000):
        pipe = store.pipeline(transaction=False)
        for number in range(start, start + 1000):
            pipe.xadd(f"other:{number:05}", {"price": "61837.63"})
            pipe.xgroup_create(f"other:{number:05}", "g", "0")
        pipe.execute()
    agents = [
        {"agent": f"agent-{number}", "stream": f"other:{number:05}", "group": "g", "rate": 1.0, "consumed": 5}
        for number in range(AGENTS)
    ]
    told = {"app": "others", "host": "h", "pid": 1, "declared": False, "agents": agents}
    store.hset("sm:agents:running", "others", f"{int(time.time() * 1000) + 3_000_000} {json.dumps(told)}")


def fill(store: redis.Redis, messages: int) -> None:
    """The messages, once: each run gets a copy of them, with the group at its beginning."""
    store.xgroup_create("filled", GROUP, "0", mkstream=True)
    for start in range(0, messages, 5000):
        pipe = store.pipeline(transaction=False)
        for number in range(start, min(messages, start + 5000)):
            pipe.xadd("filled", {"symbol": "BTCUSDT", "price": "61837.63", "n": number})
        pipe.execute()


def run(url: str, store: redis.Redis, folder: Path, kind: str, messages: int) -> dict[str, float]:
    """One App: it gets its messages when it, and the page that looks, are there."""
    store.delete(STREAM)
    child = start_child(url, folder, messages, "off" if kind == "without" else "on")
    page = None
    try:
        if "watched" in kind:
            page = Page(address_of(child), kind.rpartition(" ")[2])
        while not any(info["cmd"] == "xreadgroup" for info in store.client_list()):
            time.sleep(0.01)
        store.copy("filled", STREAM, replace=True)
        assert child.stdout is not None
        answer: dict[str, float] = json.loads(child.stdout.readline())
        return answer
    finally:
        if page is not None:
            page.close()
        child.kill()
        child.communicate()


def alternate(
    url: str, store: redis.Redis, folder: Path, options: argparse.Namespace
) -> dict[str, list[tuple[dict[str, float], dict[str, float]]]]:
    """One App, and a page that is there in every other window: the windows with it and without it, by view."""
    store.delete(STREAM)
    store.copy("filled", STREAM, replace=True)
    child = start_child(url, folder, options.messages, "steady")
    try:
        address = address_of(child)

        def window(view: str | None) -> dict[str, float]:
            page = Page(address, view) if view else None
            before = state(child)
            time.sleep(options.seconds)
            after = state(child)
            if page is not None:
                page.close()
            messages, seconds = after["count"] - before["count"], after["now"] - before["now"]
            return {"rate": messages / seconds, "cpu_us": (after["cpu"] - before["cpu"]) / messages * 1e6}

        window("groups")  # the first look at everything is none of these windows
        return {view: [(window(view), window(None)) for _ in range(options.windows)] for view in VIEWS}
    finally:
        child.kill()
        child.communicate()


def state(child: subprocess.Popen[str]) -> dict[str, float]:
    """The messages that a child has handled, its process time, and when that was."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("?\n")
    child.stdin.flush()
    found: dict[str, float] = json.loads(child.stdout.readline())
    return found


def address_of(child: subprocess.Popen[str]) -> str:
    """Where a child's dashboard is, without its token."""
    assert child.stderr is not None
    found = re.search(r"http://\S+?(?=/\?)", next(line for line in child.stderr if "Dashboard:" in line))
    assert found is not None
    return found[0]


def start_child(url: str, folder: Path, messages: int, how: str) -> subprocess.Popen[str]:
    """A process of this file that runs the App."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMMACHINE_")}
    environment |= {"REDIS_URL": url, "STREAMMACHINE_DATA_DIR": str(folder / "data"), "STREAMMACHINE_COUNT": "1000"}
    command = [
        sys.executable,
        "-m",
        "benchmarks.dashboard",
        "--child",
        how,
        "--messages",
        str(messages),
    ]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, env=environment, text=True)


class Page:
    """Reads a view's events, as a page does, until it is closed."""

    def __init__(self, address: str, view: str) -> None:
        place = urlsplit(address)
        assert place.hostname is not None
        self._connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
        self._connection.request("GET", f"/events/{view}", headers={"Authorization": f"Bearer {TOKEN}"})
        self._answer = self._connection.getresponse()
        self._answer.readline()  # the first look
        self._sock = self._connection.sock
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # the App has ended, or the page was closed
            while self._answer.readline():
                pass

    def close(self) -> None:
        """Go away at once."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()


def consume(messages: int, how: str) -> None:
    """The App: counts its messages and says how fast they were; ``steady``: says so whenever it is asked, and reads
    the stream from the beginning again before it has read it to the end.
    """
    from streammachine.runtime.app.app import App
    from streammachine.runtime.model.message import Message

    app = App(
        "bench", to_scan=False, dashboard_enabled=how != "off", dashboard_port=0, dashboard_host="127.0.0.1",
        dashboard_refresh_interval=1, dashboard_token=TOKEN,
    )  # fmt: skip
    count, began, cpu = 0, 0.0, 0.0
    turn = str(messages * 9 // 10)  # a read that is blocked at the end would not notice

    @app.agent(STREAM, group=GROUP, prefetch=1000)
    async def single(message: Message) -> None:
        nonlocal count, began, cpu
        if not count:
            began, cpu = time.perf_counter(), time.process_time()
        count += 1
        if how == "steady":
            if str(message.message["n"]) == turn:
                await app.redis.command("XGROUP", "SETID", STREAM, GROUP, "0")
        elif count == messages:
            seconds, used = time.perf_counter() - began, time.process_time() - cpu
            print(json.dumps({"rate": messages / seconds, "cpu_us": used / messages * 1e6}), flush=True)

    def tell() -> None:
        for _ in sys.stdin:
            print(json.dumps({"count": count, "cpu": time.process_time(), "now": time.perf_counter()}), flush=True)

    threading.Thread(target=tell, daemon=True).start()
    app.start()


def first_paint(url: str, folder: Path, rounds: int) -> list[float]:
    """Milliseconds from opening the address to the first row, in a new browser context each; none without Chromium."""
    if not CHROMIUM.exists():
        return []
    from playwright.sync_api import sync_playwright

    child = start_child(url, folder, 1, "on")
    found: list[float] = []
    try:
        assert child.stderr is not None
        line = next(line for line in child.stderr if "Dashboard:" in line)
        address = line.partition(": ")[2].strip()
        with sync_playwright() as playwright:
            arguments: list[Any] = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
            for _ in range(rounds):
                context = browser.new_context()
                page = context.new_page()
                began = time.perf_counter()
                page.goto(address)
                page.locator("tbody tr").first.wait_for()
                found.append((time.perf_counter() - began) * 1000)
                context.close()
            browser.close()
    finally:
        child.kill()
        child.communicate()
    return found


if __name__ == "__main__":
    main()
