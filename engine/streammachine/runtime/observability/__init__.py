"""Watching a running App: health, metrics, the status page, spans."""
