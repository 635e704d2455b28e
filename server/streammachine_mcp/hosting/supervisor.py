"""What the server hosts beside its tools: the user's App (``--app``), and the agents, runners and backfills that a
model has declared.

Each runs in a supervised child process, not in the server's own: a message whose handler ends its process
(``os._exit``, a crash in a C library, the kernel's memory killer) ends every task of that process, and the server's
tools must keep answering (docs/decisions/10-hosting.md). The child's prints go to stderr, it talks to the
server's Redis, and its streams, storage, agents and dead letters are seen by the tools through Redis.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.errors import StreamMachineError

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.processes.supervisor import Supervised

log = logging.getLogger(__name__)

GRACE = 1.0  # seconds that handlers get when the server ends
DECLARED = "declared agents"
MARKET = "runners"
ALERTS = "alerts"
CHECK_EVERY = 2.0  # seconds between two checks for declared agents, and for another Redis
FIRST_CHECK = 2.0  # seconds after the start before the first check: it must not slow the first tools/list


class Hosting:
    """The App, the declared agents and the runners of one server.

    Args:
        app: where the App is, as ``package.module:app`` or ``path/to/script.py:app``.
        declared: host declared agents. market: host runners and backfills. alerts: evaluate alerts.
        log_level: of the child processes.
        opened: gives the open connection, or None, and opens none.
        connect: gives the open connection; waits for it, and raises RedisUnavailableError when there is none.
    """

    def __init__(
        self,
        app: str | None,
        *,
        declared: bool,
        market: bool,
        alerts: bool,
        log_level: str,
        opened: Callable[[], RedisConnection | None],
        connect: Callable[[], Awaitable[RedisConnection]],
    ) -> None:
        self._app = app
        kinds = ((DECLARED, declared), (MARKET, market), (ALERTS, alerts))
        self._wanted = [name for name, wanted in kinds if wanted]
        self._log_level = log_level
        self._opened = opened
        self._connect = connect
        self._hosted: dict[str, Supervised] = {}
        self._urls: dict[str, str | None] = {}
        self._stop = anyio.Event()
        self._wake = anyio.Event()

    def describe(self) -> list[dict[str, Any]]:
        """How each is, for health_check."""
        found = [hosted.describe() for hosted in self._hosted.values()]
        if self._app is not None and self._app not in self._hosted:
            found.insert(0, {"app": self._app, "state": "waiting", "restarts": 0})
        return found

    def check_now(self) -> None:
        """Check now for declared agents, runners and alerts."""
        self._wake.set()

    async def run(self) -> None:
        """Host until ``stop``; returns when everything has ended."""
        self._stop, self._wake = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            if self._app is not None:
                tasks.start_soon(self._host, self._app, ["--app", self._app])
            else:
                with anyio.move_on_after(FIRST_CHECK):
                    await self._wake.wait()
            while not self._stop.is_set():
                try:
                    await self._start_and_stop(tasks)
                except StreamMachineError as error:
                    log.debug("Checking what to host: %s", error)
                except Exception:
                    log.exception("Checking what to host failed")
                with anyio.move_on_after(CHECK_EVERY):
                    await self._wake.wait()
                self._wake = anyio.Event()

    async def stop(self, within: float) -> None:
        """Drain what is hosted, ``within`` seconds; what does not end is killed, and its messages come again."""
        self._stop.set()
        self._wake.set()
        async with anyio.create_task_group() as tasks:
            for hosted in list(self._hosted.values()):
                tasks.start_soon(hosted.stop, within)

    async def _start_and_stop(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start or end the hosts of what is declared as it is there; restart what is connected to another Redis."""
        connection = self._opened()
        if connection is None:
            return
        for name, hosted in list(self._hosted.items()):
            if hosted.pid is not None and self._urls.get(name) != connection.url:
                log.warning("%s was connected to another Redis; it is started again", name)
                await hosted.restart(5 * GRACE)
        for name in self._wanted:
            wanted = await _is_wanted(name, connection)
            host = self._hosted.get(name)
            if wanted and host is None:
                tasks.start_soon(self._host, name, ["--alerts"] if name == ALERTS else [])
            elif not wanted and host is not None:
                await host.stop(within=5 * GRACE)

    async def _host(self, name: str, arguments: list[str]) -> None:
        from streammachine.runtime.processes.supervisor import Supervised

        options = [*arguments, "--grace", str(GRACE), "--log-level", self._log_level]

        async def environment() -> Mapping[str, str]:
            return await self._environment(name)

        ours = name in (DECLARED, MARKET, ALERTS)
        module = "streammachine_mcp.hosting.market_host" if name == MARKET else "streammachine.runtime.children.host"
        self._hosted[name] = hosted = Supervised(name, options, environment, kill_silent=ours, module=module)
        try:
            await hosted.run()
        except Exception:
            log.exception("Hosting %s failed", name)
        finally:
            if ours or self._stop.is_set():
                del self._hosted[name]

    async def _environment(self, name: str) -> dict[str, str]:
        from streammachine.runtime.processes.supervisor import child_environment

        connection = await self._connect()
        self._urls[name] = connection.url
        return child_environment(connection.url)


async def _is_wanted(name: str, connection: RedisConnection) -> bool:
    """Whether there is anything that the host of this name would run."""
    from streammachine.runtime.declared.agents import KEY

    if name == DECLARED:
        return bool(await connection.command("HLEN", KEY, repeatable=True))
    if name == ALERTS:
        from streammachine.runtime.alerts.alert import any_alert

        return await any_alert(connection)
    from streammachine.runtime.admin.remembered import unfinished

    return await unfinished(connection)
