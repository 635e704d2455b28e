"""The tape: made-up trades and the candles they make."""
