"""Four exchanges as one stream."""

import asyncio

import streammachine as sf

binance = sf.BinanceRunner(sf.DataInput(type="kline", symbols=["BTCUSDT"], timeframe="1m"))
okx = sf.OKXRunner(sf.DataInput(type="candle", symbols=["BTC-USDT"], timeframe="1m"))
kraken = sf.KrakenRunner(sf.DataInput(type="ohlc", symbols=["BTC/USD"], timeframe="1m"))
bybit = sf.BybitRunner(sf.DataInput(type="kline", symbols=["BTCUSDT"], timeframe="1m"))


async def main():
    async for kline in sf.merge_streams(binance, okx, kraken, bybit):
        print(f"{kline.source}: {kline.symbol} @ {kline.close}")


asyncio.run(main())
