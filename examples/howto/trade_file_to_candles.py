"""Candles of two timeframes from a file of trades (CSV, .gz, .zip, Parquet; the exchanges' own layouts)."""

from pathlib import Path

import pandas as pd

from streammachine import build_candles

START = 1_735_689_600_000  # 2025-01-01, epoch ms
lines = [f"{START + second * 1000},BTCUSDT,{94_000 + second % 90},0.1" for second in range(900)]
Path("trades.csv").write_text("timestamp,symbol,price,volume\n" + "\n".join(lines) + "\n")

built = build_candles("trades.csv", ["1m", "5m"], to="csv:candles.csv")
print(built.trades, "trades,", built.candles, "candles")
print(pd.read_csv("candles.csv").groupby("timeframe")[["high", "volume", "n_trades"]].max())
