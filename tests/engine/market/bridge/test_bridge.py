"""ccxt's exchanges behind our ledgers: on one tape the bridge and our own adapter give the same candles."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

import streammachine as sf
from streammachine.errors import ExchangeError, MarketError, SymbolError, UnknownExchangeError
from streammachine.market.backfill.backfill import backfill_for
from streammachine.market.bridge.client import CcxtClient
from streammachine.market.clock.clock import VirtualClock
from streammachine.market.exchanges import EXCHANGES, adapter_for
from streammachine.market.exchanges.base import BadFrame, Urls
from streammachine.market.healing import healer
from streammachine.market.live.runner import runner_for
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.timeframe import MINUTE
from streammachine.market.simulator import Fault, Tape
from streammachine.market.simulator.faults.scripts import random_script
from support.backfill import golden
from support.simulator import START, Exchange, exchange

# Here, before a market runs: it takes seconds, and on a busy machine a quarter of an hour of the market.
pytest.importorskip("ccxt.pro", reason="the extra [ccxt] is not installed")
pytestmark = pytest.mark.anyio
EACH = pytest.mark.parametrize("name", EXCHANGES)
Row = tuple[float, ...]
SPEED = 30  # of the markets of random scripts
# ccxt's clock is the real one, and the market's sixty times as fast: what takes it a second is a minute here.
PATIENT = sf.FeedOptions(give_up=1800.0)
LENIENT = sf.FeedOptions(give_up=1800.0, settle=5.0, grace=15.0)  # the same for late frames on a busy machine


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """REST is waited for as long as ccxt may need at its rate (Kraken: a request a second), by these markets' clock."""
    monkeypatch.setattr(healer, "CONFIRM", healer.CONFIRM * SPEED)
    monkeypatch.setattr(healer, "REST_UNRESPONSIVE", healer.REST_UNRESPONSIVE * SPEED)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[..., Any]:
    """Runs exchanges, and points this process at them by the variables that ``streammachine simulate`` prints."""

    def run(*names: str, **options: Any) -> Any:
        monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))
        context = exchange(*names, **options)

        class Running:
            def __enter__(self) -> Exchange:
                market = context.__enter__()
                for variable, value in market.env.items():
                    monkeypatch.setenv(variable, value)
                return market

            def __exit__(self, *error: Any) -> None:
                context.__exit__(*error)

        return Running()

    return run


async def taken(rows: AsyncGenerator[Any], count: int, seconds: float = 90.0) -> list[Kline]:
    """So many candles."""
    found: list[Kline] = []

    async def take() -> None:
        async with aclosing(rows):
            async for row in rows:
                found.append(row)
                if len(found) >= count:
                    return

    await asyncio.wait_for(take(), seconds)
    return found


def values(rows: list[Any]) -> dict[int, Row]:
    """Prices and volume by the candle's start."""
    made = [row if isinstance(row, dict) else row.model_dump() for row in rows]
    return {
        row["open_ts"]: (row["open"], row["high"], row["low"], row["close"], round(row["volume"], 8)) for row in made
    }


@EACH
async def test_bridge_and_adapter_agree_candle_for_candle(name: str, simulated: Callable[..., Any]) -> None:
    faults = [Fault("reset", at=100.0)]
    with simulated(name, speed=60, faults=faults) as market:
        wanted = sf.DataInput("kline", ["BTC/USDT"], "1m")
        ours = runner_for(name, wanted, feed_options=PATIENT)
        theirs = sf.CcxtRunner(name, wanted, feed_options=PATIENT)
        native, bridge = await asyncio.gather(taken(ours.stream(), 5), taken(theirs.stream(), 5))
        mine, other = values(native), values(bridge)
        both = mine.keys() & other.keys()
        assert len(both) >= 3
        assert {ts: mine[ts] for ts in both} == {ts: other[ts] for ts in both}
        starts = [row.open_ts for row in bridge]
        gaps = [(gap.start, gap.end) for gap in theirs.gaps]
        told = {ts for start, end in gaps for ts in range(start, end, MINUTE)}
        assert sorted({*starts, *told}) == list(range(starts[0], starts[-1] + 1, MINUTE))
        assert {(row.source, row.symbol, row.pair) for row in bridge} == {(f"ccxt:{name}", "BTC/USDT", "BTC/USDT")}
        # Of Coinbase ccxt tells no minute without a trade; on a busy machine the fifteenth is reached, which is one.
        empty = {candle[0] for candle, volume in golden(market.tape, "1m", starts[0], starts[-1]) if not volume}
        assert told <= (empty if name == "coinbase" else set())


@EACH
async def test_a_backfill_through_ccxt_is_that_of_our_adapter(name: str, simulated: Callable[..., Any]) -> None:
    with simulated(name, speed=1) as market:
        symbol = market.simulator.symbol(name, "BTC/USDT")
        span = (START - 400 * MINUTE, START - MINUTE)
        found = []
        for made in (
            backfill_for(name, symbol, "1m", *span),
            sf.CcxtBackfilling(name, "BTC/USDT", "1m", *span),
        ):
            found.append(values([row async for batch in made.stream() for row in batch]))
        native, bridge = found
        assert len(native) >= 399
        if name == "coinbase":  # which leaves empty minutes out: ours are made of its trades, ccxt's are gaps
            assert {row[4] for ts, row in native.items() if ts not in bridge} == {0.0}
            native = {ts: row for ts, row in native.items() if ts in bridge}
            assert len(bridge) > 200
        assert native == bridge


