"""The message of a held entry, as the handler gets it."""

from __future__ import annotations

import time

from streammachine.redis.storage import Storage
from streammachine.runtime.delivery.group import Item
from streammachine.runtime.model.headers import ATTEMPT, ORIGIN_ID, SENT
from streammachine.runtime.model.message import Message


def message_of(topic: str, item: Item, consumer_id: str | None = None, state: Storage | None = None) -> Message:
    """The message of a held entry; one from a retry companion shows its own stream's id and all attempts.

    Args:
        topic: the stream. item: the entry. consumer_id: who reads it. state: what ``message.state`` gives.

    Returns:
        The message, received now.
    """
    fields = item.fields
    key, attempt = item.id, max(1, item.deliveries)
    if item.lane.companion:
        key = fields.get(ORIGIN_ID, key)
        attempt += _whole(fields.get(ATTEMPT))
    sent = fields.get(SENT)
    message = Message(
        topic, key.decode(), _seconds(sent) if sent is not None else None, time.time(), consumer_id, fields, attempt
    )
    message._state = state
    return message


def _seconds(text: bytes) -> float | None:
    try:
        return int(text) / 1000
    except ValueError:
        return None


def _whole(text: bytes | None) -> int:
    try:
        return int(text) if text is not None else 0
    except ValueError:
        return 0
