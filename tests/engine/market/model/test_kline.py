"""Kline, Trade and Gap: names, aliases, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streammachine import Gap, Kline, Trade

FIELDS: dict[str, Any] = {
    "source": "Binance",
    "symbol": "BTCUSDT",
    "timeframe": "1m",
    "open_ts": 1735689600000,
    "end_ts": 1735689659999,
    "open": 43250.0,
    "high": 43275.0,
    "low": 43240.5,
    "close": 43260.25,
    "volume": 12.5,
    "quote_volume": 540_000.0,
    "vwap": 43255.0,
    "n_trades": 321,
    "is_closed": True,
}
ALIASES = {
    "symbol": ("s", "symbol", "ticker", "pair"),
    "timeframe": ("i", "timeframe", "tf"),
    "open_ts": ("t", "open_ts", "interval_begin", "ts"),
    "end_ts": ("T", "end_ts", "timestamp"),
    "open": ("o", "open", "open_price"),
    "high": ("h", "high", "high_price"),
    "low": ("l", "low", "low_price"),
    "close": ("c", "close", "close_price"),
    "volume": ("v", "volume", "base_volume"),
    "quote_volume": ("q", "quote_volume", "Quote asset volume"),
    "vwap": ("vwap", "volume_weighted_avg_price"),
    "n_trades": ("n", "n_trades", "count", "trades"),
    "is_closed": ("is_closed", "x"),
}
PRICES = st.floats(0.0001, 1e9)


@pytest.mark.parametrize(("field", "alias"), [(field, alias) for field, names in ALIASES.items() for alias in names])
def test_every_alias_builds_it(field: str, alias: str) -> None:
    values = {alias if name == field else name: value for name, value in FIELDS.items()}
    assert Kline(**values) == Kline(**FIELDS)


def test_short_names_are_those_of_the_documentation_and_round_trip() -> None:
    made = Kline(**FIELDS)
    dumped = made.model_dump(by_alias=True)
    values = {names[0]: FIELDS[field] for field, names in ALIASES.items()}
    assert list(values) == ["s", "i", "t", "T", "o", "h", "l", "c", "v", "q", "vwap", "n", "is_closed"]
    assert {name: dumped[name] for name in values} == values
    assert set(dumped) - set(values) == {"source", "is_complete", "estimated", "origin"}
    assert Kline(**dumped) == made
    assert Kline.model_validate_json(made.model_dump_json(by_alias=True)) == made
    assert list(made.model_dump()) == list(Kline.model_fields)


def test_only_the_documented_fields_are_needed() -> None:
    needed = {name: FIELDS[name] for name in list(FIELDS)[1:10]}
    made = Kline(**needed)
    assert (made.source, made.quote_volume, made.vwap, made.n_trades, made.is_closed) == (None,) * 5
    assert made.is_complete
    assert not made.estimated


@given(PRICES, PRICES, PRICES, PRICES, st.floats(0, 1e12))
def test_dump_and_build_is_a_round_trip(a: float, b: float, c: float, d: float, volume: float) -> None:
    low, one, two, high = sorted((a, b, c, d))
    made = Kline(**FIELDS | {"low": low, "open": one, "close": two, "high": high, "volume": volume})
    assert Kline(**made.model_dump()) == made
    assert Kline.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize("missing", list(FIELDS)[1:10])
def test_a_missing_field_is_refused(missing: str) -> None:
    with pytest.raises(ValidationError):
        Kline(**{name: value for name, value in FIELDS.items() if name != missing})


@pytest.mark.parametrize(
    "wrong",
    [{"high": 1.0}, {"open": float("nan")}, {"volume": float("inf")}, {"close": "dear"}, {"open_ts": "soon"}],
)
def test_a_value_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Kline(**FIELDS | wrong)


def test_candles_are_values_that_know_what_makes_them_one() -> None:
    one, other = Kline(**FIELDS), Kline(**FIELDS | {"symbol": "ETHUSDT"})
    assert one != other
    assert len({one, other, Kline(**FIELDS)}) == 2
    assert one.key == ("Binance", "BTCUSDT", "1m", 1735689600000)
    with pytest.raises(ValidationError):
        one.close = 1.0  # type: ignore[misc]


def test_exchange_text_becomes_the_nearest_number() -> None:
    made = Kline(**FIELDS | {"open": "43250.00", "high": "43275.00", "volume": "0.00000001", "n_trades": "7"})
    assert (made.open, made.high, made.volume, made.n_trades) == (43250.0, 43275.0, 1e-8, 7)


def test_a_trade_refuses_what_is_no_number_and_says_who_took() -> None:
    made = Trade(symbol="BTCUSDT", price="61837.63", volume="0.02", ts=1, trade_id="7", side="buy")  # type: ignore[arg-type]
    assert (made.price, made.volume, made.side, made.source) == (61837.63, 0.02, "buy", None)
    assert Trade(**made.model_dump()) == made
    for wrong in ({"price": "nan"}, {"side": "both"}, {"volume": None}):
        with pytest.raises(ValidationError):
            Trade(**made.model_dump() | wrong)


def test_a_gap_dumps_its_fields() -> None:
    gap = Gap("OKX", "BTC-USDT", "1m", 60_000, 120_000, "lost")
    assert gap.model_dump() == {
        "source": "OKX",
        "symbol": "BTC-USDT",
        "timeframe": "1m",
        "start": 60_000,
        "end": 120_000,
        "reason": "lost",
    }
