"""What makes Klines and Trades of exchange payloads in one pass.

``Kline`` itself accepts the spellings of many exchanges, and pays for it. Here each field has the one place where an
exchange puts it, and what only an exchange's rows must fulfil is checked on the way: prices above 0, volumes not below,
times that exist, starts that fit the timeframe. What comes out are plain Klines and Trades.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import orjson
from pydantic import ValidationError
from pydantic_core import CoreSchema, SchemaValidator, core_schema

from streammachine.market.exchanges.base import BadFrame, Event, excerpt
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline, Trade

try:
    from streammachine.market.exchanges.fast_decode import UsualKlines
except ImportError:  # it was not compiled
    HAS_NATIVE = False
else:
    HAS_NATIVE = True

# What a payload that is not as it should be can raise on its way through a decoder.
MALFORMED: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)

LATEST: Final = 253_402_300_799_999  # the last millisecond of the year 9999
_EARLIEST: Final = 946_684_800_000  # 2000-01-01: a start before it is no time in milliseconds
_HUGE_PRICE: Final = 1e18  # far above any market's; and sums and products stay finite
_HUGE_VOLUME: Final = 1e30
Numbers = Literal["text", "number"]


def _number(first: Numbers, **limits: Any) -> CoreSchema:
    """A finite float of a decimal text or of a JSON number, whichever comes; never of true or false.

    Args:
        first: what comes as a rule, which is quicker.
    """
    lax = core_schema.float_schema(allow_inf_nan=False, **limits)
    text = core_schema.chain_schema([core_schema.str_schema(strict=True), lax])
    number = core_schema.float_schema(allow_inf_nan=False, strict=True, **limits)
    return core_schema.union_schema([text, number] if first == "text" else [number, text], mode="left_to_right")


def _kline_fields(numbers: Numbers) -> dict[str, CoreSchema]:
    price = _number(numbers, gt=0, lt=_HUGE_PRICE)
    volume = _number(numbers, ge=0, lt=_HUGE_VOLUME)
    return {
        "source": _NAME,
        "symbol": _NAME,
        "timeframe": _NAME,
        "open_ts": _TIME,
        "end_ts": _TIME,
        "open": price,
        "high": price,
        "low": price,
        "close": price,
        "volume": volume,
        "quote_volume": core_schema.nullable_schema(volume),
        "vwap": core_schema.nullable_schema(volume),
        "n_trades": core_schema.nullable_schema(core_schema.int_schema(ge=0, lt=2**53)),
        "is_closed": core_schema.nullable_schema(core_schema.bool_schema()),
        "is_complete": core_schema.bool_schema(),
        "estimated": core_schema.bool_schema(),
        "origin": core_schema.nullable_schema(core_schema.str_schema()),
    }


def _trade_fields() -> dict[str, CoreSchema]:
    return {
        "source": _NAME,
        "symbol": _NAME,
        "price": _number("text", gt=0, lt=_HUGE_PRICE),
        "volume": _number("text", gt=0, lt=_HUGE_VOLUME),
        "ts": _TIME,
        "trade_id": core_schema.str_schema(min_length=1, max_length=64, coerce_numbers_to_str=True),
        "side": core_schema.nullable_schema(core_schema.literal_schema(["buy", "sell"])),
        "fills": core_schema.int_schema(ge=1, le=1_000_000),
    }


_TIME: Final = core_schema.int_schema(ge=0, le=LATEST)
_NAME: Final = core_schema.str_schema(min_length=1, max_length=64)
_KLINE_DEFAULTS: Final[dict[str, object]] = {
    "quote_volume": None,
    "vwap": None,
    "n_trades": None,
    "is_closed": None,
    "is_complete": True,
    "estimated": False,
    "origin": "ws",
}
_TRADE_DEFAULTS: Final[dict[str, object]] = {"side": None, "fills": 1}

# The step that a start must be a multiple of. Which 3 days, week or month an exchange means is its own affair.
_GRID: Final = {
    name: timeframes.MILLISECONDS[name] if timeframes.MILLISECONDS.get(name, timeframes.WEEK) <= timeframes.DAY else 1
    for name in timeframes.TIMEFRAMES
}


class OffGridError(ValueError):
    """A candle that is as it should be, and begins where none of its timeframe does, as some of Binance's of December
    2017 and February 2018 do: it cannot be placed, and the candle that would stand there is a gap."""


def kline_validator(
    source: str, places: Mapping[str, str], *, numbers: Numbers = "text", **fixed: object
) -> SchemaValidator:
    """A validator whose ``validate_python`` makes Klines; pass them on through ``sound``.

    Args:
        places: Kline's field to the key of the payload. A field that is not named is read under its own name where it
            has no default.
        numbers: what prices and volumes are as a rule.
        fixed: fields that are the same in every row.
    """
    return _validator(Kline, _kline_fields(numbers), places, _KLINE_DEFAULTS | fixed | {"source": source})


def kline_maker(
    source: str, places: Mapping[str, str], *, numbers: Numbers = "text", **fixed: object
) -> Callable[[dict[str, Any]], Kline]:
    """What makes a Kline of a row, as ``kline_validator`` and ``sound`` do; quicker where it was compiled.

    Raises (what it returns):
        pydantic_core.ValidationError, ValueError, KeyError: the row is no candle.
    """
    validate = kline_validator(source, places, numbers=numbers, **fixed).validate_python

    def checked(row: dict[str, Any]) -> Kline:
        return sound(validate(row))

    if not HAS_NATIVE:
        return checked
    defaults = _KLINE_DEFAULTS | fixed
    quick = UsualKlines(
        Kline, source, places, _GRID, checked, estimated=defaults["estimated"], origin=defaults["origin"]
    )
    return quick.made


Placed = tuple[str, str, int, int]  # symbol, timeframe, open_ts, end_ts


def placed_kline_maker(
    source: str,
    places: Mapping[str, str],
    completed: Callable[[dict[str, Any], Placed], dict[str, Any]],
    *,
    weighted: str,
    numbers: Numbers = "text",
) -> Callable[[dict[str, Any], Placed], Kline]:
    """As ``kline_maker``, for rows that do not say these themselves, and whose quote volume is estimated.

    Args:
        completed: makes them the rows that a ``kline_maker`` takes.
        weighted: the key of a vwap, by which the volume is multiplied to estimate the quote volume.
    """
    ours = {"vwap": "vwap", "quote_volume": "quote_volume"}
    validate = kline_validator(source, {**places, **ours}, numbers=numbers, estimated=True).validate_python

    def checked(row: dict[str, Any], place: Placed) -> Kline:
        return sound(validate(completed(row, place)))

    if not HAS_NATIVE:
        return checked
    quick = UsualKlines(Kline, source, places, _GRID, checked, estimated=True, origin="ws", weighted=weighted)
    return quick.placed


def listed_kline_maker(source: str, *, origin: str = "ws") -> Callable[[Sequence[Any], str, str], Kline]:
    """As ``kline_maker``, for rows [start, open, high, low, close, volume], given with symbol and timeframe."""
    validate = kline_validator(source, {}, numbers="number", origin=origin).validate_python

    def checked(row: Sequence[Any], symbol: str, timeframe: str) -> Kline:
        start, opened, high, low, close, volume, *_ = row
        times = {"open_ts": start, "end_ts": last_ms(timeframe, start)}
        prices = {"open": opened, "high": high, "low": low, "close": close, "volume": volume}
        return sound(validate({"symbol": symbol, "timeframe": timeframe, **times, **prices}))

    if not HAS_NATIVE:
        return checked
    return UsualKlines(Kline, source, {}, _GRID, checked, estimated=False, origin=origin).listed


def trade_validator(source: str, places: Mapping[str, str], **fixed: object) -> SchemaValidator:
    """As ``kline_validator``, for Trades."""
    return _validator(Trade, _trade_fields(), places, _TRADE_DEFAULTS | fixed | {"source": source})


def sound(kline: Kline) -> Kline:
    """The Kline, if its parts fit together; it ends where its timeframe says, also where the exchange, having been
    away, calls it shorter.

    Raises:
        ValueError: high is below low, or it ends before it begins.
        OffGridError: no candle of the timeframe begins then.
        KeyError: there is no such timeframe.
    """
    fields = kline.__dict__  # quicker than one attribute after the other, and this is done for every frame
    if fields["high"] < fields["low"]:
        raise ValueError(f"high {kline.high} is below low {kline.low}")
    start = fields["open_ts"]
    off_grid = start % _GRID[fields["timeframe"]]
    if off_grid or fields["end_ts"] <= start:
        kind = OffGridError if off_grid and _EARLIEST <= start < fields["end_ts"] else ValueError
        raise kind(f"no {kline.timeframe} candle goes from {start} to {kline.end_ts}")
    fields["end_ts"] = last_ms(fields["timeframe"], start)
    return kline


_loads: Final = orjson.loads


def parsed(frame: str | bytes) -> dict[str, Any]:
    """The JSON object in a frame.

    Raises:
        ValueError: it is no JSON, or no object.
    """
    message: dict[str, Any] = _loads(frame)
    if type(message) is not dict:
        raise ValueError(f"a JSON {type(message).__name__} instead of an object")
    return message


def rows_of(rows: Iterable[Any], made: Callable[[Any], Event], frame: str | bytes) -> list[Event]:
    """What ``made`` makes of each row of a frame: a BadFrame of one that it cannot use."""
    found: list[Event] = []
    for row in rows:
        try:
            found.append(made(row))
        except MALFORMED as error:
            found.append(bad_frame(error, frame))
    return found


def bad_frame(error: Exception, frame: str | bytes) -> BadFrame:
    """The BadFrame that says what an error found wrong."""
    return BadFrame(reason(error), excerpt(frame))


def reason(error: Exception) -> str:
    """What an error found wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}, not {str(first['input'])[:80]!r}" if place else first["msg"]
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing or unknown"
    return str(error) or type(error).__name__


