"""The stdio transport: the protocol alone on the wire, and a clean end.

``Wire.take()`` moves file descriptors 0 and 1 to private ones before anything else runs, and points 0 at
nothing and 1 at stderr: a print in a hook, a library's banner or a child process cannot reach the client
(docs/decisions/09-standard-output.md). ``serve`` ends on end of input, or when ``stop`` is set, in the same way: no new
request is taken, those under way get ``DRAIN`` seconds to finish and be answered, then the server's lifespan ends
(docs/decisions/10-hosting.md).
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from streammachine_mcp.messages import PARSE_ERROR, Refusal, messages_in, one_line

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from mcp_types import JSONRPCMessage

log = logging.getLogger(__name__)

DRAIN = 2.0  # seconds for requests under way when the end has come
LAST_WRITE = 1.0  # seconds after that for what the client has not taken from the pipe yet
MOST_UNDER_WAY = 1000  # requests; further ones wait in the pipe (back-pressure), so a flood does not fill the memory
CHUNK = 1 << 16
PIPE_BUF = getattr(select, "PIPE_BUF", 0)  # what a writable pipe takes whole; 0 on Windows: always in a thread
LONGEST_PING = 1000  # bytes; one with all that protocol 2026-07-28 puts into a request has some 300
MAX_LINE = 64 << 20  # bytes; a longer line is refused: it must not fill the memory


@dataclass(frozen=True)
class Wire:
    """The private descriptors of the protocol."""

    read_fd: int
    write_fd: int

    @classmethod
    def take(cls) -> Wire:
        """Take stdin and stdout for the protocol alone. Call it before importing anything that may print."""
        wire = cls(_private(0), _private(1))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        sys.stdout.flush()  # what was printed before this (by sitecustomize, say) is not for the client either
        return wire

    @property
    def watchable(self) -> bool:
        """Whether the event loop can watch the input; a regular file is read in a thread (epoll refuses it), and so
        is everything on Windows."""
        if sys.platform == "win32":
            return False
        mode = os.fstat(self.read_fd).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(self.read_fd))


async def serve(
    server: FastMCP[Any],
    wire: Wire,
    stop: anyio.Event,
    ending: Callable[[], None],
    draining: Sequence[Callable[[], None]] = (),
) -> None:
    """Serve one client over the wire until its input ends or ``stop`` is set.

    Args:
        ending: called once the requests under way have had their time. draining: called before that.
    """
    from fastmcp.server.context import reset_transport, set_transport
    from mcp.shared.message import SessionMessage

    token = set_transport("stdio")
    under_way = _UnderWay()
    # No room in between, as in the SDK's own transport: back-pressure reaches the client.
    to_server, server_reads = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    server_writes, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    low_level = server._mcp_server
    try:
        async with server._lifespan_manager(), anyio.create_task_group() as tasks:
            tasks.start_soon(_write_messages, wire, from_server, stop, under_way)
            tasks.start_soon(_read_messages, wire, to_server, stop, under_way, server_writes.clone(), draining)
            await low_level.run(server_reads, server_writes, low_level.create_initialization_options())
            ending()
            # The writer ends by itself once the client has taken all; one that reads no more is not waited for.
            server_writes.close()
            tasks.cancel_scope.deadline = anyio.current_time() + LAST_WRITE
    finally:
        reset_transport(token)


class _UnderWay:
    """The requests that were read and not answered yet, by id."""

    def __init__(self) -> None:
        self._ids: Counter[str | int | Refusal] = Counter()  # a careless client may use one id twice
        self._changed = anyio.Event()

    async def room(self) -> None:
        """Wait until one more request may be read."""
        await self._wait(lambda: self._ids.total() < MOST_UNDER_WAY)

    def began(self, identifier: str | int | Refusal) -> None:
        self._ids[identifier] += 1

    def ended(self, identifier: object) -> None:
        if isinstance(identifier, (str, int, Refusal)) and identifier in self._ids:
            self._ids[identifier] -= 1
            self._ids += Counter()  # drops what is down to zero
            self._notify()

    def abandon(self) -> None:
        """There is nobody left to answer."""
        self._ids.clear()
        self._notify()

    async def drained(self) -> bool:
        """Wait until every request was answered, ``DRAIN`` seconds at most."""
        with anyio.move_on_after(DRAIN) as scope:
            await self._wait(lambda: not self._ids)
        return not scope.cancelled_caught

    async def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


async def _read_messages(
    wire: Wire,
    to_server: Any,
    stop: anyio.Event,
    under_way: _UnderWay,
    reply: Any,
    draining: Sequence[Callable[[], None]],
) -> None:
    async with to_server, reply:
        async with anyio.create_task_group() as tasks:

            async def until_stopped() -> None:
                await stop.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_stopped)
            async for line in _lines(wire):
                await _take_line(line, to_server, under_way, reply)
                await under_way.room()
            tasks.cancel_scope.cancel()
        for each in draining:
            each()
        if not await under_way.drained():
            log.warning("Requests still under way after %g s are cancelled", DRAIN)


async def _take_line(line: bytes | Refusal, to_server: Any, under_way: _UnderWay, reply: Any) -> None:
    """Hand on the messages of a line; what is none is refused."""
    for message in messages_in(line) if isinstance(line, bytes) else [line]:
        if isinstance(message, Refusal):
            log.warning("A message from the client is refused: %s", message.text)
            under_way.began(message)
            await reply.send(message)
        else:
            await _take_message(message, to_server, under_way)


async def _take_message(message: JSONRPCMessage, to_server: Any, under_way: _UnderWay) -> None:
    from mcp.shared.message import SessionMessage
    from mcp_types import JSONRPCNotification, JSONRPCRequest

    if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
        under_way.ended((message.params or {}).get("requestId"))
    if not isinstance(message, JSONRPCRequest):
        await to_server.send(SessionMessage(message))
        return
    under_way.began(message.id)
    try:
        await to_server.send(SessionMessage(message))
    except BaseException:  # stopped before the server took it
        under_way.ended(message.id)
        raise


async def _write_messages(wire: Wire, from_server: Any, stop: anyio.Event, under_way: _UnderWay) -> None:
    from mcp_types import JSONRPCError, JSONRPCResponse

    async with from_server:
        async for session_message in from_server:
            refused = isinstance(session_message, Refusal)
            message = session_message if refused else session_message.message
            try:
                await _write_all(wire.write_fd, (message.encoded() if refused else _encoded(message)) + b"\n")
            except OSError as error:
                log.warning("The client is gone: %s", error)
                under_way.abandon()
                stop.set()
                return
            if refused:
                under_way.ended(message)
            elif isinstance(message, (JSONRPCResponse, JSONRPCError)):
                under_way.ended(message.id)


def _encoded(message: Any) -> bytes:
    """The message as one line of JSON."""
    try:
        data: bytes = message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except ValueError:
        # A lone surrogate, from a Redis key that is not UTF-8 or from the request's own id: valid JSON has none.
        text = json.dumps(message.model_dump(by_alias=True, exclude_unset=True), ensure_ascii=False, default=str)
        data = text.encode("utf-8", "replace")
    return one_line(data)


async def _write_all(descriptor: int, data: bytes) -> None:
    """Write without ever blocking the loop, or a thread that nothing could end. The descriptor's mode is not
    touched: it may be shared with the client's own end."""
    if not PIPE_BUF:
        await anyio.to_thread.run_sync(_write_blocking, descriptor, data)
        return
    view = memoryview(data)
    while view:
        if not _writable(descriptor):
            await anyio.wait_writable(descriptor)
        try:
            view = view[os.write(descriptor, view[:PIPE_BUF]) :]
        except BlockingIOError:  # somebody made it non-blocking, and poll spoke of less room than we have bytes
            await anyio.sleep(0.001)


