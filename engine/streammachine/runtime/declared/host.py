"""Agents that a model declares: filter a stream, select fields, send what is left to another stream.

They are kept in the hash ``sm:agents`` and so survive every restart. A host (``DeclaredHost``; an MCP server runs one
in a child process) takes a lease per agent, ``sm:agents:lease:<name>``, so that two hosts do not run the same; when a
host dies, another takes over after the lease. Even two hosts that run the same agent do no harm: their group gives each
message to one of them. An agent is transactional: its output appears with the acknowledgement, once. A message on which
an expression fails goes to the dead letters, and the agent goes on.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from streammachine.backoff import Backoff
from streammachine.errors import StreamMachineError
from streammachine.redis.lease import Lease
from streammachine.runtime.consumer.consumer import StreamConsumer
from streammachine.runtime.declared.agents import HOST_NAME, LEASE_KEY, DeclaredAgent, Expressions, declared_agents
from streammachine.runtime.declared.evaluator import Evaluator
from streammachine.runtime.delivery.transaction import active, fields_of, transactional
from streammachine.runtime.model.config import ConsumerConfig
from streammachine.runtime.presence import Presence

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.model.message import Message

log = logging.getLogger(__name__)

LEASE = 6.0  # seconds that an agent belongs to its host; renewed every third of it
MESSAGE_LEASE = 10.0  # seconds after which a message of a dead host is given to the next
LOOK_PERIOD = 0.5  # seconds between two reads of which agents are declared, deleted, or left by another host
BACKOFF_FIRST, BACKOFF_LAST = 0.5, 30.0  # seconds before an agent that failed is started again


class DeclaredHost:
    """Runs the declared agents that no other host runs, until stopped.

    Args:
        connection: where the agents, their leases and their streams are.

    Attributes:
        problems: why an agent cannot run, by its name.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._token = uuid.uuid4().hex
        self._runs: dict[str, _Run] = {}
        self._stop = anyio.Event()
        self._evaluator = Evaluator()
        self._presence = Presence(connection, HOST_NAME, self._consumers, declared=True)
        self.problems: dict[str, str] = {}

    @property
    def running(self) -> int:
        """How many agents run here."""
        return sum(run.consumer is not None for run in self._runs.values())

    def stop(self) -> None:
        """Drain all agents; ``run`` returns then."""
        self._stop.set()

    async def run(self) -> None:
        """Run the declared agents until ``stop``."""
        async with self._evaluator, anyio.create_task_group() as beside:
            beside.start_soon(self._presence.run)
            async with anyio.create_task_group() as runs:
                while not self._stop.is_set():
                    try:
                        await self._start_and_end_runs(runs)
                    except StreamMachineError as error:
                        log.warning("Reading the declared agents: %s", error)
                    with anyio.move_on_after(LOOK_PERIOD * random.uniform(0.75, 1.25)):
                        await self._stop.wait()
                for run in self._runs.values():
                    run.end.set()
            beside.cancel_scope.cancel()

    def _consumers(self) -> list[tuple[str, StreamConsumer]]:
        return [(run.agent.name, run.consumer) for run in self._runs.values() if run.consumer is not None]

    async def _start_and_end_runs(self, runs: anyio.abc.TaskGroup) -> None:
        agents = await declared_agents(self._connection)
        for name, run in self._runs.items():
            if agents.get(name) != run.agent:
                run.end.set()
        for name, agent in agents.items():
            if name in self._runs:
                continue
            lease = Lease(self._connection, LEASE_KEY + name, self._token, LEASE)
            if await lease.take():
                self._runs[name] = run = _Run(agent, lease)
                runs.start_soon(self._run_agent, run)

    async def _run_agent(self, run: _Run) -> None:
        """Run one agent, again when it fails, until its ``end`` is set or its lease is lost."""
        name = run.agent.name
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_lease, run)
                await self._supervise(run)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                try:
                    await run.lease.release()
                except StreamMachineError as error:
                    log.debug("Releasing the lease of the agent %s: %s", name, error)
            self.problems.pop(name, None)
            del self._runs[name]

    async def _supervise(self, run: _Run) -> None:
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        while not run.end.is_set():
            try:
                await self._consume(run)
                return
            except Exception as error:
                log.exception("The declared agent %s failed; starting it again", run.agent.name)
                self.problems[run.agent.name] = f"{type(error).__name__}: {error}"
            with anyio.move_on_after(backoff.pause()):
                await run.end.wait()

    async def _consume(self, run: _Run) -> None:
        agent = run.agent
        expressions = Expressions(agent, self._evaluator)
        await expressions.prepare()

        async def handle(message: Message) -> None:
            record = await expressions.transform(message)
            if record is None:
                return
            transaction = active(self)
            assert transaction is not None
            fields = fields_of(record, time.time_ns() // 1_000_000)
            transaction.send(agent.output_stream, fields, self._connection.settings.stream_maxlen)

        config = ConsumerConfig(
            topic=agent.stream,
            group=agent.group,
            lease=MESSAGE_LEASE,
            start=agent.start,
            transactional=True,
            prefetch=100,
        )
        consumer = StreamConsumer(
            config,
            handle,
            connection=self._connection,
            consumer=f"{HOST_NAME}-{self._token}",
            committer=transactional(self),
            owner=self,
        )
        await self._presence.apply_pauses([(agent.name, consumer)])  # a paused agent must not read first
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(consumer.run)
                run.consumer = consumer
                self.problems.pop(agent.name, None)
                await run.end.wait()
                await consumer.drain()
        finally:
            run.consumer = None
            await expressions.close()

    async def _keep_lease(self, run: _Run) -> None:
        """Renew the lease; end the run when somebody else has it."""
        while True:
            await anyio.sleep(LEASE / 3)
            try:
                held = await run.lease.renew()
            except StreamMachineError as error:
                log.warning("Renewing the lease of the agent %s: %s", run.agent.name, error)
                continue
            if not held and not await run.lease.take():
                log.warning("The agent %s was taken over by another host", run.agent.name)
                run.end.set()
                return


class _Run:
    """One agent that runs here."""

    def __init__(self, agent: DeclaredAgent, lease: Lease) -> None:
        self.agent = agent
        self.lease = lease
        self.end = anyio.Event()
        self.consumer: StreamConsumer | None = None