def as_number(value: str | float) -> float:
    """The float of a decimal text or a JSON number.

    Raises:
        ValueError, TypeError: it is none of them, or true or false.
    """
    if isinstance(value, bool):
        raise TypeError(f"{value!r} instead of a number")
    return float(value)


def iso_ms(text: str) -> int:
    """Epoch milliseconds of an ISO 8601 time with up to nanoseconds, cut to the millisecond.

    Raises:
        ValueError: it is none. TypeError: it is no text.
    """
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return (moment - _EPOCH) // _MILLISECOND


_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND: Final = datetime.timedelta(milliseconds=1)


def last_ms(timeframe: str, start: int) -> int:
    """The last millisecond of the candle that begins at ``start``."""
    step = timeframes.MILLISECONDS.get(timeframe)
    return start + step - 1 if step is not None else timeframes.end_of(timeframe, start) - 1


def _validator(
    model: type, fields: Mapping[str, CoreSchema], places: Mapping[str, str], defaults: Mapping[str, object]
) -> SchemaValidator:
    made = {}
    for name, schema in fields.items():
        if name in places:
            made[name] = core_schema.model_field(schema, validation_alias=places[name])
        elif name in defaults:
            fallback = core_schema.with_default_schema(schema, default=defaults[name])
            made[name] = core_schema.model_field(fallback, validation_alias=f"\0{name}")  # never in a payload
        else:
            made[name] = core_schema.model_field(schema)
    schema = core_schema.model_schema(model, core_schema.model_fields_schema(made), frozen=True)
    return SchemaValidator(schema, _use_prebuilt=False)  # else it may be the model's own validator in disguise
