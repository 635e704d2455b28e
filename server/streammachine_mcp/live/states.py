"""States that no stream tells, put into streams: how far agents are behind, and what runners do.

One server of those on a Redis looks once a second, while anybody asks for such events, and writes what changed. What it
saw last stands beside the stream and changes in the same step, so that a change is written once, whoever looks.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import anyio

from streammachine.errors import StreamMachineError
from streammachine.redis.lease import Lease
from streammachine.redis.scripts import LuaScript
from streammachine.runtime.admin.remembered import RUNNERS, SILENT

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

log = logging.getLogger(__name__)

LAG_STREAM = "{sm:events}:agent.lag"
RUNNER_STREAM = "{sm:events}:runner.state"
_ASKED = "{sm:events}:asked"  # until when somebody asks for these events
_LEASE = "{sm:events}:lease"
ASKED_FOR = 86_400  # seconds that it goes on after the last question, for those who come back with a cursor
LOOK_PERIOD = 1.0  # seconds between two looks
IDLE_PERIOD = 5.0  # seconds between two looks whether anybody asks
LEASE = 6.0
KEPT = 10_000  # changes that a stream keeps
# Write what changed of one thing. KEYS[1] the stream, KEYS[2] the hash of what was seen last. ARGV[1] the thing,
# ARGV[2] what is seen now ("" for a thing that is gone), ARGV[3] how many entries stay, then fields. The entry's field
# "previous" is what was seen before, the first time ARGV[4]. Nothing is written where nothing changed, nor the first
# time where that is "".
# Invariant: the hash holds what the stream's last entry about the thing says.
_CHANGED = LuaScript(
    """
local seen = redis.call('HGET', KEYS[2], ARGV[1])
if (seen or '') == ARGV[2] then return 0 end
if ARGV[2] == '' then redis.call('HDEL', KEYS[2], ARGV[1]) else redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end
if not seen and ARGV[4] == '' then return 0 end
local call = {'XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'previous', seen or ARGV[4]}
for at = 5, #ARGV do call[#call + 1] = ARGV[at] end
redis.call(unpack(call))
return 1
""",
    keys=("stream", "seen"),
    args=("thing", "now", "kept", "first", "*fields"),
)


def lag_step(lag: int) -> int:
    """The next number from ``lag`` on of 1, 2, 5, 10, 20, 50 and so on."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if lag <= factor * step:
                return factor * step
        step *= 10


def lag_bucket(lag: int) -> int:
    """The last number up to ``lag`` of 0, 1, 2, 5, 10 and so on."""
    found = 0
    step = 1
    while step <= lag:
        for factor in (1, 2, 5):
            if factor * step <= lag:
                found = factor * step
        step *= 10
    return found


async def ask(connection: RedisConnection) -> None:
    """Have changes written from now on."""
    await connection.command("SET", _ASKED, "1", "EX", ASKED_FOR, repeatable=True)


class StateWriter:
    """Writes the changes, where no other server does.

    Args:
        opened: gives the open connection, or None, and opens none.
    """

    def __init__(self, opened: Callable[[], RedisConnection | None]) -> None:
        self._opened = opened
        self._token = uuid.uuid4().hex
        self._wanted = anyio.Event()

    def ask(self) -> None:
        """Look now: somebody has just asked."""
        self._wanted.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            connection = self._opened()
            try:
                wait = await self._look(connection) if connection is not None else IDLE_PERIOD
            except StreamMachineError as error:
                log.debug("Looking for states: %s", error)
                wait = IDLE_PERIOD
            except Exception:
                log.exception("Looking for states failed")
                wait = IDLE_PERIOD
            with anyio.move_on_after(wait):
                await self._wanted.wait()
            self._wanted = anyio.Event()

    async def _look(self, connection: RedisConnection) -> float:
        """Write what changed; gives the seconds until the next look."""
        if not await connection.command("EXISTS", _ASKED, repeatable=True):
            return IDLE_PERIOD
        lease = Lease(connection, _LEASE, self._token, LEASE)
        if await lease.renew() or await lease.take():
            await _write_runners(connection)
            await _write_lags(connection)
        return LOOK_PERIOD


async def _write_runners(connection: RedisConnection) -> None:
    known = await RUNNERS.all(connection)
    statuses = await RUNNERS.statuses(connection)
    states: dict[str, tuple[str, str]] = {}
    for name in known:
        status = statuses.get(name, {})
        state = "lost" if status.get("silent_s", 0.0) > SILENT else str(status.get("state", "waiting"))
        states[name] = state, str(status.get("problem", ""))
    seen, begun = await _seen(connection, RUNNER_STREAM)
    for name in seen:
        states.setdefault(name, ("", ""))
    for name, (state, problem) in states.items():
        fields = {"name": name, "state": state or "ended", "problem": problem[:500]}
        await _write(connection, RUNNER_STREAM, name, state, "none" if begun else "", fields)
    await _begin(connection, RUNNER_STREAM)


async def _write_lags(connection: RedisConnection) -> None:
    from streammachine.redis import streams
    from streammachine.runtime.admin.agents import list_agents

    known, begun = await _seen(connection, LAG_STREAM)
    gone = set(known)
    for entry in await list_agents(connection):
        for stream, group in entry.streams.items():
            try:
                info = await streams.describe(connection, stream)
            except StreamMachineError:
                continue
            groups = [each for each in info.groups if each.name == group]
            lag = (await streams.lags(connection, stream, groups)).get(group, 0) if groups else 0
            thing = f"{entry.name} {stream} {group}"
            gone.discard(thing)
            fields = {"name": entry.name, "stream": stream, "group": group, "lag": str(lag)}
            await _write(connection, LAG_STREAM, thing, str(lag_bucket(lag)), "0" if begun else "", fields)
    await _begin(connection, LAG_STREAM)
    for thing in gone:
        await connection.command("HDEL", f"{LAG_STREAM}:seen", thing, repeatable=True)


async def _seen(connection: RedisConnection, stream: str) -> tuple[list[str], bool]:
    """What was seen last, by name, and whether there was a first look, which finds everything new."""
    names = [bytes(name).decode() for name in await connection.command("HKEYS", f"{stream}:seen", repeatable=True)]
    return [name for name in names if name], "" in names


async def _begin(connection: RedisConnection, stream: str) -> None:
    await connection.command("HSETNX", f"{stream}:seen", "", "1", repeatable=True)


async def _write(
    connection: RedisConnection, stream: str, thing: str, now: str, first: str, fields: Mapping[str, str]
) -> None:
    flat = [part for pair in fields.items() for part in pair]
    await _CHANGED(
        connection, stream=stream, seen=f"{stream}:seen", thing=thing, now=now, kept=KEPT, first=first, fields=flat
    )
