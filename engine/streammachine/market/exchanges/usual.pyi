from collections.abc import Callable, Mapping
from typing import Any

from streammachine.market.kline import Kline

class UsualKlines:
    def __init__(
        self,
        model: type[Kline],
        source: str,
        keys: Mapping[str, str],
        grid: dict[str, int],
        otherwise: Callable[[dict[str, Any]], Kline],
        *,
        estimated: object,
        origin: object,
    ) -> None: ...
    def made(self, row: dict[str, Any]) -> Kline: ...

def number(text: object) -> float | None: ...
