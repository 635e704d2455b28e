"""Aggregation: 5m, 15m and 1h from the 1m candles, a file each, with warm-up."""

import asyncio

import streammachine as sf

stream = sf.DataInput(
    type="kline",  # Data type
    symbols=["BTCUSDT", "ETHUSDT"],  # Trading pairs
    timeframe="1m",  # Candle interval
    aggregate_list=["5m", "15m", "1h"],  # Built from the 1m candles
)

runner = sf.BinanceRunner(
    stream_input=stream,
    active_warmup=True,  # Load what the candles now running need
    emit_warmup=False,  # Do not emit it
)

for timeframe in ["1m", "5m", "15m", "1h"]:
    runner.register_emitter(
        sf.CSVEmitter(source="Binance", symbol="BTCUSDT", timeframe=timeframe, file_path=f"btc_{timeframe}.csv")
    )

asyncio.run(runner.run())
