"""What is told of a running App: health, metrics, the status page, spans."""
