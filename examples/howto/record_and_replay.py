"""Record what an exchange sends, and play it again without the exchange: the same candles."""

import asyncio

import streammachine as sf


async def closes(runner, count):
    found = []
    async for kline in runner.stream():
        found.append((kline.symbol, kline.open_ts, kline.close))
        if len(found) == count:
            break
    await runner.close()
    return found


async def main():
    live = sf.BinanceRunner(sf.DataInput("kline", ["BTCUSDT", "ETHUSDT"], "1m"), record="market.frames")
    first = await closes(live, 6)
    print("recorded:", len(first), "candles")
    second = await closes(sf.Runner(frames="market.frames"), len(first))
    print("replayed:", len(second), "candles, the same:", sorted(second) == sorted(first))


asyncio.run(main())
