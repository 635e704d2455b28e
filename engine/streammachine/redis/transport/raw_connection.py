"""RawConnection: sends prepared RESP, and reads replies with the native parser.

coredis needs 22 us to encode one XADD of a pipeline and 6 us to read one entry; the codec needs a small part of that.
So what is hot goes here (batches out, group reads in, commits), and with it what must not be repeated: a raw connection
speaks RESP2 and has no retries; after any failure it is closed.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar, cast

import anyio

from streammachine.errors import (
    RedisAuthError,
    RedisCommandError,
    RedisDiskError,
    RedisFullError,
    RedisPermissionError,
    RedisReadOnlyError,
    RedisTimeoutError,
    RedisUnavailableError,
    StreamMachineError,
    WrongTypeError,
)
from streammachine.redis.transport.codec import NEED_MORE, ProtocolError, ReplyParser, RespError
from streammachine.redis_url import Endpoint

T = TypeVar("T")

RECEIVE_SIZE = 1 << 17  # bytes that the loop reads at a time
CONNECT_TIMEOUT = 2.0  # seconds to open the socket and log in
# Answers of a node that did not run the command, and of which time takes care: a failover, a slot that is being moved.
NOT_READY = ("MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN")
_PASSING = (*NOT_READY, "LOADING", "BUSY", "MISCONF")
_TWO_WORDS = ("XGROUP", "XINFO", "OBJECT", "MEMORY", "ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "SCRIPT")
RIGHTS = "docs/rights.md has the ACL line for each use"


class ReplySink(Protocol):
    """Takes the bytes of one reply as they come, instead of the parser."""

    def feed(self, data: bytes | memoryview) -> bool:
        """More of the reply, to be copied: the memory is used again. True when it is complete."""


class RawConnection:
    """One raw connection. Open it with ``RawConnection.open``; close it with ``aclose``.

    An asyncio protocol feeds the parser as bytes come: a stream of anyio's costs a task switch for each piece, and its
    unix sockets raise in the loop when a cancelled read turns readable in the same turn.
    """

    def __init__(self, link: _Link, name: str) -> None:
        self._link = link
        self._name = name

    @classmethod
    async def open(cls, endpoint: Endpoint, name: str, *, named: bool = True) -> Self:
        """Connect and log in. ``name`` is the masked URL, for errors; ``named`` tells the server who we are.

        Raises:
            RedisUnavailableError: nothing answers there. RedisAuthError: the login is refused.
        """
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                connection = cls(await _connect(endpoint), name)
                try:
                    await connection._log_in(endpoint, named=named)
                except BaseException:
                    connection.close()
                    raise
                return connection
        except TimeoutError:
            raise RedisUnavailableError(
                f"Redis at {name} did not answer within {CONNECT_TIMEOUT:g} s when a connection was opened. "
                "Check the server's load and the network."
            ) from None
        except OSError as error:
            if isinstance(error, RedisUnavailableError):
                raise
            raise RedisUnavailableError(
                f"Redis at {name} cannot be reached ({error.strerror or error}). Start it, or correct REDIS_URL; "
                "without REDIS_ variables an embedded Valkey is used."
            ) from error

    async def receive(
        self, payload: bytes, sink: ReplySink, timeout: float, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Send one command, and give the bytes of its reply to ``sink``. Nothing else may be under way.

        ``meanwhile`` is called once the command is on its way: work for the time that the server needs.

        Raises:
            What ``exchange`` raises.
        """
        await self._answered(self._link.receive(payload, sink, meanwhile), 1, timeout)

    async def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        """Send ``payload`` (whole commands) and give its ``replies`` replies, error replies as ``RespError`` values.

        Exchanges of several tasks may be under way at a time; they are answered in the order of the calls.

        Raises:
            RedisTimeoutError: no whole answer within ``timeout`` seconds. RedisUnavailableError: the connection broke.
            In both cases the connection is closed, and whether the commands ran is not known.
        """
        found = await self._answered(self._link.exchange(payload, replies), replies, timeout)
        if any(type(reply) is RespError and is_replica(reply) for reply in found):
            self._link.retire()
        return found

    async def _answered(self, under_way: Awaitable[T], replies: int, timeout: float) -> T:
        try:
            with anyio.fail_after(timeout):
                return await under_way
        except TimeoutError:
            self._link.abort(_UnansweredError(timeout))
            raise RedisTimeoutError(
                f"Redis at {self._name} did not answer within {timeout:g} s; {_unknown(replies)}"
            ) from None
        except ConnectionAbortedError as error:
            raise RedisUnavailableError(
                f"The connection to {self._name} was closed meanwhile. Open it again."
            ) from error
        except _UnansweredError as error:  # another exchange's time was up first
            raise RedisUnavailableError(f"Redis at {self._name} {error}; {_unknown(replies)}") from error
        except OSError as error:
            self.close()
            raise RedisUnavailableError(
                f"The connection to Redis at {self._name} broke before the reply came; {_unknown(replies)}"
            ) from error

    @property
    def broken(self) -> bool:
        """Whether the connection is closed, here or by the server, or leads to what is no primary any more."""
        return self._link.lost is not None or self._link.retired

    @property
    def stale(self) -> bool:
        """Whether the connection is of no use: broken, or idle with bytes (its end, as a rule) nobody asked for."""
        if self.broken:
            return True
        if self._link.waiting:
            return False
        descriptor = self._link.transport.get_extra_info("socket").fileno()
        return descriptor < 0 or _readable(descriptor)

    def close(self) -> None:
        """Close the socket at once; who still waits learns that the connection broke. Safe to call twice."""
        self._link.abort(ConnectionResetError("the connection was given up"))

    async def aclose(self) -> None:
        """Close the socket, and wait until the loop has let go of it; who still waits learns that it was closed."""
        self._link.abort(ConnectionAbortedError("the connection was closed"))
        with anyio.CancelScope(shield=True):
            await self._link.closed.wait()

    @property
    def retired(self) -> bool:
        """Whether the server said that it is a replica. What is under way ends; then it closes by itself."""
        return self._link.retired

    async def _log_in(self, endpoint: Endpoint, *, named: bool) -> None:
        commands: list[list[Any]] = []
        if endpoint.password is not None:
            user = [endpoint.username] if endpoint.username else []
            commands.append(["AUTH", *user, endpoint.password])
        if endpoint.db:
            commands.append(["SELECT", endpoint.db])
        if named:
            commands.append(["CLIENT", "SETNAME", "streammachine"])
        if not commands:
            return
        payload = b"".join(encode_command(command) for command in commands)
        for command, reply in zip(commands, await self.exchange(payload, len(commands), CONNECT_TIMEOUT), strict=True):
            if not isinstance(reply, RespError):
                continue
            if reply.code in ("WRONGPASS", "NOAUTH") or (command[0] == "AUTH" and reply.code not in _PASSING):
                raise RedisAuthError(
                    f"Redis at {self._name} refuses the login: {reply.message}. Put user and password into REDIS_URL."
                )
            if command[0] == "CLIENT":
                continue  # the name is for people who look at the server; a right to it is not needed
            if reply.code in _PASSING:
                raise RedisUnavailableError(f"Redis at {self._name} refuses {command[0]}: {reply.message}.")
            raise RedisAuthError(f"Redis at {self._name} refuses database {endpoint.db}: {reply.message}.")


