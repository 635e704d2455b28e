"""Alerts: conditions over candles or ticks, kept in Redis, that fire once each time they become true."""
