"""What the market package carries: Kline, Trade and Gap.

Times are UTC epoch milliseconds, prices and volumes floats (the nearest to the exchange's decimal text).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

Origin = Literal["ws", "rest", "bulk", "trades", "aggregate"]


class Kline(BaseModel):
    """One candle of one symbol and timeframe.

    Built by field name or by any exchange's alias; ``model_dump()`` gives field names, ``model_dump(by_alias=True)``
    the short names s i t T o h l c v q n. Both round-trip.

    Attributes:
        source: the exchange as its documents write it: Binance, OKX, Kraken, Bybit.
        symbol: as the exchange writes it. timeframe: ``timeframe.TIMEFRAMES``.
        open_ts, end_ts: first and last millisecond; end_ts is the next candle's open_ts less 1.
        volume: in the base currency. quote_volume: in the quote currency; None where the exchange does not say.
        vwap: volume-weighted average price. n_trades: number of trades; None where the exchange does not say.
        is_closed: whether it is final; None where not known.
        is_complete: False where parts of the candle are known to be missing (it was built over a gap).
        estimated: quote_volume was computed as vwap times volume (Kraken).
        origin: where it came from: the socket, REST, a bulk file, trades, or lower candles.

    Raises:
        pydantic.ValidationError: a field is missing or of the wrong type, a number is not finite, high is below low.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )

    source: str | None = None
    symbol: str = Field(validation_alias=AliasChoices("symbol", "s", "ticker", "pair"), serialization_alias="s")
    timeframe: str = Field(validation_alias=AliasChoices("timeframe", "i", "tf"), serialization_alias="i")
    open_ts: int = Field(validation_alias=AliasChoices("open_ts", "t", "interval_begin", "ts"), serialization_alias="t")
    end_ts: int = Field(validation_alias=AliasChoices("end_ts", "T", "timestamp"), serialization_alias="T")
    open: float = Field(validation_alias=AliasChoices("open", "o", "open_price"), serialization_alias="o")
    high: float = Field(validation_alias=AliasChoices("high", "h", "high_price"), serialization_alias="h")
    low: float = Field(validation_alias=AliasChoices("low", "l", "low_price"), serialization_alias="l")
    close: float = Field(validation_alias=AliasChoices("close", "c", "close_price"), serialization_alias="c")
    volume: float = Field(validation_alias=AliasChoices("volume", "v", "base_volume"), serialization_alias="v")
    quote_volume: float | None = Field(
        None, validation_alias=AliasChoices("quote_volume", "q", "Quote asset volume"), serialization_alias="q"
    )
    vwap: float | None = Field(None, validation_alias=AliasChoices("vwap", "volume_weighted_avg_price"))
    n_trades: int | None = Field(
        None, validation_alias=AliasChoices("n_trades", "n", "count", "trades"), serialization_alias="n"
    )
    is_closed: bool | None = Field(None, validation_alias=AliasChoices("is_closed", "x"))
    is_complete: bool = True
    estimated: bool = False
    origin: Origin | None = None

    @model_validator(mode="after")
    def _high_is_not_below_low(self) -> Self:
        if self.high < self.low:
            raise ValueError(f"high {self.high} is below low {self.low}")
        return self

    @property
    def pair(self) -> str | None:
        """The market in our spelling, such as BTC/USDT or BTC/USDT:USDT, where a runner or a backfill has said it. It
        is no field: rows of sinks do not hold it."""
        return _pair_of(self)

    @property
    def key(self) -> tuple[str | None, str, str, int]:
        """What makes a candle one: source, symbol, timeframe, open_ts."""
        return self.source, self.symbol, self.timeframe, self.open_ts


def with_fields(kline: Kline, **fields: object) -> Kline:
    """A copy with other values in some fields, taken as they are: as ``model_copy(update=...)``, and quicker."""
    made = object.__new__(Kline)
    put = object.__setattr__
    put(made, "__dict__", kline.__dict__ | fields)
    put(made, "__pydantic_fields_set__", kline.__pydantic_fields_set__ | fields.keys())
    put(made, "__pydantic_extra__", None)
    put(made, "__pydantic_private__", None)
    return made


class Trade(BaseModel):
    """One trade.

    Attributes:
        source, symbol: as in ``Kline``. price: in the quote currency. volume: in the base currency.
        ts: the exchange's time of the trade. trade_id: the exchange's id, as text.
        side: what the taker did: "buy", "sell", or None where not known.
        fills: how many consecutive ids it stands for, ``trade_id`` being the last (OKX joins some); not dumped.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    source: str | None = None
    symbol: str
    price: float
    volume: float
    ts: int
    trade_id: str
    side: Literal["buy", "sell"] | None = None
    fills: int = Field(1, exclude=True, repr=False)

    @property
    def pair(self) -> str | None:
        """As ``Kline.pair``."""
        return _pair_of(self)


def set_pair(row: Kline | Trade, pair: str | None) -> None:
    """Say how we spell a row's market. Kept apart from the fields, whose ``__dict__`` sinks write."""
    if pair is not None:
        object.__setattr__(row, "__pydantic_private__", {_PAIR: pair})


def _pair_of(row: Kline | Trade) -> str | None:
    private = getattr(row, "__pydantic_private__", None)
    return None if private is None else private.get(_PAIR)


_PAIR: Final = "_pair"


@dataclass(frozen=True, slots=True)
class Gap:
    """What could not be had: no candle (or, with timeframe "trade", no trade) of [start, end) was or will be emitted.

    Attributes:
        start, end: epoch milliseconds, end not included. reason: why, in words.
    """

    source: str
    symbol: str
    timeframe: str
    start: int
    end: int
    reason: str

    def model_dump(self) -> dict[str, Any]:
        """The fields, as ``Kline.model_dump`` gives them."""
        return {name: getattr(self, name) for name in self.__slots__}
