"""Time for the market package: the system's, a scaled one, another machine's."""
