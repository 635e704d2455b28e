"""Talking to Redis or Valkey, and nothing above it."""
