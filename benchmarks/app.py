"""The App beside its peers: throughput, latency and memory of one consuming process, everybody in turns.

    python -m benchmarks.app [--messages 200000] [--rounds 3] [--backlog 1000000] [--no-peers] [--json]

The peers are the published streammachine 0.1.0 and FastStream's Redis broker. Both are installed into a temporary
virtual environment (the first has our import name), and left out with a word where that fails. Everybody reads the same
filled stream on a private Valkey, with a no-op handler, and acknowledges; STREAMMACHINE_COUNT and the prefetch are
1000. The published one reads singly whatever it is told. For the latency a process of its own sends 5,000 messages a
second; the peer is a bare XREADGROUP loop of redis-py. Quote the ratios: the absolute numbers are this machine's.
Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from benchmarks.measuring import Row, keep, median_ratio, table
from streammachine.redis.embedded.server import find_binary

PUBLISHED = Path(__file__).parent / "consumers" / "published.py"
ROLES = Path(__file__).parent / "consumers" / "roles.py"
PEERS = ("streammachine==0.1.0", "faststream[redis]==0.7.8")
PEER_SHARE = 10  # the peers get a tenth of the messages: they are slow, and a rate is a rate
STREAM = "bench"
DEADLINE = 600.0


def main(argv: list[str] | None = None) -> None:
    """Measure everything; print tables, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="The App beside its peers.")
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--peer-python", help="an interpreter that has the peers, instead of a new environment")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="sm-bench-") as folder,
        private_valkey(Path(folder)) as url,
    ):
        python = None if options.no_peers else options.peer_python or peer_python(Path(folder))
        bench = Bench(url, Path(folder) / "data", python)
        rows = {
            "throughput": bench.throughput(options.messages, options.rounds),
            "latency": bench.latency(options.rounds),
            "48 transactional handlers of 10 ms": bench.adding(options.rounds),
            "memory": bench.memory(options.backlog),
        }
    keep(rows)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for name, found in rows.items():
        print(f"{name}\n{table(found)}\n")


class Bench:
    """Runs the roles against one server."""

    def __init__(self, url: str, data: Path, peer: str | None) -> None:
        self._url = url
        self._data = data
        self._peer = peer
        self._client = redis.Redis.from_url(url, socket_timeout=60)

    def throughput(self, messages: int, rounds: int) -> list[Row]:
        """Messages a second with a no-op handler."""
        runs: dict[str, tuple[str, str, int]] = {
            "ours, single": ("ours-single", sys.executable, messages),
            "ours, batch": ("ours-batch", sys.executable, messages),
        }
        if self._peer is not None:
            runs["streammachine 0.1.0"] = ("published", self._peer, messages // PEER_SHARE)
            runs["FastStream"] = ("faststream", self._peer, messages // PEER_SHARE)
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, (role, python, count) in runs.items():
                self._fill(count)
                rates[name].append(self._run(role, count, python)["rate"])
        rows = []
        for name, found in rates.items():
            row: Row = {"consumer": name, "msg/s": statistics.median(found)}
            for peer in list(runs)[2:]:
                if name.startswith("ours"):
                    row[f"x {peer}"] = median_ratio(found, rates[peer])
            rows.append(row)
        return rows

    def latency(self, rounds: int, messages: int = 50_000) -> list[Row]:
        """Milliseconds from XADD to the handler at 5,000 messages a second."""
        found: dict[str, list[dict[str, float]]] = {"bare XREADGROUP loop": [], "ours": []}
        for _ in range(rounds):
            for name, role in (("bare XREADGROUP loop", "bare"), ("ours", "ours-latency")):
                self._fill(0)
                consumer = self._start(role, messages, sys.executable)
                self._wait_for_reader()
                producer = self._start("produce", messages, sys.executable)
                found[name].append(_answer(consumer))
                producer.wait(DEADLINE)
        base = [each["p99_ms"] for each in found["bare XREADGROUP loop"]]
        return [
            {
                "consumer": name,
                "p50 ms": statistics.median(each["p50_ms"] for each in rounds_),
                "p99 ms": statistics.median(each["p99_ms"] for each in rounds_),
                "p99 x bare": median_ratio([each["p99_ms"] for each in rounds_], base),
            }
            for name, rounds_ in found.items()
        ]

    def adding(self, rounds: int, messages: int = 10_000) -> list[Row]:
        """Messages a second of handlers that add to one and the same key, beside handlers that do not."""
        roles = {"without incr": "ours-waits", "incr on one key": "ours-adds"}
        rates: dict[str, list[float]] = {name: [] for name in roles}
        for _ in range(rounds):
            for name, role in roles.items():
                self._fill(messages)
                rates[name].append(self._run(role, messages, sys.executable)["rate"])
        base = rates["without incr"]
        return [
            {"handlers": name, "msg/s": statistics.median(found), "x without": median_ratio(found, base)}
            for name, found in rates.items()
        ]

    def memory(self, backlog: int) -> list[Row]:
        """What a backlog adds to an idle process."""
        self._fill(backlog)
        found = self._run("ours-memory", backlog, sys.executable)
        grown = found["peak_mb"] - found["idle_mb"]
        return [{"backlog": backlog, "idle MB": found["idle_mb"], "peak MB": found["peak_mb"], "grown MB": grown}]

    def _fill(self, count: int) -> None:
        self._client.flushall()
        self._client.xgroup_create(STREAM, "bench", "0", mkstream=True)
        for start in range(0, count, 5000):
            pipe = self._client.pipeline(transaction=False)
            for number in range(start, min(count, start + 5000)):
                pipe.xadd(STREAM, {"symbol": "BTCUSDT", "price": "61837.63", "n": number})
            pipe.execute()

    def _wait_for_reader(self) -> None:
        while not any(info["cmd"] == "xreadgroup" for info in self._client.client_list()):
            pass

    def _run(self, role: str, count: int, python: str) -> dict[str, float]:
        return _answer(self._start(role, count, python))

    def _start(self, role: str, count: int, python: str) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMMACHINE_")}
        environment |= {"REDIS_URL": self._url, "STREAMMACHINE_COUNT": "1000"}
        if python == sys.executable:
            environment |= {
                "STREAMMACHINE_DATA_DIR": str(self._data),
                "STREAMMACHINE_LOG_LEVEL": "ERROR",
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            }
        else:
            environment.pop("PYTHONPATH", None)  # the peer has our import name
        return subprocess.Popen(
            [python, str(PUBLISHED if role == "published" else ROLES), role, str(count)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )


@contextlib.contextmanager
def private_valkey(folder: Path) -> Iterator[str]:
    """A server on a TCP port, which every peer can reach, without persistence; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen([find_binary(), *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port)
        for _ in range(500):
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def peer_python(folder: Path) -> str | None:
    """An interpreter in a new environment that has the peers; None, with a word, where that fails."""
    place = folder / "peers"
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *PEERS], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"The peers cannot be installed, and are left out: {done.stderr.strip()[-200:]}", file=sys.stderr)
        return None
    return python


def _answer(process: subprocess.Popen[bytes]) -> dict[str, float]:
    assert process.stdout is not None
    watch = threading.Timer(DEADLINE, os.killpg, (process.pid, signal.SIGKILL))
    watch.start()
    try:
        line = next((line for line in process.stdout if line.startswith(b"{")), None)
    finally:
        watch.cancel()
        with contextlib.suppress(ProcessLookupError):  # the published one leaves a process behind
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    if line is None:
        raise RuntimeError(f"{process.args!r} ended with status {process.returncode} and no answer.")
    answer: dict[str, Any] = json.loads(line)
    return answer


if __name__ == "__main__":
    main()
