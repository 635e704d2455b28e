"""Declared agents as they are kept in Redis: declare, list, undeclare."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import anyio.abc

from streammachine.errors import SettingsError, StreamMachineError
from streammachine.redis.lease import is_leased
from streammachine.redis.streams import nearest, refuse_own, require_stream
from streammachine.redis.transport.cluster import slot_of
from streammachine.runtime.declared.evaluator import EvaluationStoppedError, Evaluator, Sample, applied
from streammachine.runtime.declared.expressions import Expression, ExpressionFailed, may_be_cheap
from streammachine.runtime.delivery.keys import Companions, tagged
from streammachine.runtime.presence import PAUSED

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.model.message import Message

log = logging.getLogger(__name__)

KEY = "sm:agents"  # a hash: each agent's definition as JSON, by its name
LEASE_KEY = "sm:agents:lease:"  # and the agent's name
HOST_NAME = "declared"  # the app that declared agents show under
MOST_AGENTS = 100  # that may be declared
SLOW = 0.25  # seconds for one message; a slower agent gets an evaluator of its own
STOPPED_WAIT = 8.0  # seconds for an agent's host to release its lease before its group is deleted


class AgentNotFoundError(StreamMachineError, LookupError):
    """No agent has this name."""


class AgentExistsError(StreamMachineError):
    """A declared agent of this name does something else."""


@dataclass(frozen=True)
class DeclaredAgent:
    """What a declared agent does.

    Args:
        name: 1 to 64 letters, digits, ``_``, ``-`` or ``.``; a letter or digit first.
        stream: what it reads. output_stream: where it sends.
        filter: a CEL expression; messages for which it is false are dropped. None: every message passes.
        select: a CEL expression that gives the fields to send. None: the message's own.
        start: where its group begins: "0" the stream's beginning, "$" new messages only.
        created_ms: when it was declared, epoch milliseconds.

    Raises:
        SettingsError: a name or stream that is not accepted. ExpressionError: an expression that is not.
    """

    name: str
    stream: str
    output_stream: str
    filter: str | None = None
    select: str | None = None
    start: str = "0"
    created_ms: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", self.name):
            raise SettingsError(
                f"The name {self.name!r} is not accepted: give 1 to 64 letters, digits, '_', '-' or '.', "
                "a letter or digit first."
            )
        if not self.stream or not self.output_stream:
            raise SettingsError("stream and output_stream need names that are not empty.")
        if self.stream == self.output_stream:
            raise SettingsError("stream and output_stream are the same: the agent would read what it sends, for ever.")
        refuse_own(self.output_stream, "output_stream")
        if not self.stream.endswith(":dlq"):  # dead letters may be read; to read is to write a group and its companions
            refuse_own(self.stream)
        if self.start not in ("0", "$"):
            raise SettingsError(f"start={self.start!r}: give '0' (the stream's beginning) or '$' (new messages only).")

    @property
    def group(self) -> str:
        """Its consumer group."""
        return f"agent:{self.name}"

    @property
    def work(self) -> tuple[object, ...]:
        """What makes two declarations the same."""
        return (self.name, self.stream, self.output_stream, self.filter, self.select)


class Expressions:
    """The expressions of a declared agent, applied to one message after the other.

    What costs next to nothing is evaluated in this process, all else by an evaluator (a child process) that many agents
    share. An agent that was slow there once gets an evaluator of its own, so that the others no longer wait for it.

    Args:
        agent: whose expressions. shared: the evaluator that many agents share.
    """

    def __init__(self, agent: DeclaredAgent, shared: Evaluator) -> None:
        self._agent = agent
        self._evaluator = shared
        self._own: Evaluator | None = None
        self._in_process: tuple[Expression | None, Expression | None] | None = None

    async def check(self, sample: Message | None = None) -> Mapping[Any, Any] | None:
        """Check the expressions before the first message.

        Args:
            sample: a message to try them on.

        Returns:
            What ``transform`` gives for the sample; None without one.

        Raises:
            ExpressionError: one is refused. ExpressionFailed: it fails on the sample.
        """
        agent = self._agent
        if agent.filter is None and agent.select is None:
            return _fields(sample) if sample is not None else None
        given = _sample(sample) if sample is not None else None
        found = await self._evaluator.check(agent.filter, agent.select, given)
        return _record(found, sample) if sample is not None else None

    async def prepare(self) -> None:
        """Check the expressions, and compile them in this process too where they may be cheap.

        Raises:
            ExpressionError: one is refused.
        """
        await self.check()
        agent = self._agent
        if all(text is None or may_be_cheap(text) for text in (agent.filter, agent.select)):
            self._in_process = (
                Expression(agent.filter, "filter") if agent.filter is not None else None,
                Expression(agent.select, "select") if agent.select is not None else None,
            )

    async def transform(self, message: Message) -> Mapping[Any, Any] | None:
        """Apply the expressions to a message.

        Returns:
            The record to send; None when the filter drops the message.

        Raises:
            ExpressionFailed: an expression fails on this message, or would take too much.
        """
        agent = self._agent
        if agent.filter is None and agent.select is None:
            return _fields(message)
        size = sum(len(name) + len(value) for name, value in (message.data or {}).items())
        if self._in_process is not None and all(one is None or one.cheap(size) for one in self._in_process):
            return _record(applied(*self._in_process, message), message)
        try:
            found, seconds = await self._evaluator.apply(agent.filter, agent.select, _sample(message))
        except EvaluationStoppedError as error:
            self._use_own_evaluator()
            raise ExpressionFailed(f"The expressions were stopped on this message: {error}") from None
        if seconds > SLOW:
            self._use_own_evaluator()
        return _record(found, message)

    def _use_own_evaluator(self) -> None:
        if self._own is None:
            self._evaluator = self._own = Evaluator()

    async def close(self) -> None:
        """End the agent's own evaluator, if it has one."""
        if self._own is not None:
            await self._own.close()


