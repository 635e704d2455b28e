"""Faults that a simulated exchange shows, and scripts of them."""
