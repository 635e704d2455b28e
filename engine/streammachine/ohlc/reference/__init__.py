"""The candle engine in plain Python: the same rooms as the native one, bit for bit."""
