"""Everything is checked before anything starts, and each refusal says what is accepted."""

from __future__ import annotations

from typing import Any

import pytest

import streammachine as sf
from streammachine.errors import (
    DataInputError,
    EmitterError,
    ExchangeUnavailableError,
    MarketError,
    SymbolError,
    TimeframeError,
    UnknownExchangeError,
)
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.live.runner import Runner, runner_for
from streammachine.market.simulator import Fault
from support.market_runs import EXCHANGES, Collector, world

RUNNERS: dict[str, Any] = {name: getattr(sf, entry.runner_class) for name, entry in ENTRIES.items()}
RIGHT = {name: entry.symbol for name, entry in ENTRIES.items()}


def wanted(symbol: str, timeframe: str = "1m", targets: tuple[str, ...] = ()) -> sf.DataInput:
    return sf.DataInput(type="kline", symbols=[symbol], timeframe=timeframe, aggregate_list=list(targets))


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_another_exchanges_symbol_form_is_refused_with_the_right_one(exchange: str) -> None:
    for symbol in RIGHT.values():
        # One with a slash may be our spelling, and OKX and Coinbase write alike.
        if symbol != RIGHT[exchange] and "/" not in symbol and not ("-" in symbol and "-" in RIGHT[exchange]):
            with pytest.raises(SymbolError, match=RUNNERS[exchange](wanted(RIGHT[exchange])).source):
                RUNNERS[exchange](wanted(symbol))


@pytest.mark.parametrize(
    ("exchange", "timeframe"), [("kraken", "3m"), ("kraken", "1s"), ("bybit", "1s"), ("bybit", "8h")]
)
def test_a_timeframe_that_the_exchange_does_not_have_is_refused(exchange: str, timeframe: str) -> None:
    with pytest.raises(TimeframeError, match=f"has no {timeframe} candles: give one of .* aggregate_list"):
        RUNNERS[exchange](wanted(RIGHT[exchange], timeframe))


def test_a_timeframe_that_is_only_aggregated_need_not_be_the_exchanges() -> None:
    runner = sf.KrakenRunner(wanted("BTC/USD", "1m", ("3m", "2h")))
    assert runner.stream_input is not None
    assert runner.stream_input.aggregate_list == ["3m", "2h"]


def test_an_aggregate_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(DataInputError, match="5m is no multiple of 3m"):
        sf.BinanceRunner(wanted("BTCUSDT", "3m", ("5m",)))
    with pytest.raises(DataInputError, match="5m candles cannot be built from 1h candles"):
        sf.BinanceRunner(wanted("BTCUSDT", "1h", ("5m",)))


def test_symbols_are_mended_where_they_can_be_and_the_input_of_the_caller_is_not_changed() -> None:
    given = sf.DataInput("kline", ["btcusdt", "BTCUSDT"], "1m")
    runner = sf.BinanceRunner(given)
    assert runner.stream_input is not None
    assert runner.stream_input.symbols == ["BTCUSDT"]
    assert given.symbols == ["btcusdt", "BTCUSDT"]


def test_what_is_no_input_is_refused() -> None:
    with pytest.raises(DataInputError, match="give a DataInput"):
        sf.BinanceRunner("BTCUSDT")  # type: ignore[arg-type]
    with pytest.raises(DataInputError, match="give timeframe='1d'"):
        sf.BinanceRunner(sf.DataInput("trade", ["BTCUSDT"], "1M"))


def test_an_unknown_market_or_exchange_is_refused() -> None:
    with pytest.raises(DataInputError, match="has no market type 'OPTION' here"):
        sf.BinanceRunner(market_type="OPTION")
    with pytest.raises(DataInputError, match="has no market type"):
        sf.KrakenRunner(market_type="LINEAR")
    with pytest.raises(UnknownExchangeError, match="did you mean binance"):
        runner_for("binanse")
    with pytest.raises(MarketError, match="use BinanceRunner"):
        Runner()
    assert type(runner_for("OKX", wanted("BTC-USDT"))) is sf.OKXRunner


def test_the_documented_arguments_and_defaults() -> None:
    stream = wanted("BTCUSDT")
    runner = sf.BinanceRunner(stream_input=stream, active_warmup=True, emit_warmup=False)
    assert (runner.active_warmup, runner.emit_warmup, runner.emit_only_closed_candles) == (True, False, True)
    plain = sf.BinanceRunner(stream)
    assert (plain.active_warmup, plain.emit_warmup, plain.emit_only_closed_candles) == (False, False, True)
    later = sf.BybitRunner()
    later.set_stream_input(stream)
    assert later.stream_input == stream
    assert sf.BinanceRunner(stream, emit_warmup=True).active_warmup


