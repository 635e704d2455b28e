from collections.abc import Callable, Mapping, Sequence
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
    def listed(self, row: Sequence[Any], symbol: str, timeframe: str) -> Kline: ...
    def placed(self, row: dict[str, Any], place: tuple[str, str, int, int]) -> Kline: ...

def number(text: object) -> float | None: ...
def iso_ms(text: object) -> int | None: ...

class UsualQuotes:
    def __init__(
        self, model: type[Quote], otherwise: Callable[..., Quote], otherwise_book: Callable[..., Quote]
    ) -> None: ...
    def __call__(
        self, source: str, symbol: Any, bid: Any, bid_size: Any, ask: Any, ask_size: Any, ts: Any
    ) -> Quote: ...
    def of_book(self, source: str, symbol: Any, bids: Any, asks: Any, ts: Any) -> Quote: ...

class QuoteRows:
    def __init__(
        self,
        loads: Callable[[str | bytes], Any],
        model: type[Quote],
        source: str,
        otherwise: Callable[[dict[str, Any]], Quote],
        symbol: str,
        bid: str,
        bid_size: str,
        ask: str,
        ask_size: str,
        ts: str,
        named: Callable[[str], str] | None = None,
    ) -> None: ...
    def of_row(self, row: dict[str, Any]) -> Quote: ...

class FrameReader:
    def __init__(self, loads: Callable[[str | bytes], Any]) -> None: ...
    def read(self, frame: str | bytes) -> dict[str, Any] | list[Quote]: ...

class FlatQuotes(FrameReader):
    def __init__(self, loads: Callable[[str | bytes], Any], rows: QuoteRows, kind: str, name: str) -> None: ...

class ListedQuotes(FrameReader):
    def __init__(
        self, loads: Callable[[str | bytes], Any], rows: QuoteRows, kind: str, name: str, key: str
    ) -> None: ...

class TopicBooks(FrameReader):
    def __init__(self, loads: Callable[[str | bytes], Any], model: type[Quote], source: str, prefix: str) -> None: ...

class ChannelBooks(FrameReader):
    def __init__(self, loads: Callable[[str | bytes], Any], model: type[Quote], source: str, channel: str) -> None: ...
