"""Any object that is driven as an emitter: whether it can be, how it is called, what its errors mean, who shares it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from streammachine.errors import EmitterError
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.model.rows import Lane


@dataclass(eq=False, slots=True)
class Sharing:
    """How many outlets have an emitter open (it may be registered with several runners), and whose turn it is."""

    users: int = 0
    lock: anyio.Lock = field(default_factory=lambda: anyio.Lock(fast_acquire=True))

    async def connect(self, emitter: Any, expected: Sequence[Lane]) -> None:
        """Count an outlet more; the first one connects the emitter. Each tells it what is going to come."""
        async with self.lock:
            self.users += 1
            if self.users == 1 and hasattr(emitter, "connect"):
                await awaited(emitter.connect())
            if expected and isinstance(emitter, DataEmitter):
                await emitter.expect(expected)

    async def close(self, emitter: Any) -> None:
        """Count an outlet less; the last one closes the emitter."""
        async with self.lock:
            self.users -= 1
            if self.users == 0 and hasattr(emitter, "close"):
                await awaited(emitter.close())


def sharing_of(emitter: object) -> Sharing:
    """The ``Sharing`` of a DataEmitter; any other object gets one of its own."""
    if not isinstance(emitter, DataEmitter):
        return Sharing()
    sharing = emitter._sharing
    if not isinstance(sharing, Sharing) or sharing.users == 0:
        emitter._sharing = sharing = Sharing()  # a new one for each loop
    return sharing


def check_emitter(emitter: object) -> None:
    """Raise EmitterError where the object cannot be driven as an emitter."""
    if isinstance(emitter, type):
        raise EmitterError(f"{emitter.__name__} is a class: register an instance, {emitter.__name__}(...)")
    if not callable(getattr(emitter, "emit", None)) and not callable(getattr(emitter, "emit_batch", None)):
        raise EmitterError(
            f"{type(emitter).__name__} is no emitter: it needs emit(row), and may have connect() and close()"
        )


def may_pass(error: BaseException) -> bool:
    """Whether trying again may help, as far as the error tells."""
    if isinstance(error, OSError):  # EmitterUnavailableError, ConnectionError and TimeoutError are OSErrors
        return True
    if isinstance(error, EmitterError):
        return False
    below = error.__cause__ or error.__context__  # HTTP clients wrap the socket's error in their own
    while below is not None and not isinstance(below, (ConnectionError, TimeoutError)):
        below = below.__cause__ or below.__context__
    return below is not None


def takes_batches(emitter: object) -> bool:
    """Whether ``emit_batch`` is to be called, and not ``emit`` for each row."""
    own = getattr(type(emitter), "emit_batch", None)
    return (own is not None and own is not DataEmitter.emit_batch) or not callable(getattr(emitter, "emit", None))


_BY_ROW = ("emit", "emit_batch", "wants", "transformed")


def takes_columns(emitter: object) -> bool:
    """Whether candles may be given to its ``emit_columns``: it has one, and what a subclass (or the object itself)
    changes of how rows are taken is not passed over by one that it inherited."""
    if not callable(getattr(emitter, "emit_columns", None)) or getattr(emitter, "transformer", None) is not None:
        return False
    if not getattr(emitter, "takes_columns", True):
        return False
    if any(name in getattr(emitter, "__dict__", ()) for name in _BY_ROW):
        return False
    for kind in type(emitter).__mro__:
        if "emit_columns" in vars(kind):
            return True
        if any(name in vars(kind) for name in _BY_ROW):
            return False
    return True


async def awaited(result: object) -> None:
    """Wait for what a method gave, if it is one of the async kind."""
    if inspect.isawaitable(result):
        waited: Awaitable[object] = result
        await waited


def error_text(error: BaseException) -> str:
    """An error in words: our own as it is, others with their class."""
    return str(error) if isinstance(error, EmitterError) else f"{type(error).__name__}: {error}"
