"""Candles, trades, gaps, timeframes and requests. No I/O."""
