"""The embedded Valkey: its server, its process and its files."""