def test_urls_come_from_arguments_then_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMMACHINE_BINANCE_WS", "ws://env:1/")
    monkeypatch.setenv("STREAMMACHINE_BINANCE_REST", "http://env:2")
    runner = sf.BinanceRunner(rest_url="http://own:3")
    assert (runner.urls.ws, runner.urls.rest) == ("ws://env:1", "http://own:3")
    assert sf.BybitRunner().urls.rest == "https://api.bybit.com"


def test_what_is_no_emitter_is_refused() -> None:
    runner = sf.BinanceRunner()
    with pytest.raises(EmitterError, match="is no emitter: it needs emit"):
        runner.register_emitter(object())
    with pytest.raises(EmitterError, match="register an instance"):
        runner.register_emitter(Collector)
    one = Collector()
    runner.register_emitter(one)
    with pytest.raises(EmitterError, match="registered already"):
        runner.register_emitter(one)
    runner.register_emitter(Collector())  # another one of the kind
    assert len(runner.emitters) == 2


def test_a_model_goes_to_the_emitter_that_takes_one() -> None:
    class Modelled(Collector):
        model: Any = None

        def set_model(self, model: Any) -> Modelled:
            self.model = model
            return self

    emitter, runner = Modelled(), sf.BinanceRunner()
    runner.register_emitter(emitter, model=dict)
    assert emitter.model is dict
    with pytest.raises(EmitterError, match="takes no model"):
        runner.register_emitter(Collector(), model=dict)


def test_a_map_renames_behind_the_transformer() -> None:
    emitter, runner = Collector(), sf.BinanceRunner()
    emitter.set_transformer(lambda row: row | {"range": row["high"] - row["low"]} if row["close"] else None)
    runner.register_emitter(emitter, map_object={"open_ts": "time", "range": "span"})
    assert emitter.transformer is not None
    assert emitter.transformer({"open_ts": 1, "high": 3.0, "low": 1.0, "close": 2.0}) == {
        "time": 1,
        "high": 3.0,
        "low": 1.0,
        "close": 2.0,
        "span": 2.0,
    }
    assert emitter.transformer({"open_ts": 1, "high": 3.0, "low": 1.0, "close": 0.0}) is None

    class Mapped(Collector):
        columns: Any = None

        def register_map(self, columns: Any) -> None:
            self.columns = columns

    own = Mapped()
    runner.register_emitter(own, map_object={"open_ts": "time"})
    assert own.columns == {"open_ts": "time"}

    class Bare:
        def emit(self, row: Any) -> None:
            """Takes it."""

    with pytest.raises(EmitterError, match="takes no map"):
        runner.register_emitter(Bare(), map_object={"open_ts": "time"})
    with pytest.raises(EmitterError, match="give our field's name to the sink's"):
        runner.register_emitter(Collector(), map_object={"open_ts": 7})  # type: ignore[dict-item]


@pytest.mark.anyio
async def test_nothing_to_stream_is_an_error() -> None:
    with pytest.raises(DataInputError, match="there is nothing to stream: give BinanceRunner a stream_input"):
        await sf.BinanceRunner().run()


@pytest.mark.anyio
@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_a_symbol_that_the_exchange_does_not_trade_is_an_error_before_anything_starts(exchange: str) -> None:
    async with world(exchange) as there:
        runner = there.runner(exchange, ["BTC/USDT"])
        name = there.simulator.symbol(exchange, "BTC/USDT")
        runner.set_stream_input(sf.DataInput("kline", [name, name.replace("BTC", "BTX")], "1m"))
        collector = Collector()
        runner.register_emitter(collector)
        with pytest.raises(SymbolError, match=f"does not trade .*did you mean .*{name}"):
            await runner.run()
        assert (collector.connects, there.simulator.log.of("open"), there.simulator.sockets(exchange)) == (0, [], 0)


@pytest.mark.anyio
async def test_an_exchange_that_does_not_answer_is_an_error() -> None:
    async with world(faults=[Fault("rest_refuse", times=-1)]) as there:
        with pytest.raises(ExchangeUnavailableError):
            await there.runner().run()
