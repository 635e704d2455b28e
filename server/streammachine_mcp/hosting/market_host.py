"""The process that runs the remembered runners and backfills: ``python -m streammachine_mcp.hosting.market_host``.

A supervised child of the server (``hosting/supervisor.py``): what a socket or a sink does to it leaves the tools
answering. It looks every half second for a remembered runner or backfill without a host, takes its lease, runs it,
restarts it with backoff when it fails, and writes its state to Redis once a second.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic

import anyio
import anyio.abc

from streammachine.errors import ExchangeUnavailableError, MarketError, StreamMachineError
from streammachine.logs import configure_logging
from streammachine.runtime.admin.remembered import (
    BACKFILLS,
    LEASE,
    RUNNERS,
    BackfillSpec,
    RememberedJobs,
    RunnerSpec,
    S,
)
from streammachine.runtime.processes.child_io import stop_at_signal, take_streams
from streammachine.runtime.processes.origin import CHILD_URL
from streammachine.runtime.processes.reports import Reporter
from streammachine_mcp.hosting.history import HistoryWriter, backfilling
from streammachine_mcp.hosting.sinks import emitter_for, exports

if TYPE_CHECKING:
    from streammachine.market.live.runner import Runner
    from streammachine.redis.connection import RedisConnection

log = logging.getLogger("streammachine_mcp.hosting.market_host")

CHECK_EVERY = 0.5  # seconds between two checks for what to run
REPORT_EVERY = 1.0  # seconds between two reports of one
BACKOFF_FIRST, BACKOFF_LAST = 1.0, 60.0  # seconds before one that failed is started again
ORPHAN_LIFE = 10.0  # seconds a process that hangs lives on when its supervisor is gone
MOST_TEXT = 500  # characters of a problem
HISTORY = "history"  # the state of a runner that writes it, and the note that it is written
MOST_LAST = 50  # last candles that are reported of one runner

Facts = Callable[[], dict[str, Any]]


class Job:
    """One runner or backfill under way. ``facts`` gives its state for the report; ``run`` sets it.

    ``without_lease``: it failed and is started again later; until then another host may have it.
    """

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.end = anyio.Event()
        self.state = "starting"
        self.problem = ""
        self.restarts = 0
        self.without_lease = False
        self.facts: Facts = dict

    def describe(self) -> dict[str, Any]:
        """Its state, as it is reported."""
        found = {"state": self.state, "restarts": self.restarts, **self.facts()}
        if self.state != "running":
            found["state"] = self.state
        if self.problem:
            found["problem"] = self.problem
        return found


class Host(Generic[S]):
    """Runs the remembered of one kind that no other host runs, until stopped.

    Args:
        run: runs one to its end or until its ``end`` is set. once: what ended well is not run again.
    """

    def __init__(
        self,
        connection: RedisConnection,
        remembered: RememberedJobs[S],
        run: Callable[[RedisConnection, Job], Awaitable[None]],
        *,
        once: bool = False,
    ) -> None:
        self._connection = connection
        self._remembered: RememberedJobs[S] = remembered
        self._run_one = run
        self._once = once
        self._token = uuid.uuid4().hex
        self._stop = anyio.Event()
        self.jobs: dict[str, Job] = {}

    def stop(self) -> None:
        """End all; ``run`` returns then."""
        self._stop.set()

    async def run(self) -> None:
        """Run what is remembered until ``stop``."""
        async with anyio.create_task_group() as tasks:
            while not self._stop.is_set():
                try:
                    await self._take_new(tasks)
                except StreamMachineError as error:
                    log.warning("Checking for %ss: %s", self._remembered.kind, error)
                with anyio.move_on_after(CHECK_EVERY * random.uniform(0.75, 1.25)):
                    await self._stop.wait()
            for job in self.jobs.values():
                job.end.set()

    async def _take_new(self, tasks: anyio.abc.TaskGroup) -> None:
        specs = await self._remembered.all(self._connection)
        for name, job in self.jobs.items():
            if specs.get(name) != job.spec:
                job.end.set()
        waiting = [name for name in specs if name not in self.jobs]
        if not waiting:
            return
        done = await self._done() if self._once else set()
        for name in waiting:
            if name not in done and await self._remembered.take(self._connection, name, self._token):
                self.jobs[name] = job = Job(specs[name])
                tasks.start_soon(self._run_job, job)

    async def _done(self) -> set[str]:
        statuses = await self._remembered.statuses(self._connection)
        return {name for name, status in statuses.items() if status.get("state") in ("done", "failed")}

    async def _run_job(self, job: Job) -> None:
        name = job.spec.name
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_lease, job)
                tasks.start_soon(self._report, job)
                await self._supervise(job)
                tasks.cancel_scope.cancel()
            if not job.end.is_set():
                await self._report_once(job)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                try:
                    await self._remembered.release(self._connection, name, self._token)
                except StreamMachineError as error:
                    log.debug("Releasing the lease of %s: %s", name, error)
            del self.jobs[name]

    async def _supervise(self, job: Job) -> None:
        backoff = BACKOFF_FIRST
        while not job.end.is_set():
            began = time.monotonic()
            try:
                await self._run_one(self._connection, job)
                if self._once and not job.end.is_set():
                    job.state, job.problem = "done", ""
                return
            except Exception as error:
                found = _first(error)
                job.problem = f"{type(found).__name__}: {found}"[:MOST_TEXT]
                final = (
                    self._once and isinstance(found, MarketError) and not isinstance(found, ExchangeUnavailableError)
                )
                job.state = "failed" if final else "waiting to start again"
                log.error("The %s %s failed: %s", self._remembered.kind, job.spec.name, job.problem, exc_info=error)
                if final:
                    return
            if time.monotonic() - began > BACKOFF_LAST:
                backoff = BACKOFF_FIRST
            if not await self._wait_without_lease(job, random.uniform(backoff / 2, backoff)):
                return
            backoff = min(backoff * 2, BACKOFF_LAST)
            job.restarts += 1

    async def _wait_without_lease(self, job: Job, seconds: float) -> bool:
        """Wait without the lease: another host may reach what this one does not. Whether we have it again."""
        name = job.spec.name
        job.without_lease = True
        try:
            await self._remembered.release(self._connection, name, self._token)
        except StreamMachineError as error:
            log.debug("Releasing the lease of %s: %s", name, error)  # it lapses
        with anyio.move_on_after(seconds):
            await job.end.wait()
        while not job.end.is_set():
            try:
                if await self._remembered.take(self._connection, name, self._token):
                    job.without_lease = False
                    return True
                return False
            except StreamMachineError as error:
                log.warning("Taking the lease of %s: %s", name, error)
            with anyio.move_on_after(REPORT_EVERY):
                await job.end.wait()
        return False

    async def _keep_lease(self, job: Job) -> None:
        """Renew the lease; end the job when somebody else has it."""
        while True:
            await anyio.sleep(LEASE / 3)
            if job.without_lease:
                continue
            try:
                held = await self._remembered.hold(self._connection, job.spec.name, self._token)
                if held or await self._remembered.take(self._connection, job.spec.name, self._token):
                    continue
            except StreamMachineError as error:
                log.warning("Renewing the lease of %s: %s", job.spec.name, error)
                continue
            log.warning("%s was taken over by another host", job.spec.name)
            job.end.set()
            return

    async def _report(self, job: Job) -> None:
        while True:
            await self._report_once(job)
            await anyio.sleep(REPORT_EVERY)

    async def _report_once(self, job: Job) -> None:
        try:
            if job.without_lease and await self._remembered.is_taken(self._connection, job.spec.name):
                return
            await self._remembered.report(self._connection, job.spec.name, job.describe())
        except StreamMachineError as error:
            log.debug("Reporting %s: %s", job.spec.name, error)


# -- what runs --------------------------------------------------------------------------------


async def run_runner(connection: RedisConnection, job: Job) -> None:
    """Run a remembered runner until its end is set: its history first, once, then live; it goes on behind the last
    candle that its Redis streams hold."""
    from streammachine.market.live.runner import runner_for
    from streammachine.market.model.data_input import DataInput

    spec: RunnerSpec = job.spec
    written: dict[tuple[str, str], int] = {}
    if spec.history_from_ms and await RUNNERS.noted(connection, spec) != HISTORY:
        written = await _write_history(connection, job)
        if job.end.is_set():
            return
        await RUNNERS.note(connection, spec, HISTORY)
    wanted = DataInput(spec.type, spec.symbols, spec.timeframe, spec.aggregate, spec.every)
    had = await last_candles(connection, spec) if "redis" in spec.emit else {}
    had = {place: max(had.get(place, 0), written.get(place, 0)) for place in {**had, **written}}
    runner = runner_for(
        spec.exchange, wanted, market_type=spec.market_type, active_warmup=bool(spec.aggregate), resume=had,
        indicators=spec.indicators,
        remember="redis" not in spec.emit and exports(connection.settings).parent / "runners",
    )  # fmt: skip
    for text in spec.emit:
        runner.register_emitter(emitter_for(text, connection.settings, connection))
    job.facts, job.state, job.problem = lambda: _facts(runner), "running", ""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_close_at_end, job, runner)
        await runner.run()
        tasks.cancel_scope.cancel()


async def _write_history(connection: RedisConnection, job: Job) -> dict[tuple[str, str], int]:
    """Write the history of a runner; where it ends by symbol and timeframe, as far as it came before the job's end."""
    writer = HistoryWriter(connection, job.spec)
    job.facts, job.state, job.problem = writer.facts, HISTORY, ""
    written: dict[tuple[str, str], int] = {}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_at_end, job, tasks.cancel_scope)
        written = await writer.write()
        tasks.cancel_scope.cancel()
    return written


