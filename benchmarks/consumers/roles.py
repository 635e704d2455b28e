"""The processes of ``benchmarks/app.py``: each role consumes ``bench`` and prints one JSON line when it is done.

    python benchmarks/consumers/roles.py ROLE COUNT

In a folder of its own: beside benchmarks/redis.py the redis package could not be imported. Run by the interpreter that
has the library in question, so only the standard library is imported at the top. REDIS_URL
names the server. A rate is taken from the first message to the last; a latency from the field ``t`` (ns) that the
producer writes just before XADD.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

STREAM, GROUP = "bench", "bench"
RATE = 5000  # messages a second, of the producer
URL = os.environ.get("REDIS_URL", "")
COUNT = int(os.environ.get("STREAMMACHINE_COUNT", "1000"))


class Counter:
    """Counts messages, and ends the process after the last one."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.seen = 0
        self.began = 0.0
        self.idle_kb = 0
        self.delays: list[int] = []

    def one(self) -> None:
        if not self.seen:
            self.began = time.perf_counter()
        self.seen += 1
        if self.seen >= self.wanted:
            self.end()

    def many(self, count: int) -> None:
        if not self.seen:
            self.began = time.perf_counter()
        self.seen += count
        if self.seen >= self.wanted:
            self.end()

    def delay(self, sent_ns: int) -> None:
        self.delays.append(time.time_ns() - sent_ns)
        self.one()

    def end(self) -> None:
        seconds = time.perf_counter() - self.began
        found: dict[str, Any] = {"rate": self.seen / seconds}
        if self.delays:
            tail = sorted(self.delays[len(self.delays) // 10 :])  # the first tenth warms up
            found |= {"p50_ms": tail[len(tail) // 2] / 1e6, "p99_ms": tail[len(tail) * 99 // 100] / 1e6}
        if self.idle_kb:
            found |= {"idle_mb": self.idle_kb / 1024, "peak_mb": status_kb("VmHWM") / 1024}
        print(json.dumps(found), flush=True)
        os._exit(0)


def status_kb(name: str) -> int:
    """A line of this process' status, in kB."""
    with open("/proc/self/status", encoding="ascii") as facts:  # noqa: PTH123 - Path is not faster to read
        return next((int(line.split()[1]) for line in facts if line.startswith(f"{name}:")), 0)


def ours(kind: str, wanted: int) -> None:
    from streammachine.runtime.app.app import App
    from streammachine.runtime.model.message import Message, MessageBatch

    app = App("bench", to_scan=False)
    counter = Counter(wanted)

    if kind == "batch":

        @app.agent(STREAM, group=GROUP, prefetch=COUNT, batch=COUNT)
        async def batch(messages: MessageBatch) -> None:
            counter.many(len(messages))

    elif kind == "latency":

        @app.agent(STREAM, group=GROUP, prefetch=COUNT)
        async def timed(message: Message) -> None:
            counter.delay(int(message.data[b"t"]))

    elif kind in ("adds", "waits"):
        handled: set[str | None] = set()

        @app.agent(STREAM, group=GROUP, prefetch=COUNT, concurrency=48, transactional=True)
        async def adds(message: Message) -> None:
            await asyncio.sleep(0.01)
            if kind == "adds":
                await app.storage.incr("total")
            if message.key not in handled:  # one that runs again counts once
                handled.add(message.key)
                counter.one()

    else:

        @app.agent(STREAM, group=GROUP, prefetch=COUNT)
        async def single(message: Message) -> None:
            counter.one()

    @app.on_startup
    async def begin() -> None:
        if kind == "memory":
            counter.idle_kb = status_kb("VmRSS")

    app.start()


def faststream(wanted: int) -> None:
    import logging

    from faststream import FastStream
    from faststream.redis import RedisBroker, StreamSub

    broker = RedisBroker(URL, logger=None, log_level=logging.ERROR)
    counter = Counter(wanted)

    @broker.subscriber(stream=StreamSub(STREAM, group=GROUP, consumer="bench", last_id=">", max_records=COUNT))
    async def single(message: dict[str, Any]) -> None:
        counter.one()

    asyncio.run(FastStream(broker, logger=None).run(log_level=logging.ERROR))


def bare(wanted: int) -> None:
    """The least that reads and acknowledges: redis-py, one loop."""
    import redis

    client = redis.Redis.from_url(URL)
    counter = Counter(wanted)
    while True:
        reply = client.xreadgroup(GROUP, "bare", {STREAM: ">"}, count=COUNT, block=1000)
        if reply:
            entries = reply[0][1] if isinstance(reply, list) else next(iter(reply.values()))[0]
            client_ids = [identifier for identifier, _ in entries]
            for _, fields in entries:
                counter.delay(int(fields[b"t"]))
            client.xack(STREAM, GROUP, *client_ids)


def produce(count: int) -> None:
    """Send at RATE: a few at each millisecond, each with the time at which it is sent."""
    import redis

    client = redis.Redis.from_url(URL)
    began = time.perf_counter()
    sent = 0
    while sent < count:
        due = min(count, int((time.perf_counter() - began) * RATE))
        while sent < due:
            client.xadd(STREAM, {"t": time.time_ns(), "symbol": "BTCUSDT", "price": "61837.63"})
            sent += 1
        time.sleep(0.0005)


def main() -> None:
    role, count = sys.argv[1], int(sys.argv[2])
    if role.startswith("ours-"):
        ours(role.removeprefix("ours-"), count)
    else:
        {"faststream": faststream, "bare": bare, "produce": produce}[role](count)


if __name__ == "__main__":
    main()
