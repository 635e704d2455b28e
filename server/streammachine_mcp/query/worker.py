"""The process that runs queries, one after another: ``python -m streammachine_mcp.query.worker``.

It says on stdout when it is ready; then a job is a line of JSON on stdin, its answer one on stdout. The process ends
with its stdin, so with the server, and after a query that left much memory behind. What it may allocate is bounded by
the kernel: DuckDB's own limit does not count all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import resource
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.errors import StreamMachineError, StreamNotFoundError
from streammachine.runtime.processes.origin import CHILD_URL

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

MEMORY = 512 << 20  # bytes beyond what the process has once everything is loaded
KEPT = 96 << 20  # bytes beyond that with which it goes on to the next query
NICE = 10  # the server and its other children go first


def main() -> None:
    """Answer jobs until stdin ends."""
    stdin, stdout = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # a print is no answer
    with contextlib.suppress(OSError):
        os.nice(NICE)
    url = os.environ.pop(CHILD_URL)
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(stdin, jobs), daemon=True).start()
    anyio.run(_serve, url, jobs, stdout)


def _receive(stdin: int, jobs: queue.SimpleQueue[bytes]) -> None:
    """Take jobs; the end of stdin is the end of the process, whatever it is doing."""
    with open(stdin, "rb", buffering=0) as lines:
        for line in lines:
            jobs.put(line)
    os._exit(0)


async def _serve(url: str, jobs: queue.SimpleQueue[bytes], stdout: int) -> None:
    from streammachine.redis.connection import RedisConnection
    from streammachine_mcp.query import sandbox

    parser = sandbox.opened()
    sandbox.warm_up()  # before the memory is bounded
    base = _allocated()
    if base:
        resource.setrlimit(resource.RLIMIT_DATA, (base + MEMORY, base + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes no file
    refused = _refused_memory()
    async with RedisConnection(url=url) as connection:
        _write(stdout, b'{"ready": true}\n')
        while True:
            job = json.loads(await anyio.to_thread.run_sync(jobs.get))
            answer = await _answer(connection, parser, job)
            if refused and "error" in answer:  # the connection to Redis broke for it
                answer["error"] = OUT_OF_MEMORY
            answer["last"] = bool(refused) or _allocated() > base + KEPT
            _write(stdout, json.dumps(answer, ensure_ascii=True).encode() + b"\n")
            if answer["last"]:
                os._exit(0)


def _refused_memory() -> list[MemoryError]:
    """Where the loop notes that what came from Redis found no room: who waits for it learns only that it broke off."""
    refused: list[MemoryError] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, MemoryError):
            refused.append(error.with_traceback(None))
        else:
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(note)
    return refused


async def _answer(connection: RedisConnection, parser: Any, job: dict[str, Any]) -> dict[str, Any]:
    """The result of a job, or the error as a sentence."""
    import duckdb

    from streammachine_mcp.query.sandbox import sentence

    columns: dict[str, list[str]] = {}
    try:
        return {"result": await _query(connection, parser, job["sql"], int(job["limit"]), columns)}
    except StreamNotFoundError as error:
        unquoted = ":" in job["sql"] and '"' not in job["sql"]
        quoting = ' A name with a colon stands in double quotes: FROM "trades:BTC".' if unquoted else ""
        return {"error": f"{error}{quoting}"}
    except StreamMachineError as error:
        return {"error": str(error)}
    except (MemoryError, duckdb.OutOfMemoryException):
        return {"error": OUT_OF_MEMORY}
    except duckdb.Error as error:
        if "allocat" in str(error) and "emory" in str(error):
            return {"error": OUT_OF_MEMORY}
        return {"error": f"The query failed: {sentence(error, columns)}"}
    except ValueError as error:
        return {"error": str(error)}


OUT_OF_MEMORY = (
    f"The query needs more than the {MEMORY >> 20} MB that it may use. Read fewer rows (a time range: "
    "FROM stream('name', 'now-1h')), name the columns that you need, or aggregate earlier."
)


async def _query(
    connection: RedisConnection, parser: Any, sql: str, limit: int, columns: dict[str, list[str]]
) -> dict[str, Any]:
    from streammachine_mcp.query import sandbox, sources
    from streammachine_mcp.query.plan import plan_of

    began = time.perf_counter()
    plan = plan_of(parser, sql)
    read = 0
    database = sandbox.opened()
    try:
        for table in plan.tables:
            frame = await sources.read(connection, table, sources.MOST_ROWS - read)
            read += len(frame)
            shown = table.arguments[0] if table.kind == "stream" else f"{table.kind}({', '.join(table.arguments)})"
            columns[shown] = sandbox.load(database, table.name, frame)
            if table.columns is not None and table.kind == "stream":
                columns[shown] = await _fields(connection, table.arguments[0], columns[shown])
            del frame
        result = sandbox.run(database, plan.sql, limit)
    finally:
        database.close()
    return {**result, "rows_read": read, "elapsed_ms": round((time.perf_counter() - began) * 1000, 1)}


async def _fields(connection: RedisConnection, stream: str, known: list[str]) -> list[str]:
    """The columns of a stream of which a query reads some: those of its newest entry as well, for the error's words."""
    from streammachine.redis import streams
    from streammachine_mcp.query import sources

    newest = await streams.read_newest(connection, stream, 1)
    fields = [name for name in newest[0].data if name != sources.SENT_FIELD] if newest else []
    return list(dict.fromkeys(["id", "timestamp_ms", *known, *fields]))


def _allocated() -> int:
    """Bytes of the process's own memory, as the kernel's RLIMIT_DATA counts it; 0 where it does not say."""
    try:
        with Path("/proc/self/status").open(encoding="ascii") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return 0


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    sys.exit(main())  # type: ignore[func-returns-value]
