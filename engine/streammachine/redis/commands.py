"""RedisCommands: what streams, readers, scripts and storages may ask of a connection.

``RedisConnection`` is one. Whoever takes this protocol instead of the class stands below it, and a test can stand in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Protocol

from streammachine.errors import StreamMachineError
from streammachine.redis.transport.raw_connection import RawConnection
from streammachine.settings import Settings

if TYPE_CHECKING:
    from coredis.response.types import StreamEntry


class RedisCommands(Protocol):
    """A connection to one server or Cluster, as its callers see it. Errors are this package's own."""

    @property
    def settings(self) -> Settings:
        """The settings that the connection was made with."""

    @property
    def timeout(self) -> float:
        """Seconds that one command may take."""

    @property
    def name(self) -> str:
        """The server's masked URL, for messages."""

    @property
    def is_cluster(self) -> bool:
        """Whether what one script touches must stand in one slot."""

    async def command(
        self, *arguments: bytes | str | int, repeatable: bool = False, timeout: float | None = None
    ) -> Any:
        """Run one command; strings in its reply are bytes. ``repeatable``: it may be sent again."""

    async def exchange(
        self,
        payload: bytes,
        replies: int,
        *,
        repeatable: bool = False,
        timeout: float | None = None,
        key: str | bytes | None = None,
    ) -> list[Any]:
        """Send prepared commands; give their replies, error replies as ``RespError`` values."""

    async def scan(self, pattern: str, kind: str | None = None, *, timeout: float = 60.0) -> set[bytes]:
        """The keys that match a glob pattern, of one type where ``kind`` names it."""

    async def open_connection(self, key: str | bytes | None = None) -> RawConnection:
        """A raw connection of the caller's own, to the node of ``key``; the caller closes it."""

    async def explain(self, error: StreamMachineError) -> StreamMachineError:
        """The error, or a better one where the connection knows more."""


class EntryReader(Protocol):
    """What ``RedisConnection.consumer`` gives: an async iterator of ``(stream name, entry)``.

    ``entry.identifier`` is the id and ``entry.field_values`` the fields, both bytes. Awaiting it creates the group
    before the first read.
    """

    def __await__(self) -> Generator[Any, None, EntryReader]: ...

    def __aiter__(self) -> AsyncIterator[tuple[str, StreamEntry]]: ...

    async def acknowledge(self, entry: StreamEntry | bytes | str, channel: str | None = None) -> bool:
        """Acknowledge one entry (or id); False when it was not pending any more."""