def _writable(descriptor: int) -> bool:
    """Whether ``PIPE_BUF`` bytes can be written now without blocking (what POSIX poll means for a pipe)."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


def _write_blocking(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


async def _lines(wire: Wire) -> AsyncIterator[bytes | Refusal]:
    """The lines that come in, in their order, but pings before all that waits: a client asks with them whether the
    server lives, and hundreds of calls sent before one would keep its answer back."""
    cutter = _Cutter()
    waiting: deque[bytes | Refusal] = deque()
    async for chunk in _chunks(wire):
        _queue(waiting, cutter.cut(chunk))
        while waiting:
            yield waiting.popleft()
            if 0 < len(waiting) < MOST_UNDER_WAY and wire.watchable:
                _queue(waiting, cutter.cut(_at_hand(wire.read_fd)))
    if last := cutter.rest():
        yield last


class _Cutter:
    """Chunks to lines. A line that is too long is refused as a whole, and not kept while it comes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._too_long = False

    def cut(self, chunk: bytes) -> Iterator[bytes | Refusal]:
        """The lines that are whole now, stripped; none of them is empty."""
        buffer = self._buffer
        buffer += chunk
        while (end := buffer.find(b"\n", self._searched)) >= 0:
            line = bytes(buffer[:end]).strip()
            del buffer[: end + 1]
            self._searched = 0
            if line and not self._too_long:
                yield line
            self._too_long = False
        self._searched = len(buffer)
        if self._searched > MAX_LINE or self._too_long:
            if not self._too_long:
                yield Refusal(PARSE_ERROR, f"A line of more than {MAX_LINE} bytes came in; it is no message.")
            self._too_long = True
            buffer.clear()
            self._searched = 0

    def rest(self) -> bytes:
        """What came after the last line's end."""
        return b"" if self._too_long else bytes(self._buffer).strip()


def _queue(waiting: deque[bytes | Refusal], lines: Iterable[bytes | Refusal]) -> None:
    for line in lines:
        if _is_ping(line):
            waiting.appendleft(line)
        else:
            waiting.append(line)


def _is_ping(line: bytes | Refusal) -> bool:
    if not isinstance(line, bytes) or len(line) > LONGEST_PING or b'"ping"' not in line:
        return False
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return isinstance(message, dict) and message.get("method") == "ping"


def _at_hand(descriptor: int) -> bytes:
    """What can be read now without waiting; nothing at the end and where reading fails, which ``_chunks`` finds too."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        return os.read(descriptor, CHUNK) if any(event & select.POLLIN for _, event in poll.poll(0)) else b""
    except OSError:
        return b""


async def _chunks(wire: Wire) -> AsyncIterator[bytes]:
    watchable = wire.watchable
    while True:
        try:
            if watchable:
                await anyio.wait_readable(wire.read_fd)
                chunk = os.read(wire.read_fd, CHUNK)
            else:
                chunk = await anyio.to_thread.run_sync(os.read, wire.read_fd, CHUNK, abandon_on_cancel=True)
        except BlockingIOError:
            continue
        except OSError as error:  # a socket whose other end was killed with answers of ours unread; a terminal hung up
            log.warning("The client is gone: %s", error)
            return
        if not chunk:
            return
        yield chunk


def _private(descriptor: int) -> int:
    """A duplicate outside the standard range that no child inherits."""
    if sys.platform == "win32":
        return os.dup(descriptor)
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