async def test_trades_through_ccxt_are_folded_by_us(simulated: Callable[..., Any]) -> None:
    with simulated("okx", speed=60):
        wanted = sf.DataInput("trade", ["BTC/USDT"], "1m")
        theirs = runner_for("ccxt:okx", wanted)
        ours = runner_for("okx", sf.DataInput("kline", ["BTC-USDT"], "1m"))
        bridge, native = await asyncio.gather(taken(theirs.stream(), 4), taken(ours.stream(), 5))
        other, mine = values([row for row in bridge if row.is_complete]), values(native)
        both = mine.keys() & other.keys()
        assert len(both) >= 2
        for ts in both:
            assert other[ts] == pytest.approx(mine[ts], rel=1e-9)


def test_what_ccxt_does_not_have_is_one_sentence() -> None:
    with pytest.raises(UnknownExchangeError) as caught:
        sf.CcxtRunner("gat")
    assert str(caught.value) == "ccxt streams no exchange 'gat': did you mean gate or gateeu?"
    with pytest.raises(SymbolError, match="'BTCUSDT' is no ccxt:gate symbol: ccxt:gate writes BTC/USDT"):
        sf.CcxtRunner("gate", sf.DataInput("kline", ["BTCUSDT"], "1m"))


def test_without_ccxt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ccxt.pro", None)
    with pytest.raises(MarketError, match=r"pip install 'streammachine-mcp\[ccxt\]'"):
        adapter_for("ccxt:gate")


async def test_a_symbol_that_the_exchange_does_not_have_is_refused(simulated: Callable[..., Any]) -> None:
    with simulated("okx", speed=20):
        runner = sf.CcxtRunner("okx", sf.DataInput("kline", ["BTC/USDX"], "1m"))
        with pytest.raises(SymbolError, match="ccxt:okx does not trade BTC/USDX: did you mean BTC/USDT"):
            await runner.run()


def test_rows_that_cannot_be_used_are_bad_frames_and_take_no_good_one_with_them() -> None:
    adapter: Any = adapter_for("ccxt:gate")
    good = [START, 2.0, 3.0, 1.0, 2.5, 7.0]
    events = adapter.decode(("BTC/USDT", "1m", [good, [START, None, 3.0, 1.0, 2.5, 7.0], [START]]))
    assert [type(event) for event in events] == [Kline, BadFrame, BadFrame]
    trade = {"timestamp": START, "price": 2.0, "amount": 0.5, "side": "buy", "id": None}
    made, bad = adapter.decode(("BTC/USDT", None, [trade, trade | {"price": float("nan")}]))
    assert isinstance(made, Trade)
    assert isinstance(bad, BadFrame)
    assert made.trade_id == f"{START}-2.0-0.5"
    assert isinstance(adapter.decode(None)[0], BadFrame)


def test_trades_without_an_id_that_are_alike_count_as_often_as_they_are_in_a_reply() -> None:
    adapter = adapter_for("ccxt:gate")
    row = {"timestamp": START, "price": 2.0, "amount": 0.5, "side": "buy"}
    rows = [row, dict(row), {**row, "price": 3.0}, dict(row), {**row, "id": "7"}]
    named = [f"{START}-2.0-0.5", f"{START}-2.0-0.5-2", f"{START}-3.0-0.5", f"{START}-2.0-0.5-3", "7"]
    assert [one.trade_id for one in adapter.decode(("BTC/USDT", None, rows))] == named
    page = adapter.decode_trades(rows, "BTC/USDT")
    assert [one.trade_id for one in page.trades] == named


async def test_frames_that_ccxt_cannot_read_are_bad_frames_and_the_stream_goes_on(
    simulated: Callable[..., Any],
) -> None:
    with simulated("kraken", speed=60, faults=[Fault("malformed", at=70.0, times=2)]) as market:
        runner = sf.CcxtRunner("kraken", sf.DataInput("kline", ["BTC/USDT"], "1m"), feed_options=PATIENT)
        rows = await taken(runner.stream(), 3)
        want = {ts: tuple(candle[:4]) for ts, *candle in truth(market, rows[0].open_ts, rows[-1].end_ts + 1)}
        assert {row.open_ts: (row.open, row.high, row.low, row.close) for row in rows} == want
        feed = runner.stats().feed
        assert (feed["bad_frames"], feed["resubscribed"], feed["reconnects"]) == (2, 0, 0)


