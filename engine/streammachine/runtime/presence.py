"""Which agents run where, and which of them are paused: what the processes of all Apps tell each other through Redis.

Every process that runs agents writes one field of the hash ``sm:agents:running`` once a second, and takes it away when
it ends (a FastOHLCConsumer writes one of its own). One that is not renewed belongs to a process that died or hangs. The
hash ``sm:agents:paused`` names the agents that must not read; every process looks there at the same time, so a pause
holds everywhere within about a second, and for processes that start later.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from streammachine.errors import StreamMachineError

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

log = logging.getLogger(__name__)

RUNNING = "sm:agents:running"
PAUSED = "sm:agents:paused"
PERIOD = 1.0  # seconds between two announcements, and two looks for pauses
ALIVE = 5.0  # seconds after its last announcement in which a process counts as running
FORGOTTEN = 3600.0  # seconds after which a process that died is not shown any more
LEAVE_WAIT = 1.0  # seconds for the last word; without it the process shows as lost for a while

# KEYS[1] the hash; ARGV[1] the process, ARGV[2] what it says. The server's clock, so that no two machines disagree.
_ANNOUNCE = """
local now = redis.call('TIME')
return redis.call('HSET', KEYS[1], ARGV[1], (now[1] * 1000 + math.floor(now[2] / 1000)) .. ' ' .. ARGV[2])
"""
_ASK = "return {redis.call('TIME'), redis.call('HGETALL', KEYS[1])}"


class Announced(Protocol):
    """What can be announced and paused: a StreamConsumer, a FastOHLCConsumer.

    Attributes:
        topic: the stream it reads. paused_by_name: set while its name stands among the paused ones.
    """

    @property
    def topic(self) -> str: ...

    paused_by_name: bool

    def facts(self, agent: str) -> dict[str, Any]:
        """How it is (``consumer.facts.consumer_facts``); ``agent`` is its name."""
        ...


@dataclass(frozen=True)
class Running:
    """One process as it last spoke.

    Attributes:
        age: seconds since then. agents: the facts of its consumers (``consumer.facts.consumer_facts``).
    """

    process: str
    app: str
    host: str
    pid: int
    declared: bool
    age: float
    agents: tuple[dict[str, Any], ...]

    @property
    def alive(self) -> bool:
        """Whether it has spoken lately."""
        return self.age <= ALIVE


class Presence:
    """Announces the consumers of one process, and pauses them when they are to be paused.

    Args:
        consumers: the agents' names and consumers, asked each time. declared: they are agents that a model declared.
    """

    def __init__(
        self,
        connection: RedisConnection,
        app: str,
        consumers: Callable[[], Iterable[tuple[str, Announced]]],
        *,
        declared: bool = False,
    ) -> None:
        self._connection = connection
        self._consumers = consumers
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._process = f"{self._host}:{self._pid}:{random.getrandbits(32):08x}"
        self._says = {"app": app, "host": self._host, "pid": self._pid, "declared": declared}

    async def run(self) -> None:
        """Announce and look until cancelled; then take the announcement back."""
        try:
            while True:
                await self.look()
                try:
                    await self._announce()
                except StreamMachineError as error:
                    log.debug("Announcing the agents: %s", error)
                await anyio.sleep(PERIOD)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_WAIT):
                try:
                    await self._connection.command("HDEL", RUNNING, self._process)
                except StreamMachineError as error:
                    log.debug("Taking the announcement back: %s", error)

    async def look(self, more: Iterable[tuple[str, Announced]] = ()) -> None:
        """Pause the consumers (and ``more``) that Redis names, and resume those that it names no more. With Redis away
        they stay as they are; one that its owner holds back stays so.
        """
        try:
            paused = await paused_agents(self._connection)
        except StreamMachineError as error:
            log.debug("Looking for paused agents: %s", error)
            return
        for name, consumer in (*self._consumers(), *more):
            if consumer.paused_by_name != (name in paused):
                consumer.paused_by_name = name in paused
                log.info("%s on %s is %s", name, consumer.topic, "paused" if name in paused else "resumed")

    async def _announce(self) -> None:
        agents = [consumer.facts(name) for name, consumer in self._consumers()]
        text = json.dumps({**self._says, "agents": agents})
        await self._connection.command("EVAL", _ANNOUNCE, 1, RUNNING, self._process, text, repeatable=True)


async def running_processes(connection: RedisConnection) -> list[Running]:
    """The processes that run agents, and those that died within the last hour; older ones are cleared away."""
    (seconds, micros), flat = await connection.command("EVAL", _ASK, 1, RUNNING, repeatable=True)
    now = int(seconds) * 1000 + int(micros) // 1000
    found, forgotten = [], []
    for process, said in zip(flat[::2], flat[1::2], strict=True):
        one = _parse(process, said, now)
        if one is None or one.age > FORGOTTEN:
            forgotten.append(process)
        else:
            found.append(one)
    if forgotten:
        await connection.command("HDEL", RUNNING, *forgotten)
    return sorted(found, key=lambda one: one.process)


async def paused_agents(connection: RedisConnection) -> set[str]:
    """The names of the agents that are paused."""
    return {
        bytes(name).decode(errors="backslashreplace")
        for name in await connection.command("HKEYS", PAUSED, repeatable=True)
    }


async def set_paused(connection: RedisConnection, name: str, paused: bool) -> bool:
    """Pause or resume an agent everywhere; whether that changed anything."""
    command = ("HSET", PAUSED, name, "1") if paused else ("HDEL", PAUSED, name)
    return bool(await connection.command(*command, repeatable=True))


def _parse(process: bytes, said: bytes, now: int) -> Running | None:
    """One field of the hash; None for what this version does not understand."""
    stamp, _, text = bytes(said).partition(b" ")
    try:
        facts = json.loads(text)
        return Running(
            process=bytes(process).decode(),
            app=str(facts["app"]),
            host=str(facts["host"]),
            pid=int(facts["pid"]),
            declared=bool(facts["declared"]),
            age=max(0.0, (now - int(stamp)) / 1000),
            agents=tuple(dict(agent) for agent in facts["agents"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