async def run_backfill(connection: RedisConnection, job: Job) -> None:
    """Run a remembered backfill to its end; after a restart it goes on where it was."""
    spec: BackfillSpec = job.spec
    backfill = backfilling(connection, spec, spec.symbol, spec.timeframe, spec.start_ms, spec.end_ms)
    for text in spec.emit:
        backfill.register_emitter(emitter_for(text, connection.settings, connection, past=True))
    job.facts, job.state, job.problem = backfill.stats, "running", ""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_at_end, job, tasks.cancel_scope)
        await backfill.arun()
        tasks.cancel_scope.cancel()


def _facts(runner: Runner) -> dict[str, Any]:
    """What runner_list shows of a runner."""
    stats = runner.stats()
    found: dict[str, Any] = {"state": stats.state, "rows": stats.rows, "rate": round(stats.rate, 2)}
    for name in ("connections", "reconnects", "bad_frames", "healed"):
        found[name] = stats.feed.get(name, 0)
    found.update(gaps=stats.gap_count, last=list(stats.last)[:MOST_LAST], emitters=list(stats.emitters))
    return found


async def last_candles(connection: RedisConnection, spec: RunnerSpec) -> dict[tuple[str, str], int]:
    """The open_ts of the last candle in each of the runner's Redis streams (it writes closed ones only)."""
    from streammachine.redis import streams

    found = {}
    if spec.type == "kline" and spec.timeframe is not None:
        for symbol in spec.symbols:
            for timeframe in (spec.timeframe, *spec.aggregate):
                for entry in await streams.read_newest(connection, f"kline:{spec.exchange}:{symbol}:{timeframe}", 1):
                    found[symbol, timeframe] = int(entry.data["open_ts"])
    return found


