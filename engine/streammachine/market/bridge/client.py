"""ccxt's REST in the place of a ``RestClient``: its methods, its rate limiter, our errors."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import anyio

from streammachine.errors import ExchangeError, ExchangeUnavailableError, MarketError, SymbolError
from streammachine.market.bridge.adapter import MARKETS, OHLCV, ccxt_pro
from streammachine.market.bridge.guard import what
from streammachine.market.clock.clock import SystemClock

if TYPE_CHECKING:
    from streammachine.market.bridge.adapter import CcxtAdapter
    from streammachine.market.clock.clock import Clock
    from streammachine.market.exchanges.base import Request, Urls

T = TypeVar("T")
FIRST_PAUSE: Final = 0.5  # seconds; each next is twice as long
LONGEST_PAUSE: Final = 30.0
LONGEST_CLOSE: Final = 3.0  # of waiting for the other side; then what is open is closed without it


class CcxtClient:
    """What a ``RestClient`` does, by one exchange object of ccxt's, which the sockets use too.

    Args:
        attempts: how often a request is tried that ccxt could not get an answer to.

    Attributes:
        exchange: ccxt's object. The others: see ``RestClient``.
    """

    def __init__(
        self,
        adapter: CcxtAdapter,
        urls: Urls,
        *,
        clock: Clock,
        attempts: int = 4,
        parallel: int | None = None,
        **_: Any,
    ) -> None:
        self.adapter = adapter
        self.urls = urls
        self.clock = clock
        self.attempts = attempts
        self.parallel = parallel or adapter.rest.parallel
        self.requests = 0
        self.told_to_wait = 0.0
        self._errors = ccxt_pro()
        self.exchange: Any = None

    async def __aenter__(self) -> Self:
        self.exchange = self.adapter.connect(self.urls)
        if not isinstance(self.clock, SystemClock):  # it asks for candles by what time it is
            self.exchange.milliseconds = self.clock.time_ms
            self.exchange.seconds = lambda: self.clock.time_ms() // 1000
            self.exchange.microseconds = lambda: self.clock.time_ms() * 1000
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.move_on_after(LONGEST_CLOSE, shield=True) as scope:
            await self.exchange.close()
        if scope.cancelled_caught and self.exchange.session is not None:  # a socket's end was not answered
            with anyio.move_on_after(LONGEST_CLOSE, shield=True):
                await self.exchange.session.close()
                await self.exchange.close_connector()

    def is_held(self) -> bool:
        """Whether it makes us wait: ccxt does that inside."""
        return False

    async def ask(self, request: Request, decode: Callable[[Any], T]) -> T:
        """The decoded answer.

        Raises:
            SymbolError, ExchangeError: the exchange refuses. ExchangeUnavailableError: it does not answer.
        """
        errors, source = self._errors, self.adapter.source
        pause = FIRST_PAUSE
        for attempt in range(1, self.attempts + 1):
            self.requests += 1
            try:
                return decode(await self._call(request))
            except errors.BadSymbol as error:
                raise SymbolError(f"{source} refused: {said(error)}") from None
            except (errors.NetworkError, OSError, TimeoutError) as error:
                if attempt == self.attempts:
                    raise ExchangeUnavailableError(f"{source} does not answer: {said(error)}") from None
            except errors.BaseError as error:
                if not _is_cut_off(error):
                    raise ExchangeError(f"{source} refused: {said(error)}") from None
                if attempt == self.attempts:
                    raise ExchangeUnavailableError(f"{source} does not answer: {said(error)}") from None
            except MarketError:
                raise  # what ``decode`` found
            except Exception as error:  # noqa: BLE001 - whatever ccxt's parsers raise on what they do not expect
                found = said(error) if isinstance(error, ValueError) else what(error)
                raise ExchangeError(f"{source} answered what cannot be used: {found}") from None
            await self.clock.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        raise AssertionError("the last attempt returns or raises")

    async def _call(self, request: Request) -> Any:
        exchange, given = self.exchange, request.params
        if request.path == MARKETS:
            return await exchange.load_markets()
        since, limit = int(given["since"]), int(given["limit"])
        if request.path == OHLCV:
            return await exchange.fetch_ohlcv(given["symbol"], given["timeframe"], since, limit)
        try:
            return await exchange.fetch_trades(given["symbol"], since, limit)
        except self._errors.ArgumentsRequired:  # Coinbase wants an end too
            until = {"until": self.clock.time_ms() + 1000}
            return await exchange.fetch_trades(given["symbol"], since, limit, until)


def _is_cut_off(error: BaseException) -> bool:
    """Whether an answer ended in its middle: ccxt says so as if the exchange had refused."""
    cause = error.__cause__
    return any(kind.__module__.partition(".")[0] == "aiohttp" for kind in type(cause).__mro__)


def said(error: BaseException) -> str:
    """What an error of ccxt's says, in one line; it may quote a whole answer."""
    return " ".join(str(error).split())[:300] or type(error).__name__
