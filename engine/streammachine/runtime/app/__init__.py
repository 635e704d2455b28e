"""The App: what is registered on it, how it starts and ends, its topics."""