class _UnansweredError(ConnectionResetError):
    """A connection was given up because an exchange had no whole answer within so many seconds."""

    def __init__(self, timeout: float) -> None:
        super().__init__(f"did not answer within {timeout:g} s")


class _Link(asyncio.BufferedProtocol):
    """The socket's side of a raw connection: bytes go to the parser as they come, replies to who waits, in order.

    It lends the loop its own memory: a stream protocol gets a new object of 256 KiB for each piece that comes.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.lost: OSError | None = None
        self.retired = False
        self.closed = anyio.Event()
        self.waiting: deque[_Waiting] = deque()
        self._parser = ReplyParser()
        self._memory = memoryview(bytearray(RECEIVE_SIZE))

    async def exchange(self, payload: bytes, replies: int) -> list[Any]:
        """Send, and give the replies. Who is cancelled leaves its place; the replies are dropped when they come."""
        if self.lost is not None:
            raise self.lost
        mine = _Waiting(replies, asyncio.get_running_loop().create_future())
        self.waiting.append(mine)
        self.transport.write(payload)
        await mine.done
        return mine.found

    async def receive(self, payload: bytes, sink: ReplySink, meanwhile: Callable[[], None] | None) -> None:
        """Send, and give the reply's bytes to ``sink``. Who leaves in the middle takes the connection along."""
        if self.lost is not None:
            raise self.lost
        mine = _Waiting(1, asyncio.get_running_loop().create_future(), sink=sink)
        self.waiting.append(mine)
        self.transport.write(payload)
        try:
            if meanwhile is not None:
                await asyncio.sleep(0)  # uvloop sends at the end of a turn
                meanwhile()
            await mine.done
        finally:
            if not mine.done.done() or mine.done.cancelled():
                self.abort(ConnectionResetError("a reply was given up in the middle"))

    def abort(self, reason: OSError) -> None:
        """Close without sending what is still buffered."""
        if self.lost is None:
            self.lost = reason
        self.transport.abort()

    def retire(self) -> None:
        """Take nothing new; close when what is under way has its replies."""
        self.retired = True
        if not self.waiting:
            self.abort(ConnectionResetError("the server is a replica"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop's call: the socket is open."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own has the methods, not the base class

    def get_buffer(self, sizehint: int) -> memoryview:
        """The loop's call: where to write what comes."""
        return self._memory

    def buffer_updated(self, nbytes: int) -> None:
        """The loop's call: so many bytes have come."""
        data = self._memory[:nbytes]
        try:
            if self.waiting and (sink := self.waiting[0].sink) is not None:
                if sink.feed(data):
                    done = self.waiting.popleft().done
                    if not done.done():
                        done.set_result(None)
                return
            self._parser.feed(bytes(data))
            while self.waiting:
                first = self.waiting[0]
                while len(first.found) < first.wanted:
                    reply = self._parser.get()
                    if reply is NEED_MORE:
                        return
                    first.found.append(reply)
                self.waiting.popleft()
                if not first.done.done():
                    first.done.set_result(None)
            if self.retired:
                self.retire()
        except ProtocolError as error:
            self.abort(ConnectionResetError(f"what came is no answer of a Redis server: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        """The loop's call: the socket is closed."""
        if self.lost is None:
            self.lost = error if isinstance(error, OSError) else ConnectionResetError("the server closed it")
        while self.waiting:
            waiting = self.waiting.popleft().done
            if not waiting.done():
                waiting.set_exception(self.lost)
        self.closed.set()


@dataclass(slots=True)
class _Waiting:
    """One exchange under way."""

    wanted: int
    done: asyncio.Future[None]
    found: list[Any] = field(default_factory=list)
    sink: ReplySink | None = None


def encode_command(arguments: Iterable[bytes | str | int]) -> bytes:
    """One command in RESP."""
    every = list(arguments)
    return b"*%d\r\n%b" % (len(every), encode_arguments(every))


def encode_arguments(arguments: Iterable[bytes | str | int]) -> bytes:
    """Arguments of a command in RESP, to stand behind ``*<number of all its arguments>``."""
    parts = []
    for argument in arguments:
        raw = _bytes(argument)
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


def is_replica(reply: RespError) -> bool:
    """Whether the server says that it is a replica, or has just become one; the command did not run."""
    return reply.code == "READONLY" or (reply.code == "UNBLOCKED" and not group_is_gone(reply))


def group_is_gone(reply: RespError) -> bool:
    """Whether a group read says that the group, or its stream, is no more.

    UNBLOCKED alone does not: a blocked read gets it when its server becomes a replica.
    """
    text = reply.message.lower()
    return (
        reply.code == "NOGROUP" or "no such key" in text or (reply.code == "UNBLOCKED" and "no longer exists" in text)
    )


def refused(reply: RespError, url: str, command: Sequence[object] = ()) -> StreamMachineError:
    """The error behind an error reply of a raw command.

    Args:
        url: the server's, masked. command: the command, as far as the key; an error about rights names both.
    """
    text = reply.message
    if reply.code == "WRONGTYPE":
        return WrongTypeError("The key holds another type of value than this command works on.")
    if reply.code == "OOM":
        return RedisFullError(
            f"Redis at {url} is at its memory limit and refuses writes. Trim or delete streams, or raise its maxmemory."
        )
    if reply.code == "MISCONF":
        return RedisDiskError(disk_text(url, text))
    if reply.code == "NOPERM" or "ACL failure in script" in text:
        return RedisPermissionError(rights_text(url, text, _named(command)))
    if reply.code in ("NOAUTH", "WRONGPASS"):
        return RedisAuthError(f"Redis at {url} refuses the command: {text}. Correct REDIS_URL.")
    if reply.code == "LOADING":
        return RedisUnavailableError(f"Redis at {url} is still loading its data; try again.")
    if is_replica(reply):
        return RedisReadOnlyError(read_only_text(url, text))
    if reply.code in NOT_READY:
        return RedisUnavailableError(f"Redis at {url} is not ready: {text}. Try again.")
    return RedisCommandError(f"Redis at {url} refused the command: {text}")


def rights_text(url: str, said: str, command: str = "a command") -> str:
    """What to tell of a command that the server's ACL refused."""
    return f"Redis at {url} does not allow this user {command} ({said}). Give the user that right; {RIGHTS}."


def read_only_text(url: str, said: str) -> str:
    """What to tell of a server that became a replica."""
    return (
        f"Redis at {url} is read-only: it is a replica, after a failover as a rule ({said}). Nothing was written. "
        "Each new try connects anew; if it stays so, let REDIS_URL lead to the primary."
    )


def disk_text(url: str, said: str) -> str:
    """What to tell of a server whose disk takes nothing."""
    return (
        f"Redis at {url} cannot write its data to its disk and refuses writes ({said}). Nothing was written. "
        "Free space on that disk, or see the server's log for what is wrong with it."
    )


def _named(command: Sequence[object]) -> str:
    """A command and its key, for an error about rights: ``XADD on the key 'orders'``."""
    if not command:
        return "a command"
    words = [part.decode("utf-8", "backslashreplace") if isinstance(part, bytes) else str(part) for part in command]
    name = words[0].upper()
    if name in ("EVAL", "EVALSHA") and len(words) > 2:
        keys = words[3 : 3 + int(words[2])]
        return f"a script on the keys {', '.join(map(repr, keys))}" if keys else "a script"
    if name in ("XREADGROUP", "XREAD") and "STREAMS" in words:
        keys = words[words.index("STREAMS") + 1 :][:1]
    elif name in _TWO_WORDS:
        name, keys = " ".join(words[:2]).upper(), words[2:3] if name in ("XGROUP", "XINFO", "OBJECT", "MEMORY") else []
    else:
        keys = words[1:2]
    return f"{name} on the key {keys[0]!r}" if keys and name not in ("SCAN", "INFO") else name


def _readable(descriptor: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()  # select() ends at descriptor 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _unknown(replies: int) -> str:
    commands = "command" if replies == 1 else "commands"
    return f"whether the {commands} ran is not known. Look before you repeat a write."


def _bytes(argument: object) -> bytes:
    if isinstance(argument, bytes):
        return argument
    try:
        if isinstance(argument, str):
            return argument.encode()
        if type(argument) is int:
            return b"%d" % argument
    except UnicodeEncodeError:
        pass  # a lone surrogate
    raise RedisCommandError(
        f"A command's argument of type {type(argument).__name__} cannot be sent as it is. Nothing was sent. "
        "Give bytes, text or a whole number."
    )


async def _connect(endpoint: Endpoint) -> _Link:
    loop = asyncio.get_running_loop()
    if endpoint.path is not None:
        _, link = await loop.create_unix_connection(_Link, endpoint.path)
        return link
    context = endpoint.ssl_context()
    hostname = endpoint.host if context is not None else None
    _, link = await loop.create_connection(_Link, endpoint.host, endpoint.port, ssl=context, server_hostname=hostname)
    link.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return link
