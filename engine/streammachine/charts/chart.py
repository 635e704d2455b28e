"""What a picture of candles shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from streammachine.errors import ChartError

THEMES = ("light", "dark")
MOST_CANDLES = 2000
SMALLEST, LARGEST = (320, 240), (4000, 4000)  # pixels


@dataclass(frozen=True, slots=True)
class ChartLine:
    """An indicator in a picture.

    Attributes:
        name: its text in the legend. columns: values by column, one for each candle, None where there is none.
        styles: of each column, "line", "dashed", "histogram" or "dots".
        on_price: drawn over the candles; else in a pane of its own.
    """

    name: str
    columns: dict[str, Sequence[float | None]]
    styles: Sequence[str]
    on_price: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """Candles, oldest first, and how they are drawn.

    Attributes:
        title: what they are; it is drawn as it is, markup included.
        times: epoch ms at which each begins. open, high, low, close: finite. volume: None where it is not known.
        closed, complete: of each candle; all of them where not given. An open one is drawn hollow, an incomplete one
            gets a mark below it.
        missing: how many candles are missing before each; a gap is drawn as a band.
        lines: indicators. theme: "light" or "dark". width, height: pixels.

    Raises:
        ChartError: there are no candles or too many, the lengths differ, or a size or theme is not accepted.
    """

    title: str
    times: Sequence[int]
    open: Sequence[float]
    high: Sequence[float]
    low: Sequence[float]
    close: Sequence[float]
    volume: Sequence[float | None]
    closed: Sequence[bool] = ()
    complete: Sequence[bool] = ()
    missing: Sequence[int] = ()
    lines: Sequence[ChartLine] = field(default_factory=tuple)
    theme: str = "light"
    width: int = 1000
    height: int = 600

    def __post_init__(self) -> None:
        count = len(self.times)
        if not 1 <= count <= MOST_CANDLES:
            raise ChartError(f"{count} candles cannot be drawn: give 1 to {MOST_CANDLES}.")
        needed = (self.open, self.high, self.low, self.close, self.volume)
        optional = (self.closed, self.complete, self.missing)
        columns = [values for line in self.lines for values in line.columns.values()]
        if any(len(values) != count for values in (*needed, *(each for each in optional if each), *columns)):
            raise ChartError(f"The columns of a chart differ in length: there are {count} times.")
        if self.theme not in THEMES:
            raise ChartError(f"There is no theme {self.theme!r}: give light or dark.")
        for size, least, most in zip((self.width, self.height), SMALLEST, LARGEST, strict=True):
            if not least <= size <= most:
                raise ChartError(f"{size} pixels are not accepted: give {least} to {most}.")
