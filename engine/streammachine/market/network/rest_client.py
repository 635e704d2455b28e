"""REST client: rate limits, bans, retries.

All waiting is by the clock. What leaves here is an answer, ``ExchangeError`` (refused, asking again would not help) or
``ExchangeUnavailableError`` (gave up; asking later may help).
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, TypeVar
from urllib.parse import urlsplit

import anyio
import httpx2

from streammachine.errors import ExchangeError, ExchangeUnavailableError
from streammachine.market.exchanges.answers import refused
from streammachine.market.exchanges.base import Refusal, excerpt
from streammachine.market.loopback import is_loopback
from streammachine.market.network import proxies
from streammachine.market.network.rate_budget import Budget, budget_for
from streammachine.masking import mask_text, mask_url

if TYPE_CHECKING:
    from types import TracebackType

    from streammachine.market.clock.clock import Clock
    from streammachine.market.exchanges.base import Adapter, Request, Urls

T = TypeVar("T")
log = logging.getLogger(__name__)

PATIENCE: Final = 900.0  # seconds of bans that one request waits out; a longer one is an error at once
BACKOFF: Final = 0.5  # seconds: the first full-jitter wait is within it, each next within twice as much
LONGEST_BACKOFF: Final = 30.0
SLACK: Final = 1.05  # our windows are so much longer: requests do not arrive as evenly as they were sent
REDIRECTS: Final = 5
SLOW_DOWNS: Final = 2  # times the attempts: how often an answer may say "slow down" without saying for how long
MAX_BODY: Final = 64 * 1024 * 1024  # bytes; the largest real answer (all of Binance's instruments) is about 15 MB
MAX_FILE: Final = 8 * 1024**3  # bytes; a month of Binance trades is about 3 GB
USED_WEIGHT: Final = "x-mbx-used-weight-1m"  # Binance: the weight it counted for this address in this minute


def client_for(adapter: Adapter, urls: Urls, **options: Any) -> RestClient:
    """The client of an exchange; the options are those of ``RestClient``."""
    made: RestClient = (adapter.make_client or RestClient)(adapter, urls, **options)
    return made


class MissingFileError(ExchangeError):
    """The bulk file does not exist (yet)."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class RestClient:
    """GETs from one exchange, for any number of tasks of one event loop. Use with ``async with``.

    Args:
        urls: base URLs; ``urls.bulk`` only where bulk files are asked for.
        timeout: seconds for one attempt, its body included; for a bulk file, seconds without a byte.
        parallel: requests at once; by default what the exchange takes.
        attempts: how often one request is tried when there is no answer or none that is understood. Being told to slow
            down does not count: that is waited for, up to ``patience`` seconds in all.
        rng: for the jitter.

    Attributes:
        requests: how many were sent. told_to_wait: seconds for which 429 and 418 stopped us.

    Raises:
        ExchangeError: a base URL is none.
    """

    def __init__(
        self,
        adapter: Adapter,
        urls: Urls,
        *,
        clock: Clock,
        timeout: float = 10.0,
        attempts: int = 6,
        parallel: int | None = None,
        patience: float = PATIENCE,
        rng: random.Random | None = None,
    ) -> None:
        self.adapter = adapter
        self._logins: dict[bytes, httpx2.BasicAuth] = {}  # by host and port
        for url in filter(None, (urls.rest, urls.bulk)):
            _checked(url, adapter)
        # A login leaves the URL at once: the HTTP client logs each URL, and names it in errors.
        self.urls = urls = replace(urls, rest=self._without_login(urls.rest), bulk=self._without_login(urls.bulk))
        self.clock = clock
        self.timeout = clock.patience(timeout)
        self.attempts = attempts
        self.parallel = parallel or adapter.rest.parallel
        self.patience = patience
        self._rng = rng or random.Random()
        limits = adapter.rest
        self._budget = budget_for(clock, _checked(urls.rest, adapter), limits.weight, limits.within * SLACK)
        self._bulk_budget = budget_for(clock, _checked(urls.bulk, adapter), None, 1.0) if urls.bulk else None
        self._client: httpx2.AsyncClient | None = None
        self.requests = 0
        self.told_to_wait = 0.0

    def _without_login(self, url: str) -> str:
        if "@" not in url:
            return url
        parsed = httpx2.URL(url)
        self._logins[parsed.netloc] = httpx2.BasicAuth(parsed.username, parsed.password)
        return str(parsed.copy_with(userinfo=b"")).rstrip("/")

    async def __aenter__(self) -> Self:
        self._places = anyio.CapacityLimiter(self.parallel)
        try:
            self._client = self._made_client()
        except (ImportError, ValueError, httpx2.InvalidURL) as error:  # of the proxy, which it looks at here
            raise proxies.unusable(error) from error
        await self._client.__aenter__()
        return self

    def _made_client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers={"User-Agent": "streammachine", "Accept": "*/*"},
            follow_redirects=True,
            max_redirects=REDIRECTS,
            timeout=None,  # ours is by the clock
            limits=httpx2.Limits(max_connections=2 * self.parallel + 2, max_keepalive_connections=self.parallel),
            trust_env=not is_loopback(self.urls.rest),
            event_hooks={"request": [_stay_encrypted(self.urls)]},
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.__aexit__(kind, error, trace)

    async def get(self, request: Request, *, bulk: bool = False) -> bytes:
        """The body of the answer.

        Args:
            bulk: below the bulk base URL.

        Raises:
            ExchangeError: refused. MissingFileError: a bulk file that does not exist.
            ExchangeUnavailableError: no answer in all attempts, or told to stop for longer than ``patience``.
        """
        return await self.ask(request, bytes, bulk=bulk)

    async def ask(self, request: Request, decode: Callable[[bytes], T], *, bulk: bool = False) -> T:
        """What ``decode`` makes of the answer; a body that it refuses with ValueError counts as no answer.

        Raises: as ``get``.
        """

        def understood(answer: _Answer) -> T:
            try:
                return decode(answer.body)
            except ValueError as error:
                raise _NoAnswer(f"sent what cannot be understood ({error}): {excerpt(answer.body)!r}") from error

        return await self._exchange(request, understood, None, bulk=bulk)

    async def download(self, request: Request, target: BinaryIO) -> str:
        """Write a bulk file to ``target``; its SHA-256, hexadecimal. Memory does not grow with the file.

        Raises: as ``get``, and OSError where the file cannot be written.
        """
        file = _File(target)
        return await self._exchange(request, lambda _: file.digest(), file, bulk=True)

    def is_held(self) -> bool:
        """Whether the exchange told us to wait, and it is not over."""
        return self._budget.held(self.clock.monotonic()) > 0

    # -- one request, until it is answered --

    async def _exchange(
        self, request: Request, understood: Callable[[_Answer], T], file: _File | None, *, bulk: bool
    ) -> T:
        budget, base = (self._bulk_budget, self.urls.bulk) if bulk else (self._budget, self.urls.rest)
        if self._client is None:
            raise ExchangeError("this RestClient is not open: use it with `async with`")
        if budget is None:
            raise ExchangeError(f"{self.adapter.source} has no bulk files, or none are set: give bulk_url")
        tries = slow_downs = 0
        waited = 0.0
        while True:
            try:
                async with self._places:
                    waited += await self._wait_for_budget(request, budget, waited)
                    answer = await self._once(self._client, base + request.path, request, file)
                refusal = self._refusal(answer, bulk=bulk)
                if refusal is None:
                    return understood(answer)
            except _NoAnswer as error:
                reason, slow_down, pause = str(error), False, None
            else:
                if not refusal.retry:
                    self._refuse(request, answer, refusal, bulk=bulk)
                reason, pause = refusal.reason, refusal.retry_after
                slow_down = pause is not None or answer.status < 500  # Kraken and OKX say it with a 200 too
            if slow_down:
                slow_downs += pause is None
            else:
                tries += 1
            if tries >= self.attempts or slow_downs >= SLOW_DOWNS * self.attempts:
                raise ExchangeUnavailableError(
                    f"{self.adapter.source} did not answer {base}{request.path} in {tries + slow_downs} attempts; "
                    f"the last: {reason}. Check the connection and the exchange's status page, then try again"
                )
            if slow_down:
                self._hold(budget, reason, max(pause or 0.0, self._jitter(slow_downs)))
            else:
                log.info("%s: %s: %s; trying again", self.adapter.source, request.path, reason)
                await self.clock.sleep(self._jitter(tries))

    def _hold(self, budget: Budget, reason: str, pause: float) -> None:
        """Let nobody ask for so long."""
        log.warning("%s: %s; no request for %.1f s", self.adapter.source, reason, pause)
        self.told_to_wait += pause
        budget.hold(self.clock.monotonic() + pause)

    async def _wait_for_budget(self, request: Request, budget: Budget, waited: float) -> float:
        """Wait until the request may be sent; how many seconds of that were a ban."""
        banned = 0.0
        moment = budget.reserve(request.weight, self.clock.monotonic())
        while True:
            now = self.clock.monotonic()
            if held := budget.held(now):
                if waited + banned + held > self.patience:
                    raise ExchangeUnavailableError(
                        f"{self.adapter.source} allows no request from this address for another {held:.0f} s: too many "
                        f"were sent. Stop what else asks it from here, and try again after that"
                    )
                banned += held
                await self.clock.sleep(held)
            elif moment > now:
                await self.clock.sleep(moment - now)
            else:
                return banned

    async def _once(self, client: httpx2.AsyncClient, url: str, request: Request, file: _File | None) -> _Answer:
        self.requests += 1
        try:
            if file is not None:
                return await self._read(client, url, request, file, self.timeout)
            with self.clock.fail_after(self.timeout):
                return await self._read(client, url, request, None, None)
        except TimeoutError as error:
            raise _NoAnswer(f"nothing within {self.timeout:g} s") from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as error:
            raise ExchangeError(
                f"{self.adapter.source}: {url} cannot be asked: {mask_text(str(error))}. Check its base URL"
            ) from error
        except (httpx2.HTTPError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise _NoAnswer(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error

    async def _read(
        self, client: httpx2.AsyncClient, url: str, request: Request, file: _File | None, pause: float | None
    ) -> _Answer:
        """One attempt. ``pause``: seconds that may pass between two parts of the answer."""
        with self.clock.fail_after(pause):
            asked = client.build_request("GET", url, params=dict(request.params) or None)
            response = await client.send(asked, stream=True, auth=self._logins.get(asked.url.netloc))
        try:
            self._learn(response.headers)
            to_file = file is not None and response.is_success
            most = MAX_FILE if to_file else MAX_BODY
            body = bytearray()
            size = 0
            if file is not None:
                file.begin()
            chunks = response.aiter_bytes()
            while True:
                with self.clock.fail_after(pause):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return _Answer(response.status_code, response.headers, bytes(body))
                size += len(chunk)
                if size > most:
                    raise ExchangeError(f"{self.adapter.source}: the answer of {url} is above {most} bytes")
                if file is not None and to_file:
                    file.take(chunk)
                else:
                    body += chunk
        finally:
            await response.aclose()

    # -- what an answer means --

    def _refusal(self, answer: _Answer, *, bulk: bool) -> Refusal | None:
        if not bulk:
            refusal = self.adapter.refusal(answer.status, answer.headers, answer.body)
            if refusal is not None:
                return refusal
        if 200 <= answer.status < 300:
            return None
        return refused(self.adapter.source, answer.status, answer.headers, answer.body)

    def _refuse(self, request: Request, answer: _Answer, refusal: Refusal, *, bulk: bool) -> None:
        if bulk and answer.status == 404:
            raise MissingFileError(f"{self.adapter.source} has no bulk file {request.path}")
        base = self.urls.bulk if bulk else self.urls.rest
        if answer.status == 404 or urlsplit(base).path:
            raise ExchangeError(
                f"{self.adapter.source} refused {proxies.without_login(base)}{request.path}: {refusal.reason}. "
                f"Check the base URL {proxies.without_login(base)}, which is put before {request.path}"
            )
        raise ExchangeError(f"{self.adapter.source} refused {request.path}: {refusal.reason}")

    def _learn(self, headers: Mapping[str, str]) -> None:
        used = headers.get(USED_WEIGHT, "")
        if used.isascii() and used.isdigit():
            self._budget.learn(int(used), self.clock.monotonic())

    def _jitter(self, count: int) -> float:
        """Full jitter: anything up to a limit that doubles."""
        return self._rng.uniform(0, min(BACKOFF * 2.0 ** max(count - 1, 0), LONGEST_BACKOFF))


class _NoAnswer(Exception):  # noqa: N818 - never leaves this file
    """This attempt gave nothing; another may."""


class _File:
    """An answer that is written to a file and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def begin(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()

    def take(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._hash.update(chunk)

    def digest(self) -> str:
        self._file.flush()
        return self._hash.hexdigest()


def _checked(url: str, adapter: Adapter) -> str:
    try:
        parsed = urlsplit(url)
        if parsed.scheme in ("http", "https") and parsed.hostname and parsed.port != 0 and httpx2.URL(url).host:
            return url
    except (ValueError, httpx2.InvalidURL):
        pass
    raise ExchangeError(f"{mask_url(url)!r} is no base URL of {adapter.source}: give http(s)://host[:port]")


def _stay_encrypted(urls: Urls) -> Callable[[httpx2.Request], object]:
    """Refuse a redirect from https to anything else."""
    plain = {httpx2.URL(url).host for url in (urls.rest, urls.bulk) if url.startswith("http:")}

    async def check(request: httpx2.Request) -> None:
        if request.url.scheme != "https" and request.url.host not in plain:
            raise httpx2.UnsupportedProtocol(f"redirected to {mask_url(str(request.url))}, which is not encrypted")

    return check
