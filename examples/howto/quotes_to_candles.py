"""Candles of the mid-price, folded from the best bid and ask."""

import asyncio

import streammachine as sf


async def main():
    mids = sf.FastOHLC([1_000])
    runner = sf.BinanceRunner(sf.DataInput("quote", ["BTCUSDT"], every="100ms"))
    done = []
    async for quote in runner.stream():
        mids.update_tick(quote.symbol, quote.mid, 0.0, quote.ts)
        done = mids.get_completed_candles(quote.symbol, 1_000, before_timestamp=quote.ts)
        if len(done) >= 3:
            break
    await runner.close()
    for candle in done:
        print(candle.candle_start_ms, candle.open, candle.high, candle.low, candle.close, candle.trade_count, "quotes")


asyncio.run(main())
