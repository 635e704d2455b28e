"""WebhookEmitter: rows as JSON to an HTTP endpoint, in batches, one request at a time.

A request is a POST of ``{"rows": [...]}`` with the header ``Idempotency-Key`` (as in the IETF's draft
draft-ietf-httpapi-idempotency-key-header): the same rows have the same key however often they are sent, so that a
receiver can leave out what it has. Each row is sent at least once, and the rows of a series in their order.

What an answer means: 2xx, taken. 400, 413 and 422, something in the rows: the request is halved until those that are
refused stand alone. Everything else (no answer, 401, 404, 429, 5xx, a redirect to elsewhere) may be mended at the other
end: the rows wait and come again, after the pause that ``Retry-After`` asks for (RFC 9110, 10.2.3).
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import ipaddress
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import anyio
import orjson

from streammachine.errors import EmitterError, EmitterUnavailableError, ExchangeError, text_of
from streammachine.market.emitters.base import DataEmitter, RowsRefusedError, Transformer, values_of
from streammachine.market.emitters.sink_text import SinkText
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Row, named
from streammachine.market.network import proxies

if TYPE_CHECKING:
    import httpx2

Body = Callable[[list[dict[str, Any]]], Any]

MOST_BODY: Final = 1 << 20  # bytes of one request, by default
MOST_ANSWER: Final = 1 << 16  # bytes of an answer that are read; what is more ends the connection
LONGEST_PAUSE: Final = 3600.0  # seconds of a Retry-After that are waited at once
MOST_REDIRECTS: Final = 3
MOST_PLANS: Final = 16  # batches under way: one for each runner that shares the emitter
OF_THE_ROWS: Final = (400, 413, 422)
FORMS: Final = "webhook:https://host/path, or webhook:http://127.0.0.1:port/path"


class WebhookEmitter(DataEmitter):
    """Posts rows to a URL.

    Args:
        url: https://..., or http:// on this machine. A user and password in it are sent as basic authentication.
        headers: more of them, for instance ``{"Authorization": "Bearer ..."}``. They are never shown.
        body: makes what is sent (anything that JSON can hold) of a list of rows as dicts; by default
            ``{"rows": rows}``, where each row has its ``type``: kline, trade, quote or gap.
        batch_size: most rows of a request. max_body: most bytes of one.
        timeout: seconds for a request and its answer.
        allow_insecure: take http:// to other machines too: whoever stands between reads and changes what is sent.

    Raises:
        EmitterError: an argument is not accepted.

    Example:
        >>> runner.register_emitter(WebhookEmitter("https://example.com/candles", headers={"X-Token": token}))
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        batch_size: int = 100,
        max_body: int = MOST_BODY,
        timeout: float = 10.0,
        allow_insecure: bool = False,
        name: str = "",
        transformer: Transformer | None = None,
    ) -> None:
        self._url, login = _checked_url(url, allow_insecure)
        if type(batch_size) is not int or batch_size < 1:
            raise EmitterError(f"batch_size={batch_size!r} is not accepted: give a whole number from 1 up")
        if type(max_body) is not int or max_body < 1024:
            raise EmitterError(f"max_body={max_body!r} is not accepted: give bytes from 1024 up")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < 1e6:
            raise EmitterError(f"timeout={timeout!r} is not accepted: give seconds above 0")
        if body is not None and not callable(body):
            raise EmitterError(f"body={body!r} is no function: give one of a list of dicts")
        self._headers = {**login, **_checked_headers(headers or {})}
        self._body = body
        self._origin = _origin(self._url)
        self.batch_size = batch_size
        self.max_body = max_body
        self.timeout = timeout
        self.transformer = transformer
        self.name = name or f"webhook {self._origin}"
        self._transport: httpx2.AsyncHTTPTransport | None = None
        self._not_before = 0.0  # time.monotonic() that the receiver asked us to wait for
        self._plans: dict[tuple[tuple[int, int], ...], _Plan] = {}

    @property
    def target(self) -> str:
        """Where the rows go, told apart without showing a path, which may be a secret."""
        return f"webhook:{self._origin}#{hashlib.sha256(self._url.encode()).hexdigest()[:12]}"

    async def connect(self) -> None:
        """Make the client; nothing is sent before there are rows."""
        if self._transport is None:
            self._transport = self._made_transport()

    async def emit(self, row: Any) -> None:
        """Send one row, and wait until it is taken."""
        await self.emit_batch([row])

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Send the rows in their order, and wait until all are taken."""
        key = _identity(rows)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(rows)
            while len(self._plans) >= MOST_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = plan
        while plan.pieces:  # what is done with stays so when the rows come again
            await self._send(plan)
        del self._plans[key]
        if plan.refused:
            raise RowsRefusedError(plan.refused)

    async def close(self) -> None:
        """Give the connections back."""
        self._plans.clear()
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    # -- requests -----------------------------------------------------------------------------

    def _plan(self, rows: Sequence[Row]) -> _Plan:
        plan = _Plan(tuple(rows))
        piece: list[_Item] = []
        size = 0
        for at, row in enumerate(rows):
            made = row if isinstance(row, Mapping) else self.transformed(row)
            if made is None:
                continue
            try:
                item = _item(at, row, made)
            except EmitterError as error:
                plan.refused[at] = error
                continue
            if piece and size + item.size > self.max_body - 100:
                plan.pieces.append(piece)
                piece, size = [], 0
            piece.append(item)
            size += item.size
        if piece:
            plan.pieces.append(piece)
        return plan

    async def _send(self, plan: _Plan) -> None:
        piece = plan.pieces[0]
        try:
            content = self._content(piece)
            status = await self._post(content, _key_of(piece, content))
        except _Refused as error:
            status, said = error.status, str(error)
        else:
            said = f"{self.name} refuses it with status {status}"
        if status in OF_THE_ROWS:
            plan.pieces.popleft()
            if len(piece) > 1:
                half = len(piece) // 2
                plan.pieces.extendleft((piece[half:], piece[:half]))
            else:
                plan.refused[piece[0].at] = EmitterError(said)
            return
        plan.pieces.popleft()

    def _content(self, piece: Sequence[_Item]) -> bytes:
        values = [item.values for item in piece]
        try:
            content = orjson.dumps({"rows": values} if self._body is None else self._body(values), default=str)
        except Exception as error:
            raise _Refused(422, f"its body cannot be made: {type(error).__name__}: {text_of(error)}") from error
        if len(content) > self.max_body:
            raise _Refused(413, f"it makes a request of {len(content):,} bytes, above max_body={self.max_body:,}")
        return content

    async def _post(self, content: bytes, key: str) -> int:
        """Send one request; the status, where it says that rows were taken, or that it is they who are refused.

        Raises:
            EmitterUnavailableError: anything else; the same again may be taken later.
        """
        import httpx2

        if self._transport is None:
            self._transport = self._made_transport()
        if (pause := self._not_before - time.monotonic()) > 0:
            await anyio.sleep(pause)
        url = self._url
        for _ in range(MOST_REDIRECTS + 1):
            try:
                with anyio.fail_after(self.timeout):
                    status, headers = await self._exchange(url, content, key)
            except TimeoutError:
                raise EmitterUnavailableError(f"{self.name} did not answer within {self.timeout:g} s") from None
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
                said = text_of(error) or type(error).__name__
                raise EmitterUnavailableError(f"{self.name} cannot be reached: {said}") from error
            if 200 <= status < 300 or status in OF_THE_ROWS:
                return status
            if status not in (307, 308):
                break
            url = self._redirected(url, headers.get("location", ""))
        self._not_before = time.monotonic() + _retry_after(headers.get("retry-after", ""))
        raise EmitterUnavailableError(f"{self.name} answers with status {status}{_MEANING.get(status, '')}")

    async def _exchange(self, url: str, content: bytes, key: str) -> tuple[int, Mapping[str, str]]:
        """One request on the wire. The client of httpx would log the URL, which may be a secret."""
        import httpx2

        assert self._transport is not None
        request = httpx2.Request(
            "POST",
            url,
            headers={
                "User-Agent": "streammachine",
                "Content-Type": "application/json",
                **self._headers,
                "Idempotency-Key": f'"{key}"',
            },
            content=content,
        )
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), self.timeout)
        response = await self._transport.handle_async_request(request)
        try:
            read = 0
            async for chunk in response.stream:  # type: ignore[union-attr]
                read += len(chunk)
                if read > MOST_ANSWER:
                    break
        finally:
            await response.aclose()
        return response.status_code, response.headers

    def _redirected(self, url: str, location: str) -> str:
        """The place in the same origin that a redirect names; elsewhere the rows and the login are not sent."""
        import httpx2

        try:
            there = str(httpx2.URL(url).join(location))
        except (httpx2.InvalidURL, ValueError):
            there = ""
        if not location or _origin(there) != self._origin:
            raise EmitterUnavailableError(
                f"{self.name} redirects to {_origin(there) or 'nowhere'}, which is not followed: give the URL of there"
            )
        return there

    def _made_transport(self) -> httpx2.AsyncHTTPTransport:
        import httpx2

        proxy = proxies.http_proxy(self._url)
        try:
            return httpx2.AsyncHTTPTransport(
                limits=httpx2.Limits(max_connections=2, max_keepalive_connections=1), proxy=proxy
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            try:
                raise proxies.unusable(error) from error
            except ExchangeError as unusable:
                raise EmitterError(str(unusable)) from error


_MEANING: Final = {
    401: ": it wants a login; give it in headers=",
    403: ": it refuses our login",
    404: ": there is nothing at this path; correct the URL",
    405: ": it takes no POST there; correct the URL",
    410: ": it is gone for good; correct the URL",
    429: ": we are to slow down",
} | dict.fromkeys((300, 301, 302, 303, 305, 307, 308), ", a redirect that is not followed: give the URL of there")


class _Refused(Exception):  # noqa: N818
    """What we do not send: as if the receiver had refused it with this status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Item:
    """A row of a batch as it is sent."""

    at: int
    row: Any
    values: dict[str, Any]
    digest: bytes  # of the row before any transformer: two rows that look the same afterwards are still two
    size: int


