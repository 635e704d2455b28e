"""A year of candles into Parquet files, read back as one table. Killed and started again, it goes on where it was."""

import pandas as pd

import streammachine as sf

backfill = sf.BinanceBackfilling("BTCUSDT", "1m", "2024-01-01", "2024-12-31")
backfill.register_emitter(sf.ParquetEmitter("candles"))
backfill.run()

table = pd.read_parquet("candles")
print(len(table), "candles,", len(backfill.gaps), "gaps")
print(table.groupby(pd.to_datetime(table["open_ts"], unit="ms").dt.month)["close"].last())
