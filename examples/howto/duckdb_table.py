"""Candles into a table of DuckDB, and a question in SQL."""

import duckdb

import streammachine as sf

backfill = sf.BinanceBackfilling("BTCUSDT", "1m", "2024-01-01", "2024-01-01")
backfill.register_emitter(sf.DuckDBEmitter("candles.duckdb"))
backfill.run()

with duckdb.connect("candles.duckdb") as database:
    hours = database.execute(
        "SELECT date_trunc('hour', epoch_ms(open_ts)) AS hour, sum(volume) AS volume, max(high) AS high "
        "FROM klines GROUP BY 1 ORDER BY 2 DESC LIMIT 3"
    ).fetchall()
for hour, volume, high in hours:
    print(f"{hour:%H:%M}  {volume:.3f} BTC, up to {high}")
