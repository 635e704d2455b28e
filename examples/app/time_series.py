"""Time series analytics: a rolling mean over the newest five minutes."""

from streammachine import App, Message, TimeSeriesBuffer, streams_to_dataframe

app = App(name="timeseries_example")
buffer = TimeSeriesBuffer(max_age_seconds=300)  # 5 minutes


@app.agent("ticks", group="analytics")
async def analyze(record: Message):
    # Accumulate recent data
    row = streams_to_dataframe({"ticks": [(record.key, record.message)]})
    buffer.append(row.astype({"value": float}))

    recent_df = buffer.get()
    if len(recent_df) > 0:
        # Run analytics on recent window
        mean_val = recent_df["value"].mean()
        print(f"Rolling mean: {mean_val}")


if __name__ == "__main__":
    app.start()
