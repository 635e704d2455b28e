"""Data flow: what to stream, a runner, an emitter, and go."""

import asyncio

import streammachine as sf


async def main():
    # 1. Configure what to stream
    stream = sf.DataInput(
        type="kline",
        symbols=["BTCUSDT"],
        timeframe="1m",
    )

    # 2. Create runner
    runner = sf.BinanceRunner(stream_input=stream)

    # 3. Add emitter
    runner.register_emitter(sf.Logger(prefix="Binance"))

    # 4. Start!
    await runner.run()


asyncio.run(main())