@pytest.mark.parametrize("place", ["handle_ohlcv", "watch_ohlcv"])
async def test_what_ccxts_parser_fails_on_again_and_again_ends_the_run_with_a_sentence(
    place: str, simulated: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ccxt.pro

    def changed(*arguments: Any) -> None:  # as where an exchange leaves a field out that ccxt's parser counts on
        raise AttributeError("'NoneType' object has no attribute 'upper'")

    monkeypatch.setattr(ccxt.pro.kraken, place, changed)
    with simulated("kraken", speed=300):
        runner = sf.CcxtRunner("kraken", sf.DataInput("kline", ["BTC/USDT"], "1m"), feed_options=PATIENT)
        with pytest.raises(ExchangeError, match=r"ccxt:kraken: ccxt .* could not read the 1m stream of BTC/USDT 10 t"):
            await taken(runner.stream(), 1)
        assert runner.stats().state == "failed"
        assert "AttributeError: 'NoneType'" in str(runner.stats().error)
        assert runner.stats().feed["bad_frames"] >= 10


async def test_a_stream_that_died_silently_is_opened_anew(simulated: Callable[..., Any]) -> None:
    with simulated("okx", speed=60, faults=[Fault("mute", at=100.0, symbol="BTC/USDT")]) as market:
        runner = sf.CcxtRunner("okx", sf.DataInput("kline", ["BTC/USDT"], "1m"), feed_options=PATIENT)
        rows: list[Kline] = []
        async for row in runner.stream():
            rows.append(row)
            feed = runner.stats().feed
            if feed["resubscribed"] and feed["state"] == "live" and row.origin == "ws":
                break
            assert len(rows) < 20
        await runner.close()
        assert any(row.origin == "rest" for row in rows)
        want = {ts: tuple(candle[:4]) for ts, *candle in truth(market, rows[0].open_ts, rows[-1].end_ts + 1)}
        assert {row.open_ts: (row.open, row.high, row.low, row.close) for row in rows} == want


async def test_ccxts_clock_is_the_runners() -> None:
    async with CcxtClient(adapter_for("ccxt:okx"), Urls("", ""), clock=VirtualClock(START)) as client:  # type: ignore[arg-type]
        found = client.exchange
        assert (found.seconds(), found.milliseconds(), found.microseconds()) == (START // 1000, START, START * 1000)


def test_urls_follow_the_variables_and_keep_ccxts_paths() -> None:
    from streammachine.market.bridge.adapter import _moved

    urls = Urls(ws="ws://127.0.0.1:1/ws", rest="http://127.0.0.1:1")
    own = {"rest": "https://api.{hostname}/api/v4", "ws": {"spot": "wss://api.gate.com/ws/v4/"}, "hostname": "gate.com"}
    assert json.dumps(_moved(own, urls)) == json.dumps(
        {"rest": "http://127.0.0.1:1/api/v4", "ws": {"spot": "ws://127.0.0.1:1/ws/v4/"}, "hostname": "gate.com"}
    )


# The long form, 50 of each exchange: STREAMMACHINE_BRIDGE_SCRIPTS=50
SCRIPTS = int(os.environ.get("STREAMMACHINE_BRIDGE_SCRIPTS", "1"))


@pytest.mark.parametrize("number", range(SCRIPTS))
async def test_random_scripts_give_equal_candles_or_an_explicit_gap(number: int, simulated: Callable[..., Any]) -> None:
    """A script for each exchange, all of one market at once: most of it is waiting."""
    plain = Tape.generate(7, symbols=("BTC/USDT", "ETH/USDT"), start_ms=START)
    faults: list[Fault] = []
    for at, name in enumerate(EXCHANGES):
        script = random_script(300 + at + len(EXCHANGES) * number, plain, name, minutes=6, count=3, harsh=0)
        faults += [replace(fault, exchange=name) for fault in script]
    with simulated(*EXCHANGES, speed=SPEED, faults=faults) as market:
        found = await asyncio.gather(*(wrong(name, market) for name in EXCHANGES), return_exceptions=True)
    assert dict(zip(EXCHANGES, found, strict=True)) == {name: [] for name in EXCHANGES}


async def wrong(name: str, market: Exchange) -> list[str]:
    """What is wrong with six candles of an exchange: they are to be the tape's, or missing and told."""
    wanted = sf.DataInput("kline", ["BTC/USDT"], "1m")
    runner = sf.CcxtRunner(name, wanted, feed_options=LENIENT, close_grace=10.0)
    rows = await taken(runner.stream(), 6, 120.0)
    want = {ts: tuple(candle[:4]) for ts, *candle in truth(market, rows[0].open_ts, rows[-1].end_ts + 1)}
    got = {row.open_ts: (row.open, row.high, row.low, row.close) for row in rows if row.is_complete}
    told = {ts for gap in runner.gaps for ts in range(gap.start // MINUTE * MINUTE, gap.end, MINUTE)}
    others = [f"{values} at {ts}, not {want.get(ts)}" for ts, values in got.items() if want.get(ts) != values]
    return others + [f"nothing at {ts}, and no Gap" for ts in want.keys() - got.keys() - told]


def truth(market: Exchange, start: int, end: int) -> list[Any]:
    """The tape's own candles."""
    return [candle for candle, _ in golden(market.tape, "1m", start, end)]
