"""``streammachine dashboard``: the dashboard of what stands in Redis, in a process of its own."""

from __future__ import annotations

import anyio

from streammachine.errors import SettingsError, single
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.processes.signals import has_uvloop, watch_signals
from streammachine.settings import Settings

GRACE = 2.0  # seconds for answers under way, when it ends


def run_dashboard(host: str, port: int, every: float) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        SettingsError: the port is taken.
    """
    settings = Settings()
    try:
        anyio.run(_serve, settings, host, port, every, backend_options={"use_uvloop": has_uvloop()})
    except BaseExceptionGroup as group:
        error = single(group)
        if isinstance(error, OSError):
            raise SettingsError(f"{error} Another program may be there; give another --port.") from None
        raise error from None
    return 0


async def _serve(settings: Settings, host: str, port: int, every: float) -> None:
    from streammachine.dashboard.serving import serve_alone

    async with RedisConnection(settings=settings) as connection, anyio.create_task_group() as tasks:
        await tasks.start(watch_signals, tasks.cancel_scope.cancel, GRACE, False)
        await serve_alone(connection, host, port, every, settings)
