"""Candles from finer candles and from trades."""
