"""Sending on what alerts tell: into a stream once, to a webhook at least once.

What is to be sent stands in the outbox since the moment the alert fired, and leaves it when it has arrived, or after
``LONGEST_TRY``. A post carries the id of the firing as ``Idempotency-Key``, so that a receiver knows a repetition.
"""

from __future__ import annotations

import json
import logging
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from streammachine.errors import RedisCommandError, StreamMachineError, WrongTypeError
from streammachine.redis.stream_watch import id_parts
from streammachine.runtime.alerts.alert import OUTBOX, shown_webhook
from streammachine.runtime.delivery.send_once import send_once
from streammachine.runtime.model.headers import SENT

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

log = logging.getLogger(__name__)

LOOK_PERIOD = 1.0  # seconds between two looks at the outbox
ONCE = 86_400_000  # milliseconds in which a repeated send into a stream is recognised
POST_WAIT = 10.0  # seconds for one post
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0  # seconds between two tries
LONGEST_TRY = 3600.0  # seconds after which a post that never arrived is given up
AT_ONCE = 8  # posts under way


_posting: ContextVar[bool] = ContextVar("posting to a webhook", default=False)


class Deliveries:
    """Empties the outbox while its host holds the lease."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._under_way: set[str] = set()
        self._limit = anyio.Semaphore(AT_ONCE)
        self._wake = anyio.Event()

    def wake(self) -> None:
        """There is something in the outbox."""
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                try:
                    flat = await self._connection.command("HGETALL", OUTBOX, repeatable=True)
                except StreamMachineError as error:
                    log.warning("Reading what alerts tell: %s", error)
                    flat = []
                for identifier, text in zip(flat[::2], flat[1::2], strict=True):
                    name = bytes(identifier).decode()
                    if name not in self._under_way:
                        self._under_way.add(name)
                        tasks.start_soon(self._send, name, bytes(text))
                with anyio.move_on_after(LOOK_PERIOD):
                    await self._wake.wait()
                self._wake = anyio.Event()

    async def _send(self, identifier: str, text: bytes) -> None:
        try:
            try:
                await self._deliver(identifier, json.loads(text))
            except StreamMachineError as error:
                if not _is_old(identifier):
                    raise
                log.error("What an alert told (%s) is given up: %s", identifier, error)
            except Exception:  # of any kind: what cannot be sent holds nothing else up
                log.exception("What an alert told (%s) cannot be sent on", identifier)
            await self._connection.command("HDEL", OUTBOX, identifier, repeatable=True)
        except StreamMachineError as error:
            log.warning("Sending on what an alert told (%s): %s", identifier, error)
            await anyio.sleep(FIRST_PAUSE)
        finally:
            self._under_way.discard(identifier)

    async def _deliver(self, identifier: str, told: dict[str, Any]) -> None:
        fields: dict[str, str] = told["fields"]
        if stream := told.get("stream"):
            now = {SENT: str(time.time_ns() // 1_000_000).encode()}
            record = now | {name.encode(): value.encode() for name, value in fields.items()}
            key, maxlen = f"alert:{identifier}", self._connection.settings.stream_maxlen
            try:
                await send_once(self._connection, stream, record, key, ONCE, maxlen)
            except (WrongTypeError, RedisCommandError) as error:  # it stays in FIRED; the webhook is told all the same
                log.error("What the alert %s told cannot be sent into %r: %s", told["alert"], stream, error)
        if url := told.get("webhook"):
            await self._post_until_taken(url, identifier, {"id": identifier, "alert": told["alert"], "data": fields})

    async def _post_until_taken(self, url: str, identifier: str, body: dict[str, Any]) -> None:
        pause = FIRST_PAUSE
        while True:
            async with self._limit:
                said = await _post(url, identifier, body)
            if not said:
                return
            if _is_old(identifier):
                log.error("The webhook %s of the alert %s is given up: %s", shown_webhook(url), body["alert"], said)
                return
            log.warning("The webhook %s of the alert %s: %s", shown_webhook(url), body["alert"], said)
            await anyio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)


def _is_old(identifier: str) -> bool:
    return time.time() - id_parts(identifier)[0] / 1000 > LONGEST_TRY


def _is_loud(_: logging.LogRecord) -> bool:
    """A filter of httpx2's log, which names the URL of each request: a webhook's path is a secret."""
    return not _posting.get()


async def _post(url: str, identifier: str, body: dict[str, Any]) -> str:
    """Post once; gives what went wrong, "" where it was taken."""
    import httpx2

    logging.getLogger("httpx2").addFilter(_is_loud)  # once, however often
    _posting.set(True)  # of this task
    headers = {"Idempotency-Key": f'"{identifier}"', "User-Agent": "streammachine"}
    try:
        with anyio.fail_after(POST_WAIT):
            async with (
                httpx2.AsyncClient(timeout=POST_WAIT, follow_redirects=False) as client,
                client.stream("POST", url, json=body, headers=headers) as answer,  # its body is not read
            ):
                return "" if answer.is_success else f"it answers {answer.status_code}"
    except TimeoutError:
        return f"it did not answer within {POST_WAIT:g} s"
    except (httpx2.HTTPError, OSError) as error:
        return f"{type(error).__name__}: {error}"
