"""Exchanges that ccxt speaks: its sockets, limits and reconnects, our ledgers, healing and sinks."""
