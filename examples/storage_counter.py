"""A counter and a shared value that survive the process: run it twice. python examples/storage_counter.py"""

import asyncio

from streammachine import Storage


async def main() -> None:
    storage = Storage()
    runs = await storage.incr("example:runs")
    print(f"run number {runs}")

    # update() is atomic: of two processes that run it at once, neither is lost.
    seen = await storage.update("example:seen", lambda seen: [*seen, runs], default=[])
    print(f"runs so far: {seen}")
    await storage.close()


asyncio.run(main())
