"""Ticks to candles: ``aggregator`` has the public names, ``fast`` and ``reference`` do the same work."""
