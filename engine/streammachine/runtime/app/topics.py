"""Partitioned topics: one name, several streams, and the records of one key always in the same stream.

``ticks`` with 8 partitions is the streams ``{ticks.0}`` to ``{ticks.7}``. The braces are a hash tag: on a Cluster each
partition has a slot of its own (they spread over the nodes), and its companions, such as ``{ticks.3}:dlq``, are in
it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, overload

from streammachine.errors import FieldError, SettingsError
from streammachine.redis.transport.codec import encode_fields
from streammachine.runtime.model.checks import takes

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.model.agent import Agent

TOPICS = "sm:topics"  # a hash: the partitions of every topic
MOST_PARTITIONS = 1024
Key = str | Callable[[Mapping[Any, Any]], Any]


class Sender(Protocol):
    """What a topic asks of its App."""

    @property
    def redis(self) -> RedisConnection:
        """The App's connection."""
        ...

    async def send(
        self, topic: str, record: Mapping[Any, Any], *, dedup_key: str | None = None, dedup_window: float = 3600.0
    ) -> str | None:
        """Append a record to a stream."""
        ...

    async def send_batch(self, topic: str, records: Iterable[Mapping[Any, Any]]) -> list[str]:
        """Append records to a stream, in order."""
        ...


class Topic(Sequence[str]):
    """A partitioned topic: a sequence of its streams' names, and the way to send to them. ``App.topic`` makes it.

    Attributes:
        name, partitions: as given. streams: the partitions' names.
        ordered: whether each partition is consumed by one process of a group at a time.

    Example:
        >>> ticks = app.topic("ticks", partitions=8, key="symbol")
        >>> await ticks.send({"symbol": "BTCUSDT", "price": 64000.5})
    """

    def __init__(self, app: Sender, name: str, partitions: int, key: Key, *, ordered: bool = True) -> None:
        if not isinstance(name, str) or not name or "{" in name or "}" in name:
            raise SettingsError(f"topic {name!r}: give a name that is not empty and has no braces.")
        if type(partitions) is not int or not 1 <= partitions <= MOST_PARTITIONS:
            raise SettingsError(f"partitions={partitions!r}: give a whole number from 1 to {MOST_PARTITIONS}.")
        if not callable(key) and not (isinstance(key, str) and key):
            raise SettingsError(f"key={key!r}: give a field's name, or a function of the record.")
        if callable(key) and not takes(key, 1):
            raise SettingsError(f"key={key!r} cannot be called with one argument, the record.")
        self.name = name
        self.partitions = partitions
        self.streams = tuple(f"{{{name}.{number}}}" for number in range(partitions))
        self.ordered = ordered
        self._app = app
        self._key = key
        self._checked = False

    async def send(
        self, record: Mapping[Any, Any], *, dedup_key: str | None = None, dedup_window: float = 3600.0
    ) -> str | None:
        """Append a record to the partition of its key.

        Args:
            record: as ``App.send`` takes it, with the key's field.
            dedup_key: a second send with this key within ``dedup_window`` seconds gives the first one's id instead.
            dedup_window: seconds, see ``dedup_key``.

        Returns:
            The entry's id ("ms-seq"); in a transactional handler None.

        Raises:
            FieldError: the record has no such field, or a value that cannot be sent.
            SettingsError: the topic was made with another number of partitions.
        """
        stream = self.stream_of(self._key_of(record))
        await self.check()
        return await self._app.send(stream, record, dedup_key=dedup_key, dedup_window=dedup_window)

    async def send_batch(self, records: Iterable[Mapping[Any, Any]]) -> list[str]:
        """Append records, each to the partition of its key. Records of one key keep their order.

        Args:
            records: as ``App.send`` takes them, with the key's field.

        Returns:
            The entries' ids in the order of the records; in a transactional handler an empty list.

        Raises:
            FieldError: a record lacks the key's field, or has a value that cannot be sent; nothing was sent.
            SettingsError: the topic was made with another number of partitions.
        """
        given = list(records)
        places: dict[str, list[int]] = {}
        for place, record in enumerate(given):
            encode_fields(record)  # all are checked before any is sent
            places.setdefault(self.stream_of(self._key_of(record)), []).append(place)
        await self.check()
        found: dict[int, str] = {}
        for stream, those in places.items():
            identifiers = await self._app.send_batch(stream, [given[place] for place in those])
            found.update(zip(those, identifiers, strict=False))  # in a transactional handler there are none yet
        return [found[place] for place in sorted(found)]

    def partition_of(self, key: str | bytes | bool | float) -> int:
        """The number of a key's partition, from 0: crc32 of its bytes, as they are sent, modulo the partitions."""
        (value,) = encode_fields({"key": key}).values()
        return zlib.crc32(value) % self.partitions

    def stream_of(self, key: str | bytes | bool | float) -> str:
        """The name of the stream that the records of a key are in."""
        return self.streams[self.partition_of(key)]

    async def check(self) -> None:
        """Store the number of partitions in Redis, or compare it with the stored one: with another the keys would move.

        Raises:
            SettingsError: the topic was made with another number.
        """
        if self._checked:
            return
        await self._app.redis.command("HSETNX", TOPICS, self.name, self.partitions, repeatable=True)
        stored = int(await self._app.redis.command("HGET", TOPICS, self.name, repeatable=True))
        if stored != self.partitions:
            raise SettingsError(
                f"The topic {self.name!r} has {stored} partitions, not {self.partitions}: with another number its keys "
                f"move and lose their order. Use {stored}, or another name."
            )
        self._checked = True

    def keyed(self, agent: Agent) -> Agent:
        """The agent with this topic's key as its own, where it declares none.

        A message then waits for one of its key that is tried again or runs isolated, and ``concurrency`` above 1 keeps
        the order. Batches are taken in stream order anyway.
        """
        if not self.ordered or agent.config.key is not None or agent.config.batch is not None:
            return agent
        of_record = self._key
        key = (lambda message: of_record(message.message)) if callable(of_record) else of_record
        return replace(agent, config=replace(agent.config, key=key))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self.streams[index]

    def __len__(self) -> int:
        return self.partitions

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, partitions={self.partitions})"

    def _key_of(self, record: Mapping[Any, Any]) -> Any:
        if callable(self._key):
            return self._key(record)
        for name in (self._key, self._key.encode()):
            if name in record:
                return record[name]
        raise FieldError(f"The record has no field {self._key!r}, which chooses its partition of topic {self.name!r}.")