def _sample(message: Message) -> Sample:
    return Sample(message.topic or "", message.key or "0-0", dict(message.data or {}))


def _record(found: Mapping[Any, Any] | bool, message: Message) -> Mapping[Any, Any] | None:
    if isinstance(found, bool):
        return _fields(message) if found else None
    return found


async def declared_agents(connection: RedisConnection) -> dict[str, DeclaredAgent]:
    """All declared agents by name; one that this version does not understand is logged and left out."""
    flat = await connection.command("HGETALL", KEY, repeatable=True)
    found = {}
    for name, text in zip(flat[::2], flat[1::2], strict=True):
        try:
            agent = DeclaredAgent(**json.loads(text))
        except (TypeError, ValueError, RecursionError, StreamMachineError) as error:
            log.error("The declared agent %s cannot be read: %s", bytes(name).decode(errors="replace"), error)
        else:
            found[agent.name] = agent
    return dict(sorted(found.items()))


async def declare(connection: RedisConnection, agent: DeclaredAgent) -> tuple[DeclaredAgent, bool]:
    """Store an agent for hosts to run.

    Returns:
        The agent as it is stored, and whether it is new.

    Raises:
        ExpressionError: an expression is refused. AgentExistsError: the name is taken by one that does something else.
        SettingsError: it closes a circle of agents, there are too many, or its streams lie in two slots of a Cluster.
    """
    if connection.is_cluster and slot_of(agent.stream) != slot_of(agent.output_stream):
        raise SettingsError(
            "On a Redis Cluster an output commits together with its acknowledgement in one slot only. Take an "
            f"output_stream with the stream's tag, e.g. {tagged(agent.stream) + ':' + agent.output_stream!r}."
        )
    async with Evaluator() as evaluator:
        await Expressions(agent, evaluator).check()
    known = await declared_agents(connection)
    if agent.name not in known:
        if len(known) >= MOST_AGENTS:
            raise SettingsError(f"There are {len(known)} declared agents; at most {MOST_AGENTS} are kept. Delete some.")
        _refuse_circle(agent, known.values())
        if await connection.command("HSETNX", KEY, agent.name, json.dumps(asdict(agent))):
            return agent, True
        known = await declared_agents(connection)
    standing = known.get(agent.name)
    if standing is None or standing.work != agent.work:
        raise AgentExistsError(
            f"There is a declared agent {agent.name!r} that does something else. Delete it first, or take another name."
        )
    return standing, False


async def undeclare(connection: RedisConnection, name: str) -> bool:
    """Delete a declared agent with its group; whether there was one. Its output and dead letters stay."""
    agent = (await declared_agents(connection)).get(name)
    if not await connection.command("HDEL", KEY, name):
        return False
    await connection.command("HDEL", PAUSED, name)
    with anyio.move_on_after(STOPPED_WAIT):
        # A host that still reads would make the group again.
        while await is_leased(connection, LEASE_KEY + name):  # noqa: ASYNC110 - in Redis
            await anyio.sleep(0.05)
    if agent is not None:
        await _forget_group(connection, agent)
    return True


async def _forget_group(connection: RedisConnection, agent: DeclaredAgent) -> None:
    keys = Companions(agent.stream, agent.group)
    for key in (keys.retry, keys.delayed, keys.mark):
        await connection.command("DEL", key, repeatable=True)
    try:
        await require_stream(connection, agent.stream)
    except StreamMachineError:
        return
    await connection.command("XGROUP", "DESTROY", agent.stream, agent.group, repeatable=True)


def not_found(name: str, names: Iterable[str]) -> AgentNotFoundError:
    """The error for a missing agent, with the nearest names."""
    return AgentNotFoundError(f"There is no agent {name!r}.{nearest(name, list(names))}")


def _refuse_circle(agent: DeclaredAgent, others: Iterable[DeclaredAgent]) -> None:
    leads = {agent.stream: {agent.output_stream}}
    for other in others:
        leads.setdefault(other.stream, set()).add(other.output_stream)
    seen: set[str] = set()
    waiting = [agent.output_stream]
    while waiting:
        stream = waiting.pop()
        if stream == agent.stream:
            raise SettingsError(
                f"The agent would close a circle: what it sends to {agent.output_stream!r} comes back to "
                f"{agent.stream!r} through other declared agents, for ever."
            )
        if stream not in seen:
            seen.add(stream)
            waiting += leads.get(stream, ())


def _fields(message: Message) -> dict[bytes, bytes]:
    return {name: value for name, value in (message.data or {}).items() if not name.startswith(b"sm-")}
