"""How a server is that answers: what it says of itself (INFO), and why it takes no writes where it takes none.

A PING says little: a replica answers it, and so does a server at its memory limit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from streammachine.errors import RedisDiskError, RedisPermissionError, RedisReadOnlyError, StreamMachineError
from streammachine.redis.connection import RedisConnection
from streammachine.redis.transport.raw_connection import disk_text, read_only_text

log = logging.getLogger(__name__)

_SECTIONS = ("replication", "persistence", "memory")
_FIELDS = frozenset(  # of INFO, that ``_told`` looks at
    {
        *("role", "slave_read_only", "master_host", "master_port", "master_link_status"),
        *("aof_enabled", "aof_last_write_status", "maxmemory", "used_memory", "maxmemory_policy"),
    }
)


@dataclass(frozen=True)
class Condition:
    """Whether the server answers, what is wrong with it ("" for nothing that it tells), and a PING's seconds."""

    connected: bool
    problem: str = ""
    latency: float = 0.0


async def condition_of(connection: RedisConnection) -> Condition:
    """Ask the server how it is; never raises for one that is away or refuses."""
    began = time.perf_counter()
    try:
        await connection.command("PING", repeatable=True)
        latency = time.perf_counter() - began
        return Condition(True, await _problem(connection), latency)
    except (RedisDiskError, RedisReadOnlyError, RedisPermissionError) as error:
        return Condition(True, str(error))
    except StreamMachineError as error:
        return Condition(False, str(error))


async def _problem(connection: RedisConnection) -> str:
    """What is wrong with the disk, else with the server; both are looked at at once."""
    embedded = connection.target.embedded if connection.target is not None else None
    if embedded is None:
        return await _refusal(connection)
    disk = asyncio.ensure_future(anyio.to_thread.run_sync(embedded.disk_problem))
    try:
        refusal = await _refusal(connection)
    except StreamMachineError:
        if found := await disk:
            return found
        raise
    except BaseException:
        disk.cancel()
        raise
    return await disk or refusal


async def _refusal(connection: RedisConnection) -> str:
    """Why one of the primaries takes no writes, as far as this user may ask; "" when all do."""
    try:
        for where, facts in (await connection.info(*_SECTIONS, names=_FIELDS)).items():
            if problem := _told(where, facts):
                return problem
    except RedisPermissionError as error:
        log.debug("%s", error)
        return await _refusal_by_role(connection)
    return ""


async def _refusal_by_role(connection: RedisConnection) -> str:
    """HELLO names the role too, and no ACL can take it away."""
    try:
        reply = await connection.command("HELLO", repeatable=True)
    except StreamMachineError as error:  # renamed, or a proxy without it
        log.debug("%s", error)
        return ""
    role = dict(zip(reply[::2], reply[1::2], strict=False)).get(b"role")
    return read_only_text(connection.name, "role replica") if role == b"replica" else ""


def _told(where: str, facts: Mapping[str, Any]) -> str:
    if facts.get("role") == "slave" and facts.get("slave_read_only", 1):
        link = (
            f"replica of {facts.get('master_host')}:{facts.get('master_port')}, link {facts.get('master_link_status')}"
        )
        return read_only_text(where, link)
    if facts.get("aof_enabled") and facts.get("aof_last_write_status") == "err":
        return disk_text(where, "its last write to the append-only file failed")
    limit, used = int(facts.get("maxmemory", 0)), int(facts.get("used_memory", 0))
    if 0 < limit < used and facts.get("maxmemory_policy") == "noeviction":
        return (
            f"Redis is at its memory limit ({used:,} of {limit:,} bytes) and refuses writes. "
            "Trim or delete streams, or raise its maxmemory."
        )
    return ""
