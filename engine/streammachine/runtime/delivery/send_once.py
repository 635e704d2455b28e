"""Sends that must happen once: a deduplication key beside the stream."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING

from streammachine.errors import FieldError
from streammachine.redis.scripts import MAY, LuaScript
from streammachine.runtime.delivery.keys import dedup_key
from streammachine.runtime.model.checks import above_zero

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

_SEND_ONCE = LuaScript(
    MAY + files(__package__).joinpath("lua", "send_once.lua").read_text(),
    keys=("stream", "dedup"),
    args=("window_ms", "maxlen", "*fields"),
)


async def send_once(
    connection: RedisConnection, stream: str, fields: Mapping[bytes, bytes], key: str, window_ms: int, maxlen: int
) -> str:
    """Append the fields unless a send with this key came within the window.

    Args:
        fields: as they are written. key: the deduplication key. window_ms: how long it is remembered.
        maxlen: keep about so many entries of the stream (0: all).

    Returns:
        The id ("ms-seq") of the entry that stands: this one, or the first with the key.
    """
    flat = [part for pair in fields.items() for part in pair]
    # Safe to repeat: the second run finds the key.
    reply = await _SEND_ONCE(
        connection,
        stream=stream,
        dedup=dedup_key(stream, key),
        window_ms=window_ms,
        maxlen=maxlen,
        fields=flat,
        repeatable=True,
    )
    return bytes(reply[1]).decode()


def checked_stream(stream: str) -> None:
    """Refuse what names no stream.

    Raises:
        FieldError: it is no text, or empty.
    """
    if not isinstance(stream, (str, bytes)) or not stream:
        raise FieldError(
            f"A record is sent to a stream by its name, which is a text that is not empty, not {stream!r}."
        )


def dedup_life(seconds: float) -> int:
    """A dedup window in milliseconds.

    Raises:
        SettingsError: it is no number of seconds above 0.
    """
    above_zero("dedup_window", seconds)
    return max(1, int(seconds * 1000))
