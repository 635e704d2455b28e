"""The types of ``tick_columns.pyx``; ``tick_columns_reference.py`` documents the names."""

from streammachine.redis.transport.tick_columns_reference import TickReader as TickReader
from streammachine.redis.transport.tick_columns_reference import TickReply as TickReply

ODD: int
GONE: int
