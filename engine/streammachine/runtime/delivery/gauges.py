"""Lag, pending and retries of a group, counted in Redis."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from streammachine.errors import StreamMachineError
from streammachine.redis.streams import describe, lags

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection


async def group_gauges(connection: RedisConnection, stream: str, group: str) -> dict[str, float]:
    """What Redis knows of a group.

    Returns:
        ``pending`` and ``lag`` in entries, and where something is pending ``oldest_pending_seconds``, taken from the
        entry's id. A lag that the server does not know is counted, up to LAG_LOOK. Empty when it cannot be asked.
    """
    try:
        info = await describe(connection, stream)
        found = next((found for found in info.groups if found.name == group), None)
        if found is None:
            return {}
        gauges: dict[str, float] = {"pending": found.pending}
        gauges["lag"] = (await lags(connection, stream, [found]))[group]
        summary = await connection.command("XPENDING", stream, group, repeatable=True)
    except StreamMachineError:
        return {}
    if int(summary[0]):
        oldest = int(bytes(summary[1]).decode().partition("-")[0])
        gauges["oldest_pending_seconds"] = max(0.0, time.time() - oldest / 1000)
    return gauges
