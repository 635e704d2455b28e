"""Indicators on live candles: right from the first candle on, since the candles before are loaded too."""

import asyncio

import streammachine as sf


async def main():
    runner = sf.BinanceRunner(sf.DataInput("kline", ["BTCUSDT"], "1m"), indicators=["sma:20", "rsi:14"])
    count = 0
    async for kline in runner.stream():
        print(kline.symbol, kline.close, "sma20", round(kline.sma20, 2), "rsi14", round(kline.rsi14, 1))
        count += 1
        if count == 3:
            break
    await runner.close()


asyncio.run(main())
