"""Exchanges to candles to sinks. The public names are handed on by ``streammachine``."""
