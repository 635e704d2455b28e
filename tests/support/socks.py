"""A SOCKS5 proxy (RFC 1928 and 1929) in the test's own loop.

Whatever host it is asked for, it connects to this machine.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Self


class Socks:
    """``async with Socks() as socks``; with a login it demands that.

    Attributes:
        asked: the hosts and ports that it was asked for.
    """

    def __init__(self, login: tuple[str, str] | None = None) -> None:
        self.login = login
        self.port = 0
        self.asked: list[tuple[str, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        login = f"{self.login[0]}:{self.login[1]}@" if self.login else ""
        return f"{login}127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not await self._greeted(reader, writer):
                return
            host, port = await self._target(reader)
            self.asked.append((host, port))
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bytes([5, 0, 0, 1, 127, 0, 0, 1]) + struct.pack(">H", port))
            try:
                await asyncio.wait(
                    {asyncio.create_task(_pump(reader, there_writer)), asyncio.create_task(_pump(there_reader, writer))}
                )
            finally:
                there_writer.close()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        method = 2 if self.login else 0
        if method not in methods:
            writer.write(bytes([5, 255]))
            return False
        writer.write(bytes([5, method]))
        if self.login is None:
            return True
        _, size = await reader.readexactly(2)
        user = await reader.readexactly(size)
        (size,) = await reader.readexactly(1)
        password = await reader.readexactly(size)
        right = (user.decode(), password.decode()) == self.login
        writer.write(bytes([1, 0 if right else 1]))
        return right

    async def _target(self, reader: asyncio.StreamReader) -> tuple[str, int]:
        _, _, _, kind = await reader.readexactly(4)
        if kind == 3:
            (size,) = await reader.readexactly(1)
            host = (await reader.readexactly(size)).decode()
        else:
            host = ".".join(map(str, await reader.readexactly(4)))
        (port,) = struct.unpack(">H", await reader.readexactly(2))
        return host, port


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        pass
