"""The server's side of queries: a few processes, one query each at a time, a bounded queue before them.

A query that takes too long, or whose call is cancelled, takes its process with it. Processes stay for the next query
and end when nobody has asked for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.runtime.processes.origin import CHILD_URL
from streammachine_mcp.query.plan import QueryError

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

log = logging.getLogger(__name__)

PROCESSES = 2
MOST_WAITING = 256  # queries that wait for a process; one more is refused
WAIT = 15.0  # seconds that a query waits for a process
LIMIT = 10.0  # seconds that a query may take
START = 15.0  # seconds in which a process must be ready
IDLE = 60.0  # seconds without a query after which the processes end
MOST_ANSWER = 1 << 20  # bytes of an answer's line
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV")
_KEPT_PREFIXES = ("PYTHON", "COVERAGE", "SSL_CERT", "STREAMMACHINE_DATA_DIR")


class QueryPool:
    """Runs queries in processes of their own.

    Args:
        connect: gives the open connection, whose Redis the processes read.
    """

    def __init__(self, connect: Callable[[], Awaitable[RedisConnection]]) -> None:
        self._connect = connect
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._slots = asyncio.Semaphore(PROCESSES)
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, sql: str, limit: int) -> dict[str, Any]:
        """Run one query; gives its result.

        Raises:
            QueryError: it is refused, failed, took too long or needed too much memory; or too many wait.
        """
        if sys.platform == "win32":
            raise QueryError("stream_query does not run on Windows, where the memory of a query cannot be bounded.")
        if not _has_duckdb():
            raise QueryError("SQL needs DuckDB, which is not installed: pip install 'streammachine-mcp[sql]'")
        connection = await self._connect()
        await self._take_slot()
        try:
            return await self._run(connection.url or "", sql, limit)
        finally:
            self._slots.release()

    async def close(self) -> None:
        """End all processes."""
        if self._timer is not None:
            self._timer.cancel()
        workers, self._idle = list(self._all), []
        for worker in workers:
            self._end(worker)
        for worker in workers:
            await worker.ended()

    async def _take_slot(self) -> None:
        if self._waiting >= MOST_WAITING:
            raise QueryError(f"{self._waiting} queries wait already. Nothing was run; try again in some seconds.")
        self._waiting += 1
        try:
            with anyio.move_on_after(WAIT):
                await self._slots.acquire()
                return
        finally:
            self._waiting -= 1
        raise QueryError(f"Other queries took {WAIT:g} s. Nothing was run; try again in some seconds.")

    async def _run(self, url: str, sql: str, limit: int) -> dict[str, Any]:
        worker = await self._ready(url)
        try:
            with anyio.move_on_after(LIMIT):
                answer = await worker.ask({"sql": sql, "limit": limit})
                if answer["last"]:
                    self._end(worker)
                else:
                    self._put_back(worker)
                if "error" in answer:
                    raise QueryError(answer["error"])
                found: dict[str, Any] = answer["result"]
                return found
        except BaseException:
            if worker not in self._idle:
                self._end(worker)
            raise
        self._end(worker)
        raise QueryError(
            f"The query took more than {LIMIT:g} s and was ended. Read fewer rows (a time range: "
            "FROM stream('name', 'now-1h')), or join and sort less."
        )

    async def _ready(self, url: str) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.url == url and worker.is_alive:
                return worker
            self._end(worker)
        worker = await _Worker.start(url)
        self._all.add(worker)
        return worker

    def _put_back(self, worker: _Worker) -> None:
        self._idle.append(worker)
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(IDLE, self._end_idle)

    def _end_idle(self) -> None:
        while self._idle:
            self._end(self._idle.pop())

    def _end(self, worker: _Worker) -> None:
        self._all.discard(worker)
        worker.kill()


class _Worker:
    """One process and the wire to it."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.url = url
        self._process = process

    @classmethod
    async def start(cls, url: str) -> _Worker:
        """Start a process, and wait until it has loaded what a query needs.

        Raises:
            QueryError: it did not start.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streammachine_mcp.query.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=2,
            env=_environment(url),
            start_new_session=True,
            limit=MOST_ANSWER,
        )
        worker = cls(process, url)
        try:
            with anyio.move_on_after(START):
                if await worker._line():
                    return worker
        except BaseException:
            worker.kill()
            raise
        worker.kill()
        raise QueryError(
            "The process for queries did not start. The server's log says why; health_check whether Redis is away."
        )

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Send a job, give its answer.

        Raises:
            QueryError: the process ended.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            await self._process.stdin.drain()
        line = await self._line()
        if not line:
            status = await self._process.wait()
            log.info("A process for queries ended with status %d", status)
            raise QueryError(
                "The process of the query ended, most likely because it needed more memory than it may use. Read fewer "
                "rows, or name the columns that you need. health_check says whether Redis is away."
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        return await self._process.stdout.readline()

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        """Wait for its end."""
        await self._process.wait()


@functools.cache
def _has_duckdb() -> bool:
    return importlib.util.find_spec("duckdb") is not None


def _environment(url: str) -> dict[str, str]:
    """What the process needs to start, and no more: a query must find nothing there."""
    kept = {
        name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), CHILD_URL: url}
