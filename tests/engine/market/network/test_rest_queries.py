"""History: what REST holds, whatever its pages are like."""

from __future__ import annotations

import pytest

from streammachine.errors import SymbolError
from streammachine.market.model import timeframe as timeframes
from streammachine.market.network import rest_queries
from streammachine.market.network.ordered_calls import in_order
from streammachine.market.simulator import Fault
from support.backfill import NOW, assert_golden, golden, market, utc

pytestmark = pytest.mark.anyio
EXCHANGES = ("binance", "okx", "bybit", "kraken")
MINUTE = 60_000


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_candles_are_sorted_closed_and_each_once(exchange: str) -> None:
    start, end = utc("2024-02-02T17:10"), NOW
    async with market(exchange) as here, here.rest() as rest:
        klines = await rest_queries.fetch_klines(rest, here.symbol, "1m", start, end)
    assert_golden([kline.model_dump() for kline in klines], here.tape, "1m", start, NOW // MINUTE * MINUTE)
    assert {(kline.source, kline.is_closed, kline.origin) for kline in klines} == {(rest.adapter.source, True, "rest")}


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_the_running_candle_is_there_when_asked_for_and_not_closed(exchange: str) -> None:
    async with market(exchange) as here, here.rest() as rest:
        klines = await rest_queries.fetch_klines(
            rest, here.symbol, "1m", NOW - 5 * MINUTE, NOW + 10 * MINUTE, running=True
        )
        assert [kline.is_closed for kline in klines] == [True] * 4 + [False]
        assert klines[-1].open_ts == NOW // MINUTE * MINUTE
        closed = await rest_queries.fetch_klines(rest, here.symbol, "1m", NOW - 5 * MINUTE, NOW + 10 * MINUTE)
        assert closed == klines[:-1]


async def test_our_clock_does_not_close_a_candle_that_is_said_to_be_running() -> None:
    """The exchange is 1.3 s behind us: the candle that is over by our clock has no successor yet."""
    now = utc("2024-02-03T05:00:00.500")
    async with market("binance", now=now, faults=[Fault("skew", value=-1300)]) as here, here.rest() as rest:
        klines = await rest_queries.fetch_klines(rest, here.symbol, "1m", now - 3 * MINUTE, now, running=True)
        assert not klines[-1].is_closed
        assert all(kline.is_closed for kline in klines[:-1])


@pytest.mark.parametrize("exchange", ["okx", "bybit", "binance"])
async def test_short_answers_are_asked_again(exchange: str) -> None:
    start, end = utc("2024-02-02T12:00"), utc("2024-02-02T20:00")
    async with market(exchange, rules={"page": 70, "history_page": 70}) as here, here.rest() as rest:
        klines = await rest_queries.fetch_klines(rest, here.symbol, "1m", start, end)
        assert [kline.open_ts for kline in klines] == list(range(start, end, MINUTE))
        assert len(here.asked()) >= 7


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_what_is_not_there_is_absent(exchange: str) -> None:
    start, end = utc("2024-02-03T01:00"), utc("2024-02-03T02:00")
    lost = [start, start + 7 * MINUTE, start + 8 * MINUTE, end - MINUTE]
    async with market(exchange, faults=[Fault("missing", value=ts) for ts in lost]) as here, here.rest() as rest:
        klines = await rest_queries.fetch_klines(rest, here.symbol, "1m", start, end)
        assert [kline.open_ts for kline in klines] == [ts for ts in range(start, end, MINUTE) if ts not in lost]
        assert len(here.asked()) == 2  # and once more for what was missing


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_an_empty_range_asks_for_nothing(exchange: str) -> None:
    async with market(exchange) as here, here.rest() as rest:
        assert await rest_queries.fetch_klines(rest, here.symbol, "1m", NOW, NOW + MINUTE) == []
        assert await rest_queries.fetch_klines(rest, here.symbol, "1m", NOW - 10, NOW - 20) == []
        assert await rest_queries.fetch_klines(rest, here.symbol, "1h", NOW - 3 * MINUTE, NOW) == []
        assert here.asked() == []


async def test_kraken_is_not_asked_for_what_it_no_longer_has() -> None:
    async with market("kraken") as here, here.rest() as rest:
        klines = await rest_queries.fetch_klines(rest, here.symbol, "1m", utc("2024-01-01"), NOW)
        assert len(here.asked()) == 1
    assert 715 <= len(klines) <= 720
    assert klines[-1].open_ts == NOW // MINUTE * MINUTE - MINUTE


async def test_coin_margined_futures_are_asked_in_spans_that_they_take() -> None:
    async with market() as here:
        from streammachine.market.exchanges import adapter_for
        from streammachine.market.network.rest_client import RestClient

        adapter = adapter_for("binance", "COINM")
        symbol = here.simulator.symbol("binance", "BTC/USDT", "COINM")
        start, end = utc("2022-01-01"), utc("2024-02-01")
        async with RestClient(adapter, here.urls, clock=here.clock) as rest:
            klines = await rest_queries.fetch_klines(rest, symbol, "1d", start, end)
            assert [kline.open_ts for kline in klines] == list(timeframes.starts("1d", start, end))


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_symbols_are_checked_with_a_hint(exchange: str) -> None:
    async with market(exchange) as here, here.rest() as rest:
        await rest_queries.check_symbols(rest, [here.symbol])
        wrong = here.symbol.replace("USDT", "USDX")
        with pytest.raises(SymbolError, match=f"does not trade {wrong}: did you mean {here.symbol}"):
            await rest_queries.check_symbols(rest, [here.symbol, wrong])


@pytest.mark.parametrize("exchange", ["binance", "kraken", "okx"])
async def test_trades_are_paged_and_each_once(exchange: str) -> None:
    start, end = utc("2024-02-03T03:00"), utc("2024-02-03T05:00")
    async with market(exchange) as here, here.rest() as rest:
        trades = await rest_queries.fetch_trades(rest, here.symbol, since=start, until=end)
        truth = here.tape.trades("BTC/USDT", start, end)
        assert [trade.ts for trade in trades] == [trade.ts for trade in truth]
        assert [trade.price for trade in trades] == [float(trade.price) for trade in truth]
        if rest.adapter.trades_by_id:
            behind = await rest_queries.fetch_trades(rest, here.symbol, after_id=trades[99].trade_id, until=end)
            assert behind == trades[100:]


@pytest.mark.parametrize("exchange", ["binance", "okx", "bybit"])
async def test_the_first_candle_is_found_in_a_page_or_two(exchange: str) -> None:
    async with market(exchange) as here, here.rest() as rest:
        listed = here.tape.listed("BTC/USDT")
        found = await rest_queries.first_candle(rest, here.symbol, "1m", listed - 300 * 86_400_000, NOW)
        assert found is not None
        assert found <= listed < found + 40 * 86_400_000
        assert len(here.asked()) <= 2


async def test_results_come_in_order_and_no_more_than_so_many_are_under_way() -> None:
    import anyio

    running = most = 0
    got: list[int] = []

    async def call(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(20 - number % 7):
            await anyio.lowlevel.checkpoint()
        running -= 1
        return number

    async def deliver(number: int) -> None:
        got.append(number)

    from functools import partial

    await in_order([partial(call, number) for number in range(50)], 4, deliver)
    assert got == list(range(50))
    assert most == 4


async def test_the_first_error_ends_the_others_and_comes_bare() -> None:
    from functools import partial

    import anyio

    got: list[int] = []

    async def call(number: int) -> int:
        if number == 5:
            raise LookupError("five")
        if number > 5:
            await anyio.sleep_forever()
        return number

    async def deliver(number: int) -> None:
        got.append(number)

    with pytest.raises(LookupError, match="five"):
        await in_order([partial(call, number) for number in range(20)], 4, deliver)
    assert got == [0, 1, 2, 3, 4]


def test_golden_is_dense() -> None:
    """The oracle itself: a candle for each minute, empty ones flat."""
    from streammachine.market.simulator import Tape

    tape = Tape.generate(seed=1, symbols=("BTC/USDT",), start_ms=NOW)
    found = golden(tape, "1m", NOW - 100 * MINUTE, NOW)
    assert len(found) == 100
    assert any(candle[5] == 0 and candle[1] == candle[4] for candle, _ in found)
