"""Where candles go: one file per sink, and the outlet that drives any of them."""
