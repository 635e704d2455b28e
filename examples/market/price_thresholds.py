"""Manual mode: handle each candle yourself, and tell when a price is crossed."""

import asyncio

import streammachine as sf


async def main():
    runner = sf.BinanceRunner(
        stream_input=sf.DataInput(
            type="kline",
            symbols=["BTCUSDT"],
            timeframe="1m",
        )
    )

    # No emitters registered - we'll handle data manually
    async for kline in runner.stream():
        # Custom logic for each data point
        price = kline.close

        # Example: Only log when price crosses certain thresholds
        if price > 50000:
            print(f"🚀 BTC above $50k! Current: ${price:,.2f}")
        elif price < 30000:
            print(f"📉 BTC below $30k! Current: ${price:,.2f}")
        else:
            print(f"📊 BTC: ${price:,.2f}")


asyncio.run(main())
