"""Messages that ccxt's own code fails on: told, and left out, where they would end its receive loop.

ccxt 4.5 parses a message in a callback of the event loop. What its JSON parser or its ``handle_message`` raises there
goes to nobody: the loop of that connection is not started again, and its watch methods wait for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

_MARK: Final = "streammachine_guard"


class UnreadableError(ValueError):
    """ccxt could not read what an exchange sent; the text says what was wrong with it."""


Tell = Callable[[Exception, str | bytes], bool]


def guard(exchange: Any, tell: Tell) -> None:
    """Have an exchange object's connections go on after a message that cannot be read.

    Args:
        exchange: of ccxt, before its first watch method is called. tell: is given the error and the message; True: the
            connection is given up, its watch methods fail, and the next one connects anew.
    """
    make = exchange.client

    def guarded(url: str) -> Any:
        client = make(url)
        if not hasattr(client, _MARK):
            setattr(client, _MARK, True)
            client.handle_message = _handler(client, tell)
        return client

    exchange.client = guarded


def _handler(client: Any, tell: Tell) -> Callable[[Any], None]:
    handle = client.handle_message
    answers: set[asyncio.Task[None]] = set()  # else nobody holds them

    def handle_message(message: Any) -> None:
        try:
            if getattr(message.type, "name", "") == "PING":
                task = asyncio.ensure_future(_pong(client.connection, message.data))
                answers.add(task)
                task.add_done_callback(answers.discard)
                return
            handle(message)
        except Exception as error:  # noqa: BLE001 - of code that is not ours, and told
            data = getattr(message, "data", b"")
            if tell(error, data if isinstance(data, str | bytes) else str(data)):
                client.on_error(UnreadableError(what(error)))

    return handle_message


async def _pong(connection: Any, data: bytes) -> None:
    """Answer a ping, as ccxt does; a connection that is gone by now is told by its end, and not in a task of ccxt's
    whose error nobody takes."""
    with contextlib.suppress(OSError, RuntimeError):
        await connection.pong(data)


def what(error: BaseException) -> str:
    """The kind and the text of an error, in one line: of a KeyError the text alone is only a name."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
