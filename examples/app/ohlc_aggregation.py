"""Real-time OHLC aggregation: an agent folds ticks and sends the finished candles."""

from streammachine import App, Message, create_ohlc_aggregator

app = App(name="market_data", dashboard_enabled=True)
agg = create_ohlc_aggregator(intervals=[60000, 300000, 900000])


@app.agent("ticks", group="ohlc_workers")
async def process_ticks(record: Message):
    """Process tick data and aggregate into OHLC candles."""
    msg = record.message

    # Parse tick data
    symbol = msg.get("symbol", "UNKNOWN").encode("utf-8")
    price = float(msg.get("price", 0))
    volume = float(msg.get("volume", 0))

    # Extract timestamp from stream ID
    ts_ms = int(record.key.split("-")[0])

    # Update candles
    agg.update_tick(symbol, price, volume, ts_ms)

    # Periodically emit completed candles
    # (In production, use a timer task)
    for interval in [60000, 300000, 900000]:
        completed = agg.get_completed_candles(symbol, interval)
        for candle in completed:
            await app.send(
                f"candles_{interval // 60000}m",
                {
                    "symbol": symbol.decode("utf-8"),
                    "interval_ms": str(interval),
                    "open": str(candle.open),
                    "high": str(candle.high),
                    "low": str(candle.low),
                    "close": str(candle.close),
                    "volume": str(candle.volume),
                    "trade_count": str(candle.trade_count),
                },
            )
        if completed:
            agg.flush_interval(symbol, interval)


if __name__ == "__main__":
    app.start()