async def _close_at_end(job: Job, runner: Any) -> None:
    await job.end.wait()
    await runner.close()


async def _cancel_at_end(job: Job, scope: anyio.CancelScope) -> None:
    await job.end.wait()
    scope.cancel()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# -- the process ------------------------------------------------------------------------------


async def serve(url: str | None, reporter: Reporter) -> None:
    """Run both kinds until SIGTERM."""
    from streammachine.redis.connection import RedisConnection

    async with RedisConnection(url=url) as connection:
        runners = Host(connection, RUNNERS, run_runner)
        backfills = Host(connection, BACKFILLS, run_backfill, once=True)

        def stop() -> None:
            runners.stop()
            backfills.stop()

        async def facts() -> dict[str, Any]:
            jobs = {**runners.jobs, **backfills.jobs}
            problems = [f"{name}: {job.problem}" for name, job in jobs.items() if job.problem]
            return {
                "app": "runners",
                "status": "degraded" if problems else "healthy",
                "problems": problems[:5],
                "agents": len(jobs),
            }

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_at_signal, stop)
            tasks.start_soon(reporter.keep, facts)
            async with anyio.create_task_group() as hosts:
                hosts.start_soon(runners.run)
                hosts.start_soon(backfills.run)
            tasks.cancel_scope.cancel()


def main() -> None:
    """Host until a signal or the supervisor's end."""
    parser = argparse.ArgumentParser(description="Runs the remembered runners and backfills of an MCP server.")
    parser.add_argument("--grace", type=float, default=1.0, help="seconds that sinks get at the end")
    parser.add_argument("--log-level", default="INFO")
    options = parser.parse_args()
    reporter = take_streams(ORPHAN_LIFE + options.grace)
    configure_logging(options.log_level, child=True)
    if options.log_level != "DEBUG":
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs each request
    url = os.environ.pop(CHILD_URL, None)
    try:
        anyio.run(serve, url, reporter, backend_options={"use_uvloop": sys.platform != "win32"})
    except Exception as error:
        log.exception("The host of the runners failed")
        reporter.send("failed", problem=f"{type(_first(error)).__name__}: {_first(error)}"[:MOST_TEXT])
        sys.exit(1)


if __name__ == "__main__":
    main()
