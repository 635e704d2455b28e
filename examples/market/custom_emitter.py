"""A sink of your own: connect, emit, close."""

import asyncio

import streammachine as sf


class Highest(sf.DataEmitter):
    """Prints a symbol's close whenever it is a new high."""

    name = "highest"

    def __init__(self):
        self.highest = {}

    async def connect(self):
        print("connected")

    async def emit(self, kline):
        if kline.close > self.highest.get(kline.symbol, 0.0):
            self.highest[kline.symbol] = kline.close
            print(f"new high of {kline.symbol}: {kline.close}")

    async def close(self):
        print("closed")


async def main():
    runner = sf.BybitRunner(sf.DataInput(type="kline", symbols=["BTCUSDT", "ETHUSDT"], timeframe="1m"))
    runner.register_emitter(Highest())
    await runner.run()


asyncio.run(main())
