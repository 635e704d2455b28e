"""Connections to a Redis Cluster: a command goes to the primary that serves its key's slot.

Source: the Redis Cluster specification (hash tags, CRC16 modulo 16384, MOVED). CRC16 there is the XMODEM variant, which
is ``binascii.crc_hqx``. The map of slots is read from any node that answers, and again when a node is gone or moved.
"""

from __future__ import annotations

import binascii
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import anyio

from streammachine.errors import RedisUnavailableError
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import RawConnection, encode_command
from streammachine.redis.transport.shared_connection import SharedConnection, UnsentError
from streammachine.redis_url import Endpoint

log = logging.getLogger(__name__)

SLOTS = 16384
MOVES = 10  # times that a command is sent again where it belongs
MOVE_PAUSE = 0.1  # seconds between two of them: a failover takes a moment
# Nothing ran: the map is old, the slot is being moved, or the Cluster is electing.
_AWAY = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
ASKING = b"*1\r\n$6\r\nASKING\r\n"
_AFTER_SUBCOMMAND = {"XGROUP", "XINFO", "OBJECT", "MEMORY"}
_KEYLESS = {"PING", "INFO", "CLIENT", "CONFIG", "SCRIPT", "COMMAND", "CLUSTER", "SCAN", "DBSIZE", "TIME", "FLUSHALL"}


def slot_of(key: str | bytes) -> int:
    """The Cluster slot of a key; of a key with a hash tag, that of its tag."""
    raw = key.encode() if isinstance(key, str) else key
    start = raw.find(b"{")
    if start >= 0:
        end = raw.find(b"}", start + 1)
        if end > start + 1:
            raw = raw[start + 1 : end]
    return binascii.crc_hqx(raw, 0) % SLOTS


def key_of(arguments: Sequence[bytes | str | int]) -> str | bytes | None:
    """The first key of a command that this project sends; None where it has none."""
    name = _text(arguments[0]).upper()
    if name in _KEYLESS or len(arguments) < 2:
        return None
    place = 1
    if name in ("EVAL", "EVALSHA"):
        if int(arguments[2]) == 0:
            return None
        place = 3
    elif name in ("XREADGROUP", "XREAD"):
        place = next(i for i, part in enumerate(arguments) if _text(part).upper() == "STREAMS") + 1
    elif name in _AFTER_SUBCOMMAND:
        place = 2
    key = arguments[place]
    return str(key) if isinstance(key, int) else key


