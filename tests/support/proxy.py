"""A TCP proxy in the test's own loop, which stands between a client and a server and breaks the link on demand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path
from typing import Self

CUTS = ("now", "lost reply", "torn reply", "torn request")  # see Proxy.cut


class Proxy:
    """Forwards ``127.0.0.1:port`` to a server's socket.

    Faults, to be set at any time: ``blackhole`` swallows everything both ways; ``latency`` delays every portion by so
    many seconds; ``lose_reply_to(b"XADD")`` lets the next such command reach the server, then swallows the reply and
    cuts the link; ``reset()`` cuts all links with RST; ``half_open()`` lets the links that stand swallow everything for
    good, while new ones work (a router that lost its table); ``refuse()`` stops listening until ``listen()``.
    ``cut(how, which)`` cuts one link: now, in place of its next reply, or in the middle of its next reply or request.
    """

    def __init__(self, target: Path | tuple[str, int]) -> None:
        self.target = target
        self.port = 0
        self.blackhole = False
        self.latency = 0.0
        self.connections = 0
        self.lost_replies = 0
        self.swallowed = 0  # portions
        self.cuts = 0  # of one link each
        self._links: set[_Link] = set()
        self._doomed: bytes | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def lose_reply_to(self, command: bytes) -> None:
        self._doomed = command

    def reset(self) -> None:
        for writer in list(self._writers):
            _abort(writer)

    def cut(self, how: str, which: float) -> None:
        """Cut one of the links that stand; ``which`` (0 to 1) says which one."""
        links = [link for link in self._links if not link.doomed]
        if not links:
            return
        link = links[int(which * len(links))]
        link.doomed = how
        if how == "now":
            link.cut()

    def half_open(self) -> None:
        for link in self._links:
            link.dead = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if isinstance(self.target, Path):
                there = await asyncio.open_unix_connection(str(self.target))
            else:
                there = await asyncio.open_connection(*self.target)
        except OSError:  # the server is down
            _abort(writer)
            return
        link = _Link(self, (reader, writer), there)
        self._writers |= {writer, there[1]}
        self._links.add(link)
        pumps = [asyncio.create_task(link.requests()), asyncio.create_task(link.replies())]
        self._tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        self._tasks.difference_update(pumps)
        self._links.discard(link)
        for each in (writer, there[1]):
            self._writers.discard(each)
            each.close()


class _Link:
    """One client's connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.proxy = proxy
        self.client, self.to_client = here
        self.server, self.to_server = there
        self.losing = False
        self.dead = False
        self.doomed = ""  # how it will be cut

    def cut(self) -> None:
        self.proxy.cuts += 1
        _abort(self.to_client)
        self.to_server.transport.abort()

    @property
    def swallows(self) -> bool:
        if self.dead or self.proxy.blackhole:
            self.proxy.swallowed += 1
            return True
        return False

    async def requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self.client.read(65536):
                await asyncio.sleep(self.proxy.latency)
                if self.proxy._doomed is not None and self.proxy._doomed in data:
                    self.proxy._doomed = None
                    self.losing = True
                if self.doomed == "torn request":
                    self.to_server.write(data[: len(data) // 2])
                    self.cut()
                    return
                if not self.swallows:
                    self.to_server.write(data)
                    await self.to_server.drain()

    async def replies(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self.server.read(65536):
                await asyncio.sleep(self.proxy.latency)
                if self.losing:
                    self.proxy.lost_replies += 1
                    _abort(self.to_client)
                    return
                if self.doomed in ("lost reply", "torn reply"):
                    self.to_client.write(data[: len(data) // 2 if self.doomed == "torn reply" else 0])
                    self.cut()
                    return
                if not self.swallows:
                    self.to_client.write(data)
                    await self.to_client.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, where it is TCP."""
    found = writer.get_extra_info("socket")
    if found is not None and found.family == socket.AF_INET:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
