"""Sending on what alerts tell: into a stream once, to a webhook at least once.

What is to be sent stands in the outbox since the moment the alert fired, and leaves it when it has arrived, or after
``LONGEST_TRY``. A post carries the id of the firing as ``Idempotency-Key``, so that a receiver knows a repetition.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from streammachine.errors import RedisCommandError, SettingsError, StreamMachineError, WrongTypeError
from streammachine.redis.stream_watch import id_parts
from streammachine.runtime.alerts.alert import OUTBOX, shown_webhook, targets_of
from streammachine.runtime.alerts.targets import checked_addresses
from streammachine.runtime.delivery.send_once import send_once
from streammachine.runtime.model.headers import SENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx2

    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.alerts.targets import WebhookTargets

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
            body = {"id": identifier, "alert": told["alert"], "data": fields}
            await self._post_until_taken(url, identifier, body, told.get("reach", ""))

    async def _post_until_taken(self, url: str, identifier: str, body: dict[str, Any], reach: str) -> None:
        pause = FIRST_PAUSE
        targets = targets_of(reach, self._connection.settings.alert_webhooks)
        while True:
            async with self._limit:
                try:
                    said = await _post(url, identifier, body, targets)
                except SettingsError as error:  # no time makes it allowed
                    log.error("The webhook %s of the alert %s: %s", shown_webhook(url), body["alert"], error)
                    return
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


async def _post(url: str, identifier: str, body: dict[str, Any], targets: Sequence[WebhookTargets] = ()) -> str:
    """Post once, to no host but those that all targets allow; gives what went wrong, "" where it was taken.

    An answer that points elsewhere is one that did not take it.

    Raises:
        SettingsError: the host is none of them.
    """
    import httpx2

    logging.getLogger("httpx2").addFilter(_is_loud)  # once, however often
    _posting.set(True)  # of this task
    headers = {"Idempotency-Key": f'"{identifier}"', "User-Agent": "streammachine"}
    try:
        with anyio.fail_after(POST_WAIT):
            addresses = await checked_addresses(url, targets)
            async with httpx2.AsyncClient(timeout=POST_WAIT, follow_redirects=False) as client:
                for address in addresses[:-1]:
                    with contextlib.suppress(httpx2.ConnectError):
                        return await _posted(client, url, headers, body, address)
                return await _posted(client, url, headers, body, addresses[-1] if addresses else "")
    except TimeoutError:
        return f"it did not answer within {POST_WAIT:g} s"
    except (httpx2.HTTPError, OSError, UnicodeError) as error:
        return f"{type(error).__name__}: {error}"


async def _posted(
    client: httpx2.AsyncClient, url: str, headers: Mapping[str, str], body: dict[str, Any], address: str
) -> str:
    """Post to this very address, whatever the name stands for by now; Host and TLS have the name. "": by the name."""
    to = client.build_request("POST", url, json=body, headers=headers)
    if address:
        to.extensions["sni_hostname"] = to.url.raw_host.decode("ascii").rstrip(".")
        to.url = to.url.copy_with(host=address)
    answer = await client.send(to, stream=True)  # its body is not read
    await answer.aclose()
    return "" if answer.is_success else f"it answers {answer.status_code}"