@dataclass(slots=True)
class _Plan:
    """A batch in requests. It is kept until all are taken, so that the same rows come with the same keys again."""

    rows: tuple[Any, ...]
    pieces: deque[list[_Item]] = field(default_factory=deque)
    refused: dict[int, Exception] = field(default_factory=dict)


def _item(at: int, row: Any, made: Any) -> _Item:
    values = dict(values_of(made))
    values.pop("fills", None)
    if made is row:
        kinds = {Kline: "kline", Trade: "trade", Quote: "quote", Gap: "gap"}
        values = {"type": kinds.get(type(row), type(row).__name__.lower()), **values}
    try:
        size = len(orjson.dumps(values, default=str)) + 1
        digest = hashlib.sha256(orjson.dumps(dict(values_of(row)), default=str)).digest()
    except (TypeError, ValueError) as error:
        raise EmitterError(f"{named(row)} cannot be serialized: {error}") from error
    return _Item(at, row, values, digest, size)


def _key_of(piece: Sequence[_Item], content: bytes) -> str:
    """The same for the same rows, in whatever process."""
    made = hashlib.sha256(content)
    for item in piece:
        made.update(item.digest)
    return made.hexdigest()[:40]


def _identity(rows: Sequence[Row]) -> tuple[tuple[int, int], ...]:
    """What tells one batch from another (the same object may stand in it twice)."""
    seen: Counter[int] = Counter()
    keys = []
    for row in rows:
        keys.append((id(row), seen[id(row)]))
        seen[id(row)] += 1
    return tuple(keys)


