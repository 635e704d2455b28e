"""The App: agents and timers on Redis Streams."""
