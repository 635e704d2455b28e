from collections.abc import Callable, Mapping
from typing import Any

from streammachine.market.model.kline import Kline
from streammachine.market.model.quote import Quote

class UsualKlines:
    def __init__(
        self,
        model: type[Kline],
        source: str,
        keys: Mapping[str, str],
        grid: dict[str, int],
        otherwise: Callable[..., Kline],
        *,
        estimated: object,
        origin: object,
        weighted: str | None = None,
    ) -> None: ...
    def made(self, row: dict[str, Any]) -> Kline: ...
    def placed(self, row: dict[str, Any], place: tuple[str, str, int, int]) -> Kline: ...

def number(text: object) -> float | None: ...

class UsualQuotes:
    def __init__(
        self,
        model: type[Quote],
        otherwise: Callable[..., Quote],
        otherwise_book: Callable[..., Quote],
        bid: str = "bid",
        bid_size: str = "bid_size",
        ask: str = "ask",
        ask_size: str = "ask_size",
    ) -> None: ...
    def __call__(
        self, source: str, symbol: Any, bid: Any, bid_size: Any, ask: Any, ask_size: Any, ts: Any
    ) -> Quote: ...
    def of_row(self, source: str, symbol: Any, row: Any, ts: Any) -> Quote: ...
    def of_message(self, source: str, row: Any, symbol_key: str, ts_key: str) -> Quote: ...
    def of_book(self, source: str, symbol: Any, bids: Any, asks: Any, ts: Any) -> Quote: ...
