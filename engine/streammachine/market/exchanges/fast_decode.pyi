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
    def __init__(self, model: type[Quote], otherwise: Callable[..., Quote]) -> None: ...
    def __call__(
        self, source: str, symbol: Any, bid: Any, bid_size: Any, ask: Any, ask_size: Any, ts: Any
    ) -> Quote: ...
