"""Measurements: ``make bench``, or ``make bench ONLY=mcp``. None of them asserts a time."""
