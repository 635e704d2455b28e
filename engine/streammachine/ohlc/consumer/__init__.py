"""A consumer that turns a tick stream into candle streams, each candle once."""
