"""The stdio transport: the protocol alone on the wire, and a clean end.

``Wire.take()`` moves file descriptors 0 and 1 to private ones before anything else runs, and points 0 at
nothing and 1 at stderr: a print in a hook, a library's banner or a child process cannot reach the client (DESIGN
decision 9). ``serve`` ends on end of input, or when ``stop`` is set, in the same way: no new request is taken, those
under way get ``DRAIN`` seconds to finish and be answered, then the server's lifespan ends (decision 10).
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from fastmcp import FastMCP

log = logging.getLogger(__name__)

DRAIN = 2.0  # seconds for requests under way when the end has come
CHUNK = 1 << 16
PIPE_BUF = getattr(select, "PIPE_BUF", 0)  # what a writable pipe takes whole; 0 on Windows: always in a thread
MAX_LINE = 64 << 20  # bytes; a longer line is no message but a mistake, and must not fill the memory


@dataclass(frozen=True)
class Wire:
    """The private descriptors of the protocol."""

    read_fd: int
    write_fd: int

    @classmethod
    def take(cls) -> Wire:
        """Take stdin and stdout for the protocol alone. Call it before importing anything that may print."""
        sys.stdout.flush()
        wire = cls(_private(0), _private(1))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        return wire

    @property
    def watchable(self) -> bool:
        """Whether the event loop can watch the input; a regular file is read in a thread (epoll refuses it), and so
        is everything on Windows."""
        if sys.platform == "win32":
            return False
        mode = os.fstat(self.read_fd).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(self.read_fd))


async def serve(server: FastMCP[Any], wire: Wire, stop: anyio.Event) -> None:
    """Serve one client over the wire until its input ends or ``stop`` is set."""
    from fastmcp.server.context import reset_transport, set_transport
    from mcp.shared.message import SessionMessage

    token = set_transport("stdio")
    under_way = _UnderWay()
    # Room for one message each way, as in the SDK's own transport: back-pressure reaches the client.
    to_server, server_reads = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    server_writes, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    low_level = server._mcp_server
    try:
        async with server._lifespan_manager(), anyio.create_task_group() as tasks:
            tasks.start_soon(_write_messages, wire, from_server, under_way)
            tasks.start_soon(_read_messages, wire, to_server, stop, under_way, server_writes.clone())
            await low_level.run(server_reads, server_writes, low_level.create_initialization_options())
            tasks.cancel_scope.cancel()
    finally:
        reset_transport(token)


class _UnderWay:
    """Counts requests that were read and not answered yet."""

    def __init__(self) -> None:
        self._ids: set[str | int] = set()
        self._idle = anyio.Event()
        self._idle.set()

    def began(self, identifier: str | int) -> None:
        if not self._ids:
            self._idle = anyio.Event()
        self._ids.add(identifier)

    def ended(self, identifier: str | int | None) -> None:
        if identifier is not None:
            self._ids.discard(identifier)
        if not self._ids:
            self._idle.set()

    async def drained(self) -> bool:
        """Wait until every request was answered, ``DRAIN`` seconds at most."""
        with anyio.move_on_after(DRAIN) as scope:
            await self._idle.wait()
        return not scope.cancelled_caught


async def _read_messages(wire: Wire, to_server: Any, stop: anyio.Event, under_way: _UnderWay, reply: Any) -> None:
    from mcp.shared.message import SessionMessage
    from mcp_types import JSONRPCNotification, JSONRPCRequest, jsonrpc_message_adapter

    async with to_server, reply:
        async with anyio.create_task_group() as tasks:

            async def until_stopped() -> None:
                await stop.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_stopped)
            async for line in _lines(wire):
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError as error:
                    log.warning("A line from the client is no JSON-RPC message: %s", str(error).splitlines()[0])
                    await _refuse(line, reply)
                    continue
                if isinstance(message, JSONRPCRequest):
                    under_way.began(message.id)
                elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
                    under_way.ended((message.params or {}).get("requestId"))
                await to_server.send(SessionMessage(message))
            tasks.cancel_scope.cancel()
        if not await under_way.drained():
            log.warning("Requests still under way after %g s are cancelled", DRAIN)


async def _refuse(line: bytes, reply: Any) -> None:
    """Answer what is no valid message, where it shows an id to answer to (JSON-RPC 2.0, section 5.1)."""
    from mcp.shared.message import SessionMessage
    from mcp_types import ErrorData, JSONRPCError

    try:
        identifier = json.loads(line).get("id")
    except (ValueError, AttributeError, RecursionError):
        return
    if isinstance(identifier, (str, int)) and not isinstance(identifier, bool):
        error = ErrorData(code=-32600, message="This is no valid JSON-RPC 2.0 message.")
        await reply.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=identifier, error=error)))


async def _write_messages(wire: Wire, from_server: Any, under_way: _UnderWay) -> None:
    from mcp_types import JSONRPCError, JSONRPCResponse

    async with from_server:
        async for session_message in from_server:
            message = session_message.message
            data = message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
            try:
                await _write_all(wire.write_fd, data)
            except OSError as error:
                log.warning("The client is gone: %s", error)
                return
            if isinstance(message, (JSONRPCResponse, JSONRPCError)):
                under_way.ended(message.id)


async def _write_all(descriptor: int, data: bytes) -> None:
    """Write; in a thread where the write might block. The descriptor stays in the mode it came in."""
    if len(data) <= PIPE_BUF and _writable(descriptor):
        os.write(descriptor, data)
    else:
        await anyio.to_thread.run_sync(_write_blocking, descriptor, data)


def _writable(descriptor: int) -> bool:
    """Whether ``PIPE_BUF`` bytes can be written now without blocking (what POSIX poll means for a pipe)."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


def _write_blocking(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


async def _lines(wire: Wire) -> AsyncIterator[bytes]:
    """The lines that come in."""
    buffer = bytearray()
    searched = 0
    async for chunk in _chunks(wire):
        buffer += chunk
        while (end := buffer.find(b"\n", searched)) >= 0:
            line = bytes(buffer[:end]).strip()
            del buffer[: end + 1]
            searched = 0
            if line:
                yield line
        searched = len(buffer)
        if searched > MAX_LINE:
            log.error("A line of more than %d bytes came in; it is no message and was dropped", MAX_LINE)
            buffer.clear()
            searched = 0
    if buffer.strip():
        yield bytes(buffer).strip()


async def _chunks(wire: Wire) -> AsyncIterator[bytes]:
    watchable = wire.watchable
    while True:
        if watchable:
            await anyio.wait_readable(wire.read_fd)
            chunk = os.read(wire.read_fd, CHUNK)
        else:
            chunk = await anyio.to_thread.run_sync(os.read, wire.read_fd, CHUNK, abandon_on_cancel=True)
        if not chunk:
            return
        yield chunk


def _private(descriptor: int) -> int:
    """A duplicate outside the standard range that no child inherits."""
    if sys.platform == "win32":
        return os.dup(descriptor)
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
