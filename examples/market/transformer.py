"""Transformers: each row is changed before it is written."""

import asyncio

import streammachine as sf


def my_transformer(data: dict) -> dict:
    """Add computed fields"""
    return {
        **data,
        "price_range": data["high"] - data["low"],
        "is_bullish": data["close"] > data["open"],
    }


emitter = sf.CSVEmitter(file_path="transformed.csv")
emitter.set_transformer(my_transformer)

runner = sf.BinanceRunner(sf.DataInput(type="kline", symbols=["BTCUSDT"], timeframe="1m"))
runner.register_emitter(emitter)
asyncio.run(runner.run())
