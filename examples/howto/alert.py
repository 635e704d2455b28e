"""Be woken when a condition over candles comes true: the alert stands in Redis, and its App evaluates it."""

import asyncio

import streammachine as sf

app = sf.App("desk", alerts=True)
woken = asyncio.Event()


@app.on_startup
async def watch():
    condition = "close > prev.close && volume > 0"
    await sf.create_alert(app.redis, sf.Alert("higher", "kline:binance:BTCUSDT:1m", condition, stream="alerts"))


@app.agent("alerts")
async def wake(alert: sf.Message):
    print(alert.message["alert"], "at", alert.message["price"])
    woken.set()


async def main():
    runner = sf.BinanceRunner(sf.DataInput("kline", ["BTCUSDT"], "1m"))
    runner.register_emitter(sf.RedisEmitter())
    async with app:
        live = asyncio.create_task(runner.run())
        await woken.wait()
        await runner.close()
        await live


asyncio.run(main())
