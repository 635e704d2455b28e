"""The App that chaos is done to. Each worker process runs it; REDIS_URL names the server."""

from __future__ import annotations

import os
import random
import signal

import anyio

from streammachine.runtime.app.app import App
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import Retry, RetryPolicy

LEASE = 1.5

app = App("chaos", to_scan=False, grace=10.0)


@app.agent(
    "orders",
    group="workers",
    concurrency=16,
    lease=LEASE,
    transactional=True,
    retry=RetryPolicy(max_attempts=4, initial=0.02, maximum=0.2),
)
async def handle(order: Message) -> None:
    """Take a moment, then answer. Poison raises, a killer takes its process with it, a late one comes back first."""
    kind = order.message["kind"]
    if kind == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "late" and order.attempt == 1:
        raise Retry(after=LEASE)  # through the group's companion
    await app.send("results", {"id": order.message["id"]})
    await anyio.sleep(random.uniform(0, 0.02))
    if kind == "poison":
        raise ValueError(f"poison {order.message['id']}")
    await app.storage.incr("handled")


if __name__ == "__main__":
    app.start()
