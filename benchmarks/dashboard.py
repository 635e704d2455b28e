"""What the dashboard costs an App: the same App without it, with it, and with it while a page looks every second.

    python -m benchmarks.dashboard [--messages 300000] [--rounds 5] [--json]

Beside the stream that is consumed stand 10,000 others with a group each and 100 announced agents. Everybody takes turns
on one private Valkey. ``CPU`` is the App's process time for a message, which a busy machine disturbs less than its
rate. Where Chromium is installed, the time from opening the address to the first row is shown as well. Nothing here
asserts a time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import anyio
import redis

from benchmarks.app import private_valkey
from benchmarks.measuring import Row, keep, median_ratio, table

STREAM, GROUP, TOKEN = "bench", "bench", "a-token-of-the-benchmark"
STREAMS, AGENTS = 10_000, 100
CHROMIUM = Path("/usr/bin/chromium")
KINDS = ("without", "with it", "with it, watched: agents", "with it, watched: groups")


def main(argv: list[str] | None = None) -> None:
    """Measure, and print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="What the dashboard costs.")
    parser.add_argument("--messages", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=("on", "off"))
    options = parser.parse_args(argv)
    if options.child:
        anyio.run(consume, options.messages, options.child == "on")
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
    child = start_child(url, folder, messages, on=kind != "without")
    stop = threading.Event()
    try:
        if "watched" in kind:
            assert child.stderr is not None
            address = re.search(r"http://\S+?(?=/\?)", next(line for line in child.stderr if "Dashboard:" in line))
            assert address is not None
            looking = threading.Event()
            view = kind.rpartition(" ")[2]
            threading.Thread(target=watch, args=(f"{address[0]}/events/{view}", looking, stop), daemon=True).start()
            looking.wait(30)
        while not any(info["cmd"] == "xreadgroup" for info in store.client_list()):
            time.sleep(0.01)
        store.copy("filled", STREAM, replace=True)
        assert child.stdout is not None
        answer: dict[str, float] = json.loads(child.stdout.readline())
        return answer
    finally:
        stop.set()
        child.kill()
        child.communicate()


def start_child(url: str, folder: Path, messages: int, *, on: bool) -> subprocess.Popen[str]:
    """A process of this file that runs the App."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMMACHINE_")}
    environment |= {"REDIS_URL": url, "STREAMMACHINE_DATA_DIR": str(folder / "data"), "STREAMMACHINE_COUNT": "1000"}
    command = [
        sys.executable,
        "-m",
        "benchmarks.dashboard",
        "--child",
        "on" if on else "off",
        "--messages",
        str(messages),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)


def watch(address: str, looking: threading.Event, stop: threading.Event) -> None:
    """Read a view's events, as a page does."""
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            for _ in answer:
                looking.set()
                if stop.is_set():
                    return
    except OSError:
        return  # the App has ended


async def consume(messages: int, on: bool) -> None:
    """The App: counts its messages, then says how fast they were."""
    from streammachine.runtime.app.app import App
    from streammachine.runtime.model.message import Message

    app = App(
        "bench", to_scan=False, dashboard_enabled=on, dashboard_port=0, dashboard_host="127.0.0.1",
        dashboard_refresh_interval=1, dashboard_token=TOKEN,
    )  # fmt: skip
    count, began, cpu = 0, 0.0, 0.0
    done = anyio.Event()

    @app.agent(STREAM, group=GROUP, prefetch=1000)
    async def single(message: Message) -> None:
        nonlocal count, began, cpu
        if not count:
            began, cpu = time.perf_counter(), time.process_time()
        count += 1
        if count == messages:
            done.set()

    async with app:
        await done.wait()
        seconds, used = time.perf_counter() - began, time.process_time() - cpu
        print(json.dumps({"rate": messages / seconds, "cpu_us": used / messages * 1e6}), flush=True)
        await anyio.sleep_forever()


def first_paint(url: str, folder: Path, rounds: int) -> list[float]:
    """Milliseconds from opening the address to the first row, in a new browser context each; none without Chromium."""
    if not CHROMIUM.exists():
        return []
    from playwright.sync_api import sync_playwright

    child = start_child(url, folder, 1, on=True)
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
