"""A test kit: run agents against a private bundled Valkey."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread

from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.runtime.app.app import App
from streammachine.runtime.delivery.gauges import group_gauges
from streammachine.runtime.delivery.keys import Companions, dead_letters


async def wait_until(
    condition: Callable[[], bool | Awaitable[bool]], timeout: float = 10.0, *, every: float = 0.01, what: str = ""
) -> None:
    """Wait until a condition holds.

    Args:
        condition: a function without arguments, async or sync.
        timeout: seconds, at most.
        every: seconds between two calls of it.
        what: what is waited for, for the error.

    Raises:
        TimeoutError: it did not hold in time; names ``what`` was waited for.

    Example:
        >>> await wait_until(lambda: len(seen) == 3, what="three orders are seen")
    """
    with anyio.move_on_after(timeout):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return
            await anyio.sleep(every)
    raise TimeoutError(f"After {timeout:g} s still not: {what or getattr(condition, '__name__', 'the condition')}.")


class TestApp:
    """An App running against a Valkey of its own, in a temporary folder; both end with the block.

    Args:
        app: the app to run; its connection is pointed at the private server before it starts.

    Example:
        >>> async with TestApp(app) as test:
        ...     await test.send("orders", {"id": "1"})
        ...     await test.wait_until_idle()
        ...     assert [m["id"] for m in await test.messages("results")] == ["1"]
    """

    __test__ = False  # not a test class, whatever its name

    def __init__(self, app: App) -> None:
        self.app = app
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._server: EmbeddedServer | None = None

    @property
    def url(self) -> str:
        """The private server's URL."""
        assert self._server is not None
        return self._server.url

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="sm-test-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        self._server = await anyio.to_thread.run_sync(lambda: EmbeddedServer.acquire(folder, fsync="everysec"))
        try:
            self.app._use_connection(RedisConnection(url=self._server.url, settings=self.app._settings))
            await self.app.__aenter__()
        except BaseException:
            await self._close_server()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.app.__aexit__(kind, error, trace)
        finally:
            await self._close_server()

    async def send(self, stream: str, record: Mapping[str, Any]) -> str:
        """Append a record to a stream as the app would.

        Returns:
            The entry's id ("ms-seq").

        Raises:
            FieldError: a value cannot be sent.
        """
        identifier = await self.app.send(stream, record)
        assert identifier is not None
        return identifier

    async def messages(self, stream: str) -> list[dict[str, str]]:
        """The fields of every entry of a stream, oldest first, without StreamMachine's own."""
        entries = await streams.read_from(self.app.redis, stream)
        return [{k: v for k, v in entry.data.items() if not k.startswith("sm-")} for entry in entries]

    async def dead_letters(self, stream: str) -> list[dict[str, str]]:
        """The dead letters of a stream with all their fields."""
        return [entry.data for entry in await streams.read_from(self.app.redis, dead_letters(stream))]

    async def wait_until_idle(self, timeout: float = 10.0) -> None:
        """Wait until every agent has finished all messages of its streams, later attempts included.

        Args:
            timeout: seconds, at most.

        Raises:
            TimeoutError: there was still something to do.
        """

        async def idle() -> bool:
            for agent in self.app.agents:
                for topic in agent.config.topics:
                    if not await self._is_idle(topic, agent.config.group):
                        return False
            return True

        await wait_until(idle, timeout, what="all agents are idle")

    async def _is_idle(self, topic: str, group: str) -> bool:
        keys = Companions(topic, group)
        gauges = await group_gauges(self.app.redis, topic, group)
        if not gauges or gauges["pending"] or gauges["lag"]:
            return False
        later = await self.app.redis.command("ZCARD", keys.delayed, repeatable=True)
        return not later and not await self.app.redis.command("XLEN", keys.retry, repeatable=True)

    async def _close_server(self) -> None:
        if self._server is not None:
            await anyio.to_thread.run_sync(self._server.release)
        if self._folder is not None:
            self._folder.cleanup()
