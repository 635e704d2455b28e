"""Sockets and REST: sessions, reconnects, rate limits."""
