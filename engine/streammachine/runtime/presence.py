"""Which agents run in which process, and which of them are paused, kept in Redis for all processes of all Apps.

Every process that runs agents writes one field of the hash ``sm:agents:running`` once a second, and deletes it when it
ends (a FastOHLCConsumer writes one of its own). One that is not renewed belongs to a process that died or hangs. The
hash ``sm:agents:paused`` names the agents that must not read; every process reads it once a second, so a pause holds
everywhere within about a second, and for processes that start later.
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
PERIOD = 1.0  # seconds between two announcements, and two reads of the pauses
ALIVE = 5.0  # seconds after its last announcement in which a process counts as running
FORGOTTEN = 3600.0  # seconds after which a process that died is not shown any more
LEAVE_WAIT = 1.0  # seconds to take the announcement back; else the process shows as lost for a while

# KEYS[1] the hash; ARGV[1] the process, ARGV[2] its facts as JSON. By the server's clock: machines' clocks differ.
_ANNOUNCE = """
local now = redis.call('TIME')
return redis.call('HSET', KEYS[1], ARGV[1], (now[1] * 1000 + math.floor(now[2] / 1000)) .. ' ' .. ARGV[2])
"""
_ASK = "return {redis.call('TIME'), redis.call('HGETALL', KEYS[1])}"


class Announced(Protocol):
    """What can be announced and paused: a StreamConsumer, a FastOHLCConsumer.

    Attributes:
        topic: the stream it reads. paused_by_name: set while its agent is paused for every process.
    """

    @property
    def topic(self) -> str: ...

    paused_by_name: bool

    def facts(self, agent: str) -> dict[str, Any]:
        """How it is (as ``consumer.facts.consumer_facts``); ``agent`` is its agent's name."""
        ...


class AnnouncedTimer(Protocol):
    """A timer as it is announced and paused.

    Attributes:
        name: its name. paused_by_name: set while it is paused for every process.
    """

    @property
    def name(self) -> str: ...

    paused_by_name: bool

    def facts(self) -> dict[str, Any]:
        """How it is."""
        ...


@dataclass(frozen=True)
class RunningProcess:
    """One process as it last announced itself.

    Attributes:
        process: its name in the hash. app, host, pid: of the process. declared: whether it hosts declared agents.
        age: seconds since then. agents: the facts of its consumers (as ``consumer.facts.consumer_facts``).
        timers: the facts of its timers.
    """

    process: str
    app: str
    host: str
    pid: int
    declared: bool
    age: float
    agents: tuple[dict[str, Any], ...]
    timers: tuple[dict[str, Any], ...] = ()

    @property
    def alive(self) -> bool:
        """Whether it announced itself within the last ALIVE seconds."""
        return self.age <= ALIVE


class Presence:
    """Announces the consumers of one process, and pauses those that are to be paused.

    Args:
        connection: where the hashes are. app: the name of the app.
        consumers: the agents' names and consumers, asked each time. declared: they are agents that a model declared.
        timers: the timers, asked each time.
    """

    def __init__(
        self,
        connection: RedisConnection,
        app: str,
        consumers: Callable[[], Iterable[tuple[str, Announced]]],
        *,
        declared: bool = False,
        timers: Callable[[], Iterable[AnnouncedTimer]] = tuple,
    ) -> None:
        self._connection = connection
        self._consumers = consumers
        self._timers = timers
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._process = f"{self._host}:{self._pid}:{random.getrandbits(32):08x}"
        self._facts = {"app": app, "host": self._host, "pid": self._pid, "declared": declared}

    async def run(self) -> None:
        """Announce the consumers and apply the pauses once a second; when cancelled, take the announcement back."""
        try:
            while True:
                await self.apply_pauses()
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

    async def apply_pauses(self, more: Iterable[tuple[str, Announced]] = ()) -> None:
        """Pause the consumers that Redis names, and resume those that it names no more.

        While Redis is away they stay as they are. One that its owner has paused too stays paused.

        Args:
            more: agents' names and consumers that are not announced yet.
        """
        try:
            paused = await paused_agents(self._connection)
        except StreamMachineError as error:
            log.debug("Reading which agents are paused: %s", error)
            return
        for name, consumer in (*self._consumers(), *more):
            if consumer.paused_by_name != (name in paused):
                consumer.paused_by_name = name in paused
                log.info("%s on %s is %s", name, consumer.topic, "paused" if name in paused else "resumed")
        for timer in self._timers():
            if timer.paused_by_name != (timer_mark(timer.name) in paused):
                timer.paused_by_name = not timer.paused_by_name
                log.info("The timer %s is %s", timer.name, "paused" if timer.paused_by_name else "resumed")

    async def _announce(self) -> None:
        agents = [consumer.facts(name) for name, consumer in self._consumers()]
        timers = [timer.facts() for timer in self._timers()]
        text = json.dumps({**self._facts, "agents": agents, **({"timers": timers} if timers else {})})
        await self._connection.command("EVAL", _ANNOUNCE, 1, RUNNING, self._process, text, repeatable=True)


async def running_processes(connection: RedisConnection) -> list[RunningProcess]:
    """The processes that run agents, and those that died within the last hour; older ones are deleted."""
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


def timer_mark(name: str) -> str:
    """What stands in PAUSED for a timer."""
    return f"timer {name}"


async def set_paused(connection: RedisConnection, name: str, paused: bool) -> bool:
    """Pause or resume an agent in every process; whether that changed anything."""
    command = ("HSET", PAUSED, name, "1") if paused else ("HDEL", PAUSED, name)
    return bool(await connection.command(*command, repeatable=True))


def _parse(process: bytes, said: bytes, now: int) -> RunningProcess | None:
    """One field of the hash; None for what this version does not understand."""
    stamp, _, text = bytes(said).partition(b" ")
    try:
        facts = json.loads(text)
        return RunningProcess(
            process=bytes(process).decode(),
            app=str(facts["app"]),
            host=str(facts["host"]),
            pid=int(facts["pid"]),
            declared=bool(facts["declared"]),
            age=max(0.0, (now - int(stamp)) / 1000),
            agents=tuple(dict(agent) for agent in facts["agents"]),
            timers=tuple(dict(timer) for timer in facts.get("timers", ())),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