def _retry_after(text: str) -> float:
    """Seconds that the header asks for: a number of them, or a date; 0 where it says nothing we understand."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return min(float(text), LONGEST_PAUSE)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return 0.0
    return min(max(moment.timestamp() - time.time(), 0.0), LONGEST_PAUSE)


def _checked_url(url: object, allow_insecure: bool) -> tuple[str, dict[str, str]]:
    """The URL without its login, and the header that is made of that."""
    if not isinstance(url, str) or any(sign.isspace() or not sign.isprintable() for sign in url):
        raise EmitterError(f"the webhook's URL is not accepted: write {FORMS}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise EmitterError(f"the webhook's URL is not accepted: write {FORMS}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise EmitterError(f"the webhook's URL is not accepted: write {FORMS}")
    if parts.scheme == "http" and not allow_insecure and not _is_this_machine(host):
        raise EmitterError(
            f"the webhook's URL sends rows to {host} in the clear: write https://, or give allow_insecure=True"
        )
    login = {}
    if "@" in parts.netloc:
        secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
        login["Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
    shown = f"[{host}]" if ":" in host else host
    place = shown if port is None else f"{shown}:{port}"
    return parts._replace(netloc=place, fragment="").geturl(), login


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        plain = isinstance(name, str) and isinstance(value, str) and name and (name + value).isascii()
        if not plain or any(sign in name + value for sign in "\r\n\0") or not name.replace("-", "").isalnum():
            raise EmitterError(f"the header {name!r} is not accepted: give names and values as plain text in one line")
    return dict(headers)


def _origin(url: str) -> str:
    """Scheme, host and port; empty where it has none that can be."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a redirect says anything
        return ""
    if not parts.scheme or not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + ("" if port in (None, usual) else f":{port}")


# -- the sink's text forms ------------------------------------------------------------------------


def from_text(text: SinkText) -> WebhookEmitter:
    """The emitter that ``webhook:URL`` means.

    Raises:
        EmitterError: it is no URL that is accepted.
    """
    if not text.rest.startswith(("http://", "https://")):
        raise text.refused(FORMS)
    return WebhookEmitter(text.rest)


def check_server(url: str) -> None:
    """Raise EmitterError where the URL is not accepted."""
    _checked_url(url, False)


def from_server(url: str, name: str) -> WebhookEmitter:
    """The emitter for a path below this URL."""
    parts = urlsplit(url)
    return WebhookEmitter(parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl())
