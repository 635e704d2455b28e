"""Chaos: workers are killed and frozen and the server restarted while messages flow; nothing is lost or repeated."""