class ClusterConnections:
    """What ``SharedConnection`` is for one server: one connection to each primary, opened when it is needed."""

    def __init__(self, seed: Endpoint, name: str) -> None:
        self._seed = seed
        self._name = name
        self._primaries: dict[tuple[str, int], SharedConnection] = {}
        self._ranges: list[tuple[int, int, tuple[str, int]]] = []
        self._reading = anyio.Lock()
        self._readings = 0  # of the map, failed ones too
        self._failure: Callable[[], RedisUnavailableError] | None = None  # the last one's

    async def open(self, key: str | bytes | None = None) -> RawConnection:
        """A connection of the caller's own, to the primary of ``key``."""
        try:
            return await (await self._primary_of(key)).open()
        except RedisUnavailableError:
            await self._read_map()
            return await (await self._primary_of(key)).open()

    async def exchange(self, payload: bytes, replies: int, timeout: float, key: str | bytes | None = None) -> list[Any]:
        """As ``RawConnection.exchange``, at the primary of ``key``.

        What a node sent away (the slot has moved, or is being moved) has not run. It is sent again where it belongs, in
        its order; where one behind it has run, it is given as the error that it is.

        Raises:
            UnsentError: no node could be reached, so nothing was sent.
        """
        done: list[Any] = []
        found: list[Any] = []
        for _ in range(MOVES):
            try:
                found = await self._attempt(payload, replies - len(done), timeout, key)
                done += found[: len(found) - _sent_away(found)]
                if asked := _asked(found[-(replies - len(done)) :]) if len(done) < replies else None:
                    # The slot is half moved: each command must say that the old node sent it.
                    commands = [ASKING + command for command in split_commands(payload)[len(done) - replies :]]
                    found = (await self._to(asked).exchange(b"".join(commands), 2 * len(commands), timeout))[1::2]
                    done += found[: len(found) - _sent_away(found)]
                if len(done) == replies:
                    return done
                payload = b"".join(split_commands(payload)[len(done) - replies :])
                await anyio.sleep(MOVE_PAUSE)
                await self._read_map()
            except UnsentError as error:
                if done:
                    raise error.cause from error  # a part was sent: who repeats it all would write that twice
                raise
        return done + found[len(done) - replies :]

    async def _attempt(self, payload: bytes, replies: int, timeout: float, key: str | bytes | None) -> list[Any]:
        try:
            return await (await self._primary_of(key)).exchange(payload, replies, timeout)
        except UnsentError:
            await self._read_map()
            return await (await self._primary_of(key)).exchange(payload, replies, timeout)

    async def each_primary(self) -> list[SharedConnection]:
        """A connection to every primary, for commands that look at all keys."""
        if not self._ranges:
            await self._read_map()
        return [self._to(place) for place in sorted({place for _, _, place in self._ranges})]

    async def aclose(self) -> None:
        """Close all connections."""
        primaries, self._primaries = self._primaries, {}
        for primary in primaries.values():
            await primary.aclose()

    async def _primary_of(self, key: str | bytes | None) -> SharedConnection:
        if not self._ranges:
            await self._read_map()
        if key is None:
            return self._to(self._ranges[0][2])
        slot = slot_of(key)
        for first, last, place in self._ranges:
            if first <= slot <= last:
                return self._to(place)
        await self._read_map()
        for first, last, place in self._ranges:
            if first <= slot <= last:
                return self._to(place)
        raise UnsentError(RedisUnavailableError(f"No node of the Cluster at {self._name} serves slot {slot}."))

    def _to(self, place: tuple[str, int]) -> SharedConnection:
        if place not in self._primaries:
            endpoint = replace(self._seed, host=place[0], port=place[1])
            self._primaries[place] = SharedConnection(endpoint, f"{place[0]}:{place[1]}")
        return self._primaries[place]

    async def _read_map(self) -> None:
        """CLUSTER SLOTS of the first node that answers. Who waited for another's reading shares how it ended."""
        readings = self._readings
        async with self._reading:
            if self._readings > readings:
                if self._failure is not None:
                    raise UnsentError(self._failure())
                return
            known = [place for _, _, place in self._ranges]
            problem: Exception | None = None
            for place in dict.fromkeys([*known, (self._seed.host, self._seed.port)]):
                try:
                    (reply,) = await self._to(place).exchange(encode_command(["CLUSTER", "SLOTS"]), 1, 2.0)
                except (UnsentError, RedisUnavailableError) as error:
                    problem = error
                    continue
                if isinstance(reply, RespError):
                    problem = RedisUnavailableError(
                        f"{self._name} is no Cluster: {reply.message}. Leave ?cluster=true out."
                    )
                    continue
                ranges = [_range(row, place) for row in reply if len(row) > 2]
                if ranges:
                    self._ranges = sorted(ranges)
                    self._readings, self._failure = self._readings + 1, None
                    return
                problem = RedisUnavailableError(f"The Cluster at {self._name} serves no slots yet.")
            cause = problem.cause if isinstance(problem, UnsentError) else problem
            assert isinstance(cause, RedisUnavailableError)
            self._readings, self._failure = self._readings + 1, partial(type(cause), str(cause))
            raise UnsentError(cause)


def split_commands(payload: bytes) -> list[bytes]:
    """The single commands of a payload in RESP (arrays of bulk strings)."""
    found, start, at = [], 0, 0
    while at < len(payload):
        end = payload.index(b"\r\n", at)
        parts, at = int(payload[at + 1 : end]), end + 2
        for _ in range(parts):
            end = payload.index(b"\r\n", at)
            at = end + 2 + int(payload[at + 1 : end]) + 2
        found.append(payload[start:at])
        start = at
    return found


def _sent_away(replies: Sequence[Any]) -> int:
    """How many replies at the end tell that their command did not run here; 0 where a later one has run."""
    away = [isinstance(reply, RespError) and reply.code in _AWAY for reply in replies]
    count = away.index(False) if False in (away := away[::-1]) else len(away)
    return count if count == sum(away) else 0


def _asked(replies: Sequence[Any]) -> tuple[str, int] | None:
    """The node that all of them are sent to for once; None where they are not."""
    places = {reply.message.rpartition(" ")[2] if reply.code == "ASK" else "" for reply in replies}
    if len(places) != 1 or not (place := places.pop()):
        return None
    host, _, port = place.rpartition(":")
    return host, int(port)


def _range(row: Any, asked: tuple[str, int]) -> tuple[int, int, tuple[str, int]]:
    """First slot, last slot and primary of a row of CLUSTER SLOTS; a node without a name is the one that was asked."""
    return int(row[0]), int(row[1]), (_text(row[2][0]) or asked[0], int(row[2][1]))


def _text(part: Any) -> str:
    return part.decode() if isinstance(part, bytes) else str(part)
