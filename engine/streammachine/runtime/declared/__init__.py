"""Agents declared over MCP: their expressions, their record in Redis, the process that runs them."""
