"""Where the runners and backfills of a model may emit to: Redis, files below the data directory, and the databases that
the user named in the environment. A model gives neither a path nor a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streammachine.errors import EmitterError

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.settings import Settings

POSTGRES_URL, KAFKA_SERVERS = "STREAMMACHINE_POSTGRES_URL", "STREAMMACHINE_KAFKA_SERVERS"
ACCEPTED = "redis, csv:NAME, parquet:NAME, postgres:TABLE or kafka:TOPIC"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def exports(settings: Settings) -> Path:
    """The folder that csv: and parquet: sinks write below."""
    from streammachine.redis.embedded.server import default_data_dir

    return (settings.data_dir or default_data_dir()) / "exports"


def check(texts: Sequence[str]) -> list[str]:
    """The sinks, if all can be used here.

    Raises:
        EmitterError: one is unknown, has no or a wrong name, or needs a variable that is not set.
    """
    if not texts:
        raise EmitterError(f"emit is empty: give some of {ACCEPTED}")
    for text in texts:
        kind, _, name = text.partition(":")
        if text == "redis":
            continue
        if kind not in ("csv", "parquet", "postgres", "kafka") or not _NAME.fullmatch(name):
            raise EmitterError(f"emit {text!r} is not accepted: give some of {ACCEPTED}; a NAME has no folders")
        needed = {"postgres": POSTGRES_URL, "kafka": KAFKA_SERVERS}.get(kind)
        if needed is not None and not os.environ.get(needed):
            raise EmitterError(f"emit {text!r} needs the variable {needed} in the server's environment")
        if kind == "kafka":
            from streammachine.market.emitters.kafka import refuse_login

            refuse_login(os.environ[KAFKA_SERVERS])
    return list(dict.fromkeys(texts))


def jobs(settings: Settings) -> Path:
    """The folder below which each backfill keeps its journals, in a folder of its own: they run side by side."""
    return exports(settings).parent / "jobs"


def emitter_for(text: str, settings: Settings, connection: RedisConnection, *, past: bool = False) -> Any:
    """The emitter that a checked text means. ``past``: for candles that may be older than those it holds."""
    kind, _, name = text.partition(":")
    if kind == "redis":
        from streammachine.market.emitters.redis import RedisEmitter

        return RedisEmitter(connection=connection, archive=past)
    import streammachine.market.emitters.sink_text as targets

    if kind in ("csv", "parquet"):
        folder = exports(settings)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        suffix = "" if Path(name).suffix or kind == "parquet" else ".csv"
        return targets.emitter_for(f"{kind}:{folder / (name + suffix)}")
    if kind == "postgres":
        return targets.postgres(os.environ[POSTGRES_URL], name)
    return targets.emitter_for(f"kafka:{os.environ[KAFKA_SERVERS]}/{name}")
