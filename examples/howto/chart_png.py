"""Candles of the past as a chart with an average and RSI: chart.png."""

from pathlib import Path

import streammachine as sf

kept = sf.FrameEmitter()
backfill = sf.BinanceBackfilling("BTCUSDT", "5m", "2024-01-01", "2024-01-01")
backfill.register_emitter(kept)
backfill.run()
frame = kept.frame()

candles = {name: frame[name].tolist() for name in ("open", "high", "low", "close", "volume")}
values = sf.compute_indicators(["sma:20", "rsi:14"], candles)
chart = sf.Chart(
    "BTCUSDT · 5m",
    frame["open_ts"].tolist(),
    **candles,
    lines=[
        sf.ChartLine("sma20", {"sma20": values["sma20"]}, ["line"], on_price=True),
        sf.ChartLine("rsi14", {"rsi14": values["rsi14"]}, ["line"], on_price=False),
    ],
)
Path("chart.png").write_bytes(sf.draw_chart(chart))
print(len(frame), "candles drawn to", Path("chart.png").resolve())
