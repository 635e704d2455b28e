"""Time for the market road: the system's, a scaled one, another machine's."""
