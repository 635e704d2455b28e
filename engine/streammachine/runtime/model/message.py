"""Message: what a handler gets."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from streammachine.errors import StreamMachineError
from streammachine.redis.transport.codec import decode_dict_bytes_to_utf8
from streammachine.runtime.model.headers import ATTEMPT, HEADER, ORIGIN_ID, SENT
from streammachine.runtime.model.retry import Retry

if TYPE_CHECKING:
    from pydantic import BaseModel

    from streammachine.runtime.delivery.group import Item
    from streammachine.runtime.delivery.slot_state import SlotState

    M = TypeVar("M", bound=BaseModel)


class _Kept:
    """What a message keeps beside its fields."""

    _decoded: dict[str, str] | None = None
    _state: SlotState | None = None


@dataclass(eq=False, repr=False)
class Message(_Kept):
    """One message as a handler sees it. Two of them are equal only where they are the same.

    Attributes:
        topic: the stream it was sent to. key: its id there ("ms-seq"). sent, received: seconds since the epoch
        (``sent`` is None where the sender noted none). consumer_id: who reads it. data: the raw fields.
        attempt: 1 the first time.
    """

    topic: str | None = None
    key: str | None = None
    sent: float | None = None
    received: float | None = None
    consumer_id: str | None = None
    data: dict[bytes, bytes] | None = None
    attempt: int = 1

    @classmethod
    def of_item(cls, topic: str, item: Item, consumer_id: str | None = None, state: SlotState | None = None) -> Message:
        """The message of a held entry; one from a retry companion shows its own stream's id and all attempts."""
        fields = item.fields
        key, attempt = item.id, max(1, item.deliveries)
        if item.lane.companion:
            key = fields.get(ORIGIN_ID, key)
            attempt += _whole(fields.get(ATTEMPT))
        sent = fields.get(SENT)
        message = cls(
            topic, key.decode(), _seconds(sent) if sent is not None else None, time.time(), consumer_id, fields, attempt
        )
        message._state = state
        return message

    @property
    def state(self) -> SlotState:
        """Values shared by this group on this stream, in the stream's Cluster slot; as ``app.storage`` in its methods.

        Raises:
            StreamMachineError: the message was not given out by a consumer.
        """
        if self._state is None:
            raise StreamMachineError("This message has no state: it was not given out by a consumer.")
        return self._state

    @property
    def message(self) -> dict[str, str]:
        """The fields as text, ours left out; decoded once. Bytes that are not UTF-8 show as ``\\xff``."""
        if self._decoded is None:
            decoded = decode_dict_bytes_to_utf8(self.data or {})
            self._decoded = {name: value for name, value in decoded.items() if not name.startswith(HEADER)}
        return self._decoded

    @property
    def timer(self) -> str:
        """Time from sending to receiving as ``"topic: task X.XX ms"``; "" where the sender noted no time."""
        if self.sent is None or self.received is None:
            return ""
        return f"{self.topic}: task {(self.received - self.sent) * 1000:.2f} ms"

    def json(self, field: str | None = None) -> Any:
        """The value of ``field`` parsed as JSON; without a field, that of the only field.

        Raises:
            KeyError: there is no such field. ValueError: it is no JSON, or there are several fields.
        """
        raw = self._payload()
        if field is None:
            if len(raw) != 1:
                raise ValueError(f"The message has {len(raw)} fields ({', '.join(self.message)}); name one.")
            return json.loads(next(iter(raw.values())))
        return json.loads(raw[field.encode()])

    def model(self, model: type[M]) -> M:
        """The fields validated as a pydantic model; texts become the types that it declares.

        Raises:
            pydantic.ValidationError: they do not fit (an agent sends such a message to its dead letters at once).
        """
        return model.model_validate(self.message)

    def raw(self, field: str) -> bytes | None:
        """The bytes of a field, unchanged; None where it is missing."""
        return (self.data or {}).get(field.encode())

    def to_dict(self) -> dict[str, Any]:
        """All attributes, for logs."""
        return {
            "topic": self.topic,
            "key": self.key,
            "sent": self.sent,
            "received": self.received,
            "consumer_id": self.consumer_id,
            "attempt": self.attempt,
            "message": self.message,
        }

    def _payload(self) -> dict[bytes, bytes]:
        return {name: value for name, value in (self.data or {}).items() if not name.startswith(b"sm-")}

    def __repr__(self) -> str:
        return f"Message(topic={self.topic!r}, key={self.key!r}, attempt={self.attempt}, message={self.message!r})"


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


class MessageBatch(list[Message]):
    """What a batch handler gets: the messages, and a way to fail some of them alone."""

    def __init__(self, messages: Sequence[Message]) -> None:
        super().__init__(messages)
        self.failed: dict[int, Exception] = {}

    def fail(self, message: Message, error: BaseException | str) -> None:
        """Count this message as failed; the others are finished when the handler returns.

        Raises:
            ValueError: the message is not one of the batch.
        """
        reason = Retry(reason=str(error)) if not isinstance(error, Exception) else error
        for index, candidate in enumerate(self):
            if candidate is message:
                self.failed[index] = reason
                return
        raise ValueError("The message is not part of this batch.")
