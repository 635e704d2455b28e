"""Stream iterator: candles by async for."""

import asyncio

import streammachine as sf

stream = sf.DataInput(type="candle", symbols=["BTC-USDT"], timeframe="1m")


async def main():
    runner = sf.OKXRunner(stream_input=stream)

    # Iterate over data manually
    async for kline in runner.stream():
        print(f"Received: {kline.symbol} @ ${kline.close}")

        # Custom logic here
        if kline.close > 50000:
            print("BTC above $50k!")


asyncio.run(main())
