"""Feeds as their users see them: against simulated exchanges, by a virtual clock."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from streammachine.errors import ExchangeError, SymbolError, TimeframeError
from streammachine.market.clock.clock import SystemClock, VirtualClock
from streammachine.market.exchanges import EXCHANGES, adapter_for
from streammachine.market.exchanges.base import Urls
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.live.feed import Feed
from streammachine.market.live.feed_options import FeedOptions
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Gap, Kline
from streammachine.market.model.rows import Row
from streammachine.market.network.rest_client import RestClient
from streammachine.market.simulator import Fault, Simulator, Tape
from support.feed import START, SYMBOLS, check, check_trades, tape_of, truth, watch

pytestmark = pytest.mark.anyio

NOWHERE = Urls(ws="ws://127.0.0.1:1", rest="http://127.0.0.1:1")


def frame(open_ts: int, *, closed: bool, volume: str = "1", symbol: str = "BTCUSDT") -> str:
    """A candle as Binance pushes it."""
    return (
        f'{{"e":"kline","E":{open_ts + 1000},"s":"{symbol}","k":{{"t":{open_ts},"T":{open_ts + 59_999},"s":"{symbol}",'
        f'"i":"1m","f":1,"L":2,"o":"1.0","c":"1.5","h":"2.0","l":"0.5","v":"{volume}","n":2,'
        f'"x":{str(closed).lower()},"q":"1.0","V":"0.5","Q":"0.5","B":"0"}}}}'
    )


# -- the core, without a socket --


async def test_take_is_the_whole_path_of_a_frame_and_needs_no_connection() -> None:
    feed = Feed(
        adapter_for("binance"), DataInput("kline", ["btcusdt"], "1m"), urls=NOWHERE, rest=None, clock=SystemClock()
    )
    now = START + 20_000
    [opened] = feed.take(frame(START, closed=False), now)
    [closed] = feed.take(frame(START, closed=True, volume="2").encode(), START + 60_100)
    assert isinstance(opened, Kline)
    assert isinstance(closed, Kline)
    assert (opened.is_closed, closed.is_closed, closed.volume) == (False, True, 2.0)
    assert feed.take(frame(START, closed=True, volume="2"), START + 60_200) == []
    assert feed.take("{", START + 60_300) == []
    assert feed.take(frame(START, closed=True, symbol="ETHUSDT"), START + 60_400) == []
    stats = feed.stats
    assert (stats.duplicates, stats.bad_frames, stats.unexpected) == (1, 1, 1)
    assert stats.last_closed == {"BTCUSDT": START}


def test_a_symbol_or_timeframe_that_the_exchange_does_not_take_is_refused_before_anything_starts() -> None:
    def feed(exchange: str, symbol: str, timeframe: str) -> Feed:
        wanted = DataInput("kline", [symbol], timeframe)
        return Feed(adapter_for(exchange), wanted, urls=NOWHERE, rest=None, clock=SystemClock())

    with pytest.raises(SymbolError, match="Kraken writes"):
        feed("kraken", "BTCUSDT:PERP", "1m")
    with pytest.raises(TimeframeError, match="3m"):
        feed("kraken", "BTC/USD", "3m")


# -- life --


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_a_calm_feed_needs_no_healing(exchange: str) -> None:
    seen = await watch(exchange, minutes=5)
    check(seen)
    assert seen.stats.state == "live"
    assert seen.stats.gaps == 0
    assert seen.stats.reconnects == 0
    assert seen.stats.conflicts == 0
    assert seen.stats.bad_frames == 0
    assert seen.stats.last_closed == {name: seen.closed(name)[-1].open_ts for name in seen.names}
    assert seen.stats.data_age is not None
    assert seen.stats.data_age < 10
    if ENTRIES[exchange].closes == "flag":
        assert seen.stats.healed == 0
        delays = [
            at - row.end_ts
            for at, row in zip(seen.times, seen.rows, strict=True)
            if isinstance(row, Kline) and row.is_closed
        ]
        assert max(delays) < 2500


async def test_open_candles_can_be_left_out() -> None:
    seen = await watch("okx", minutes=3, options=FeedOptions(open_candles=False))
    check(seen)
    assert all(isinstance(row, Kline) and row.is_closed for row in seen.rows)


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_other_timeframes(exchange: str) -> None:
    seen = await watch(exchange, ["reset@200"], minutes=18, timeframe="5m", rules={"push_every": 10.0})
    check(seen)
    assert all(len(seen.closed(name)) == 4 for name in seen.names)


async def test_one_second_candles() -> None:
    seen = await watch("binance", ["reset@20"], minutes=1, timeframe="1s", rules={"close_delays": (0.05,)})
    check(seen)


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_it_goes_on_behind_what_the_caller_has(exchange: str) -> None:
    clock = VirtualClock(START + 400_000)
    tape = tape_of()
    rows: list[Row] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with Simulator(tape, (exchange,), clock) as simulator:
            adapter, urls = adapter_for(exchange), simulator.urls(exchange)
            name = simulator.symbol(exchange, "BTC/USDT")
            async with RestClient(adapter, urls, clock=clock) as rest:
                had = {(name, "1m"): START + 60_000}
                wanted = DataInput("kline", [name], "1m")
                feed = Feed(adapter, wanted, urls=urls, rest=rest, clock=clock, after=had)

                async def deliver(some: list[Row]) -> None:
                    rows.extend(some)

                tasks.start_soon(feed.run, deliver)
                await clock.sleep(200)
                feed.close()
        tasks.cancel_scope.cancel()
    closed = [row.open_ts for row in rows if isinstance(row, Kline) and row.is_closed]
    assert closed == list(range(START + 120_000, START + 120_000 + 60_000 * len(closed), 60_000))
    assert closed[-1] >= START + 480_000


async def test_trades_go_on_behind_the_id_that_the_caller_has() -> None:
    tape = tape_of()
    first = next(tape.rows("BTC/USDT", START - 200_000, START))

    clock = VirtualClock(START + 20_000)
    rows: list[Row] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with Simulator(tape, ("binance",), clock) as simulator:
            adapter, urls = adapter_for("binance"), simulator.urls("binance")
            async with RestClient(adapter, urls, clock=clock) as rest:
                feed = Feed(
                    adapter,
                    DataInput("trade", ["BTCUSDT"]),
                    urls=urls,
                    rest=rest,
                    clock=clock,
                    after={("BTCUSDT", None): str(first.id)},
                )

                async def deliver(some: list[Row]) -> None:
                    rows.extend(some)

                tasks.start_soon(feed.run, deliver)
                await clock.sleep(60)
                feed.close()
        tasks.cancel_scope.cancel()
    ids = [int(row.trade_id) for row in rows]  # type: ignore[union-attr]
    assert ids == list(range(first.id + 1, first.id + 1 + len(ids)))
    assert len(ids) > 50


async def test_closing_delivers_what_has_come_and_ends_run() -> None:
    got: list[Row] = []

    async def meanwhile(feed: Feed, clock: VirtualClock, simulator: Simulator) -> None:
        await clock.sleep(70)
        feed.close()
        feed.close()

    seen = await watch("okx", minutes=5, meanwhile=meanwhile)
    assert seen.ended - seen.began < 75_000
    assert len(seen.rows) > 100
    assert not got


async def test_what_deliver_raises_comes_out_of_run_as_it_is() -> None:
    clock = VirtualClock(START + 20_000)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with Simulator(tape_of(), ("binance",), clock) as simulator:
            adapter, urls = adapter_for("binance"), simulator.urls("binance")
            async with RestClient(adapter, urls, clock=clock) as rest:
                feed = Feed(adapter, DataInput("kline", ["BTCUSDT"], "1m"), urls=urls, rest=rest, clock=clock)

                async def deliver(rows: list[Row]) -> None:
                    raise ZeroDivisionError("the sink broke")

                with pytest.raises(ZeroDivisionError, match="the sink broke"):
                    await feed.run(deliver)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_a_stream_refused_at_the_start_is_an_error_that_names_it(exchange: str) -> None:
    with pytest.raises((SymbolError, ExchangeError)) as caught:
        await watch(exchange, [Fault("ack_error", times=-1)], minutes=1)
    assert "refused" in str(caught.value)
    assert "stream of" in str(caught.value)


async def test_a_url_that_is_none_is_an_error_that_says_so() -> None:
    clock = VirtualClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        urls = Urls(ws="https://127.0.0.1:1", rest="http://127.0.0.1:1")
        feed = Feed(adapter_for("binance"), DataInput("kline", ["BTCUSDT"], "1m"), urls=urls, rest=None, clock=clock)

        async def deliver(rows: list[Row]) -> None:
            raise AssertionError

        with pytest.raises(ExchangeError, match="no address of a WebSocket"):
            await feed.run(deliver)
        tasks.cancel_scope.cancel()


async def test_a_feed_whose_exchange_is_away_keeps_trying_and_can_be_closed() -> None:
    clock = VirtualClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        feed = Feed(adapter_for("binance"), DataInput("kline", ["BTCUSDT"], "1m"), urls=NOWHERE, rest=None, clock=clock)

        async def deliver(rows: list[Row]) -> None:
            raise AssertionError

        async def stop() -> None:
            await clock.sleep(300)
            assert feed.stats.state == "starting"
            assert feed.stats.reconnects > 5
            feed.close()

        tasks.start_soon(stop)
        await feed.run(deliver)
        assert feed.stats.state == "closed"
        tasks.cancel_scope.cancel()


# -- watchdogs --


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("stale_after", [25.0, 60.0])
async def test_a_silent_stall_is_noticed_within_the_configured_age(exchange: str, stale_after: float) -> None:
    options = FeedOptions(seed=1, stale_after=stale_after)
    seen = await watch(exchange, ["freeze@100"], minutes=6, options=options)
    check(seen)
    connects = [entry.time_ms for entry in seen.happened("connect")]
    stalled = seen.began + 100_000
    assert len(connects) == 2
    assert 0 < connects[1] - stalled <= stale_after * 1000 + 2500


async def test_a_stream_that_dies_alone_is_subscribed_again_and_then_moved_to_another_connection() -> None:
    seen = await watch("binance", ["mute@100:symbol=BTC/USDT"], minutes=9)
    check(seen)
    assert seen.stats.resubscribed == 2
    assert [entry.detail for entry in seen.happened("unsubscribe")] == ["btcusdt@kline_1m"]
    assert len(seen.happened("connect")) == 2
    late = [row for row in seen.closed("BTCUSDT") if row.open_ts > START + 360_000]
    assert late
    assert all(row.origin == "ws" for row in late)


async def test_a_day_and_an_hour_pass_the_cut_without_an_interruption() -> None:
    tape = Tape.generate(3, ("BTC/USDT",), START - 120_000, minutes=1600, trades_per_minute=2)
    seen = await watch(
        "binance",
        minutes=25 * 60,
        symbols=("BTC/USDT",),
        tape=tape,
        rules={"push_every": 30.0, "close_delays": (0.2,)},
        options=FeedOptions(seed=1, stale_after=100.0),
    )
    [name] = seen.names
    got = seen.closed(name)
    assert [row.open_ts for row in got] == list(range(seen.first, seen.first + 60_000 * len(got), 60_000))
    assert len(got) >= 1499
    true = truth(tape, "BTC/USDT", "1m", seen.first, seen.first + 60_000 * len(got))
    assert all((row.close, row.n_trades) == (true[row.open_ts]["close"], true[row.open_ts]["n_trades"]) for row in got)
    connects = [entry.time_ms for entry in seen.happened("connect")]
    assert len(connects) == 2
    assert 0.9 * 86_400_000 <= connects[1] - connects[0] <= 0.97 * 86_400_000
    assert seen.stats.healed == 0
    assert not [entry for entry in seen.happened("close") if "24 hours" in entry.detail]


# -- many --


@pytest.mark.parametrize("exchange", ["binance", "okx", "kraken"])
async def test_five_hundred_symbols_on_one_feed(exchange: str) -> None:
    symbols = tuple(f"C{number}/USDT" for number in range(500))
    tape = Tape.generate(5, symbols, START, minutes=10, trades_per_minute=2)
    options = FeedOptions(seed=1, open_candles=False)
    rules: dict[str, Any] = {"push_every": 30.0} if exchange != "kraken" else {}
    seen = await watch(
        exchange, ["reset@75"], minutes=3, symbols=symbols, tape=tape, options=options, rules=rules, begin=20
    )
    streams = adapter_for(exchange).socket.streams
    lines = -(-500 // streams)
    assert len(seen.happened("connect")) == 2 * lines
    assert not seen.happened("kill")
    assert not seen.gaps
    for name, symbol in list(seen.names.items()):
        got = seen.closed(name)
        assert [row.open_ts for row in got[:2]] == [START, START + 60_000], f"{name}: {got}"
        true = truth.__wrapped__(tape, symbol, "1m", START, START + 120_000) if symbol.endswith("7/USDT") else {}
        for row in got:
            if row.open_ts in true:
                assert row.close == true[row.open_ts]["close"]
                assert row.volume == pytest.approx(true[row.open_ts]["volume"], rel=1e-9)


async def test_three_feeds_of_one_exchange_and_one_of_each_other_share_a_loop() -> None:
    clock = VirtualClock(START + 20_000)
    tape = tape_of()
    rows: dict[tuple[str, int], list[Row]] = {}
    places = [("binance", 0), ("binance", 1), ("binance", 2), ("okx", 0), ("kraken", 0), ("bybit", 0)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        faults = [Fault("reset", at=70), Fault("stall", at=130, exchange="okx")]
        async with Simulator(tape, EXCHANGES, clock, faults) as simulator:

            async def one(exchange: str, number: int) -> None:
                adapter, urls = adapter_for(exchange), simulator.urls(exchange)
                symbols = [simulator.symbol(exchange, symbol) for symbol in SYMBOLS]
                got = rows.setdefault((exchange, number), [])

                async def deliver(some: list[Row]) -> None:
                    got.extend(some)

                async with RestClient(adapter, urls, clock=clock) as rest:
                    feed = Feed(adapter, DataInput("kline", symbols, "1m"), urls=urls, rest=rest, clock=clock)
                    feeds.append(feed)
                    await feed.run(deliver)

            feeds: list[Feed] = []
            async with anyio.create_task_group() as workers:
                for place in places:
                    workers.start_soon(one, *place)
                await clock.sleep(300)
                for feed in feeds:
                    feed.close()
        tasks.cancel_scope.cancel()
    told = {
        place: [
            (row.symbol.replace("-", "").replace("/", ""), row.open_ts, row.close, round(row.volume, 8))
            for row in got
            if isinstance(row, Kline) and row.is_closed
        ]
        for place, got in rows.items()
    }
    assert set(told) == set(places)
    first = sorted(told["binance", 0])
    assert len(first) == 10
    assert all(sorted(each) == first for each in told.values())
    assert not [row for got in rows.values() for row in got if isinstance(row, Gap)]


# -- back-pressure --


@pytest.mark.parametrize("exchange", ["binance", "kraken"])
async def test_a_slow_taker_slows_the_exchange_and_loses_nothing(exchange: str) -> None:
    clock = VirtualClock(START + 20_000)
    tape = tape_of()
    rows: list[Row] = []
    waiting: list[int] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with Simulator(tape, (exchange,), clock, [Fault("burst", at=30, value=500)]) as simulator:
            adapter, urls = adapter_for(exchange), simulator.urls(exchange)
            names = [simulator.symbol(exchange, symbol) for symbol in SYMBOLS]
            async with RestClient(adapter, urls, clock=clock) as rest:
                options = FeedOptions(seed=1, queue=8)
                feed = Feed(
                    adapter, DataInput("kline", names, "1m"), urls=urls, rest=rest, clock=clock, options=options
                )

                async def deliver(some: list[Row]) -> None:
                    waiting.append(len(some))
                    rows.extend(some)
                    if clock.time_ms() < START + 240_000:
                        await clock.sleep(5)  # a push every second is too much for it

                tasks.start_soon(feed.run, deliver)
                await clock.sleep(420)
                feed.close()
                await clock.sleep(1)
        tasks.cancel_scope.cancel()
    assert max(waiting) <= 8 + 12  # the queue, and the rows of one frame each
    for name, symbol in zip(names, SYMBOLS, strict=True):
        got = [row for row in rows if isinstance(row, Kline) and row.is_closed and row.symbol == name]
        assert [row.open_ts for row in got] == list(range(START, START + 60_000 * len(got), 60_000))
        assert len(got) >= 6
        true = truth(tape, symbol, "1m")
        assert all(row.close == true[row.open_ts]["close"] for row in got)
        assert all(row.volume == pytest.approx(true[row.open_ts]["volume"], rel=1e-9) for row in got)


# -- trades --


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_trades_are_known_to_be_complete_up_to_a_moment_ago_while_all_is_well(exchange: str) -> None:
    told: list[tuple[int, int | None]] = []

    async def meanwhile(feed: Feed, clock: VirtualClock, simulator: Simulator) -> None:
        name = simulator.symbol(exchange, "BTC/USDT")
        for _ in range(200):
            await clock.sleep(1)
            told.append((clock.time_ms(), feed.complete_until(name)))

    seen = await watch(exchange, ["reset@100", "refuse@100:times=6"], minutes=4, kind="trade", meanwhile=meanwhile)
    check_trades(seen)
    delivered = {trade.trade_id: at for at, trade in zip(seen.times, seen.trades, strict=True)}
    name = next(name for name, symbol in seen.names.items() if symbol == "BTC/USDT")
    own = [trade for trade in seen.trades if trade.symbol == name]
    assert any(until is None for _, until in told)
    assert sum(until is not None and at - until < 5000 for at, until in told) > 120
    for at, until in told:
        if until is not None:
            assert not [trade for trade in own if trade.ts <= until and delivered[trade.trade_id] > at]
