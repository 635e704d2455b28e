"""SQL over streams, candles, aggregators and dead letters: DuckDB in a process of its own, with bounds."""
