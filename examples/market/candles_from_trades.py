"""Candles folded from trades, of timeframes that the exchange does not have."""

import asyncio

import streammachine as sf

# The trades of the exchange, folded here: also timeframes that it has no candles of.
stream = sf.DataInput(type="trade", symbols=["BTC/USD"], timeframe="1m", aggregate_list=["3m"])


async def main():
    async for kline in sf.KrakenRunner(stream, active_warmup=True).stream():
        print(f"{kline.timeframe} {kline.symbol}: {kline.n_trades} trades, close {kline.close}")


asyncio.run(main())
