"""Who consumes which partition: each by one process of a group at a time, so that the order of a key holds.

Every process that runs the agent is a member (``member.lua``) and computes the same even assignment from the names of
all members. It consumes a partition while it holds the partition's lease (``hold.lua``); one that is assigned elsewhere
is drained first and given up then, so nobody begins before the last one has ended. Who takes a partition over takes
all that is still pending there before it reads on: after a crash it waits until the leases of those messages have run
out. So a key's messages start in their order, also across processes that come, go and die (what a dead one held starts
again before anything newer). The exceptions: a message that waits long for its next try (in the retry companion), and
batches after one of their messages ran alone.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from streammachine.errors import StreamMachineError
from streammachine.redis.streams import ensure_group
from streammachine.runtime.delivery.keys import tagged
from streammachine.runtime.presence import paused_agents

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.consumer.consumer import StreamConsumer
    from streammachine.runtime.model.agent import Agent

log = logging.getLogger(__name__)

HEARTBEAT = 1.0  # seconds between two looks at the members, at most; a third of the lease where that is shorter
PENDING_PERIOD = 0.1  # seconds between two looks at what a dead member left
LEAVE_TIME = 1.0  # seconds for giving a lease up at the end
_MEMBER, _HOLD = (files(__package__).joinpath("lua", f"{name}.lua").read_text() for name in ("member", "hold"))


def assign(streams: Sequence[str], members: Sequence[str]) -> dict[str, str]:
    """The member for each stream: even (the numbers differ by one at most), the same for the same members, and few
    change when a member comes or goes (rendezvous hashing with a bound).

    Args:
        streams: the partitions. members: the names of those who share them; at least one.

    Returns:
        The member's name by stream.
    """
    share, extras = divmod(len(streams), len(members))
    load = dict.fromkeys(members, 0)
    found = {}
    for stream in streams:
        for member in sorted(members, key=lambda member: _weight(stream, member), reverse=True):
            if load[member] < share or (load[member] == share and extras):
                extras -= load[member] == share
                load[member] += 1
                found[stream] = member
                break
    return found


def _weight(stream: str, member: str) -> bytes:
    return hashlib.blake2b(f"{stream}\n{member}".encode(), digest_size=8).digest()


class Partitions:
    """The partitions that this process consumes for one agent. ``run`` it in a task group.

    Args:
        agent: the agent. streams: its partitions. topic: the topic's name. connection: to their server.
        make: gives a new consumer of a partition. running: the App's list of consumers, kept up to date.
        stop: set when the App ends; it drains the consumers that run.
    """

    def __init__(
        self,
        agent: Agent,
        streams: Sequence[str],
        topic: str,
        *,
        connection: RedisConnection,
        make: Callable[[str], StreamConsumer],
        running: list[tuple[Agent, StreamConsumer]],
        stop: anyio.Event,
    ) -> None:
        self._agent = agent
        self._streams = list(streams)
        self._group = agent.config.group
        self._connection = connection
        self._make = make
        self._running = running
        self._stop = stop
        self._members = f"sm:topic:{{{topic}}}:{self._group}"
        self._lease = agent.config.lease
        self._heartbeat = min(HEARTBEAT, self._lease / 3)
        self._me = secrets.token_hex(8)
        self._names: list[str] = []  # of the members, when it was last assigned
        self._assigned: set[str] = set()  # what is assigned to us
        self._held: set[str] = set()  # what we hold the lease of

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Consume what is assigned to this process until the App stops; started once the groups exist."""
        try:
            for stream in self._streams:
                await ensure_group(self._connection, stream, self._group, start=self._agent.config.start)
            async with anyio.create_task_group() as tasks:
                task_status.started()
                while not self._stop.is_set():
                    try:
                        await self._share(tasks)
                    except StreamMachineError as error:
                        log.warning("Sharing the partitions of %s: %s", self._agent.name, error)
                    with anyio.move_on_after(self._heartbeat):
                        await self._stop.wait()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_TIME):
                await self._release(_MEMBER, self._members)

    async def _share(self, tasks: anyio.abc.TaskGroup) -> None:
        """Say that we are here, and begin what is newly ours."""
        members = await self._script(_MEMBER, self._members, int(self._lease * 1000))
        names = sorted(bytes(name).decode() for name in members)
        if names != self._names:  # a second's work with a thousand members and two thousand partitions
            self._names = names
            self._assigned = {stream for stream, member in assign(self._streams, names).items() if member == self._me}
        for stream in self._streams:
            if stream in self._assigned and stream not in self._held and await self._hold(stream):
                self._held.add(stream)
                tasks.start_soon(self._consume, stream)

    async def _consume(self, stream: str) -> None:
        """Consume a partition whose lease we hold, until it is another's or the App stops."""
        consumer = self._make(stream)
        entry = (self._agent, consumer)
        try:
            async with anyio.create_task_group() as keeping:
                keeping.start_soon(self._keep, stream, consumer)
                consumer.paused_by_name = self._agent.name in await paused_agents(self._connection)
                await self._wait_for_leases(consumer)
                if not self._stop.is_set() and not consumer.stopping:
                    self._running.append(entry)  # from here on the App's end drains it
                    await consumer.run()
                keeping.cancel_scope.cancel()
        except* StreamMachineError as group:
            log.warning("The partition %r of %s: %s", stream, self._agent.name, group.exceptions[0])
        finally:
            if entry in self._running:
                self._running.remove(entry)
            with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_TIME):
                await self._release(_HOLD, self._lease_key(stream))
            self._held.discard(stream)

    async def _wait_for_leases(self, consumer: StreamConsumer) -> None:
        """Wait until the leases of all pending messages have run out: the consumer takes those before it reads."""
        lease_ms = int(self._lease * 1000)
        command = ("XPENDING", consumer.topic, self._group, "-", "+", 1000)
        with anyio.move_on_after(2 * self._lease) as scope:
            while not self._stop.is_set() and not consumer.stopping:
                rows = await self._connection.command(*command, repeatable=True)
                if all(idle > lease_ms for _, _, idle, _ in rows):
                    return
                await anyio.sleep(PENDING_PERIOD)
        if scope.cancelled_caught:
            log.warning(
                "Messages of %r are held by a consumer that does not share partitions; their order is not kept",
                consumer.topic,
            )

    async def _keep(self, stream: str, consumer: StreamConsumer) -> None:
        """Renew the lease; drain the consumer when the partition is assigned elsewhere, or the lease is lost."""
        renewed = time.monotonic()
        while True:
            await anyio.sleep(self._heartbeat)
            lost = False
            try:
                if await self._hold(stream):
                    renewed = time.monotonic()
                else:
                    lost = True
            except StreamMachineError as error:
                log.warning("Keeping the partition %r: %s", stream, error)
            lost = lost or time.monotonic() - renewed > self._lease - self._heartbeat
            if (lost or stream not in self._assigned) and not consumer.stopping:
                log.info("The partition %r of %s goes to another process", stream, self._agent.name)
                await consumer.drain()

    async def _hold(self, stream: str) -> bool:
        return bool(await self._script(_HOLD, self._lease_key(stream), int(self._lease * 1000)))

    async def _release(self, script: str, key: str) -> None:
        try:
            await self._script(script, key, 0)
        except StreamMachineError as error:
            log.warning("Giving %r up: %s; it runs out by itself", key, error)

    def _lease_key(self, stream: str) -> str:
        return f"{tagged(stream)}:holder:{self._group}"

    async def _script(self, script: str, key: str, life_ms: int) -> Any:
        return await self._connection.command("EVAL", script, 1, key, self._me, life_ms)
