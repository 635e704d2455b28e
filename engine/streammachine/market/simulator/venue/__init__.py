"""The common half of a simulated exchange: sockets, subscriptions, REST, limits."""
