"""FastOHLCConsumer: candles of a stream of ticks, each once, without an agent of your own."""

from streammachine import App, FastOHLCConsumer

app = App(name="ohlc_realtime")

consumer = FastOHLCConsumer(
    input_stream="ticks",
    output_stream_prefix="candles",  # Creates candles_1m, candles_5m, etc.
    intervals=[60000, 300000],  # 1min, 5min candles
    group="ohlc_workers",
    price_field="price",
    volume_field="volume",
)


@app.on_startup
async def start_consumer():
    await consumer.start()


@app.on_shutdown
async def stop_consumer():
    await consumer.stop()


if __name__ == "__main__":
    app.start()
