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
from streammachine.market.emitters.registry import ENTRIES, hosted_forms

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.settings import Settings

ACCEPTED = " or ".join([", ".join(hosted_forms()[:-1]), hosted_forms()[-1]])
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def exports(settings: Settings) -> Path:
    """The folder that csv:, parquet: and duckdb: sinks write below."""
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
        kind, colon, name = text.partition(":")
        entry = ENTRIES.get(kind)
        if entry is not None and entry.hosting == "connection" and not colon:
            continue
        parts = name.split("#", 1) if entry is not None and entry.hosted_table else [name]
        is_name = all(_NAME.fullmatch(part) for part in parts)
        if entry is None or entry.hosting not in ("file", "variable") or not is_name:
            raise EmitterError(f"emit {text!r} is not accepted: give some of {ACCEPTED}; a NAME has no folders")
        if entry.hosting == "variable":
            from streammachine.market.emitters.sink_text import module_of

            server = os.environ.get(entry.variable)
            if not server:
                raise EmitterError(f"emit {text!r} needs the variable {entry.variable} in the server's environment")
            module_of(entry).check_server(server)
    return list(dict.fromkeys(texts))


def jobs(settings: Settings) -> Path:
    """The folder below which each backfill keeps its journals, in a folder of its own: they run side by side."""
    return exports(settings).parent / "jobs"


def emitter_for(text: str, settings: Settings, connection: RedisConnection, *, past: bool = False) -> Any:
    """The emitter that a checked text means. ``past``: for candles that may be older than those it holds."""
    from streammachine.market.emitters import sink_text

    kind, _, name = text.partition(":")
    entry = ENTRIES[kind]
    if entry.hosting == "connection":
        return sink_text.module_of(entry).from_connection(connection, archive=past)
    if entry.hosting == "variable":
        return sink_text.module_of(entry).from_server(os.environ[entry.variable], name)
    folder = exports(settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name, hash_, table = name.partition("#")
    suffix = "" if Path(name).suffix else entry.suffix
    return sink_text.emitter_for(f"{kind}:{folder / (name + suffix)}{hash_}{table}")
