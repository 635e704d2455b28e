"""Message: what a handler gets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from streammachine.errors import StreamMachineError
from streammachine.redis.transport.codec import decode_dict_bytes_to_utf8
from streammachine.runtime.model.headers import HEADER
from streammachine.runtime.model.retry import Retry

if TYPE_CHECKING:
    from pydantic import BaseModel

    from streammachine.redis.storage import Storage

    M = TypeVar("M", bound=BaseModel)


class _Kept:
    """What a message keeps beside its fields."""

    _decoded: dict[str, str] | None = None
    _state: Storage | None = None


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

    @property
    def state(self) -> Storage:
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

        Example:
            >>> Message(data={b"order": b'{"id": 7}'}).json()
            {'id': 7}

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

        Args:
            model: the model's class.

        Raises:
            pydantic.ValidationError: they do not fit (an agent sends such a message to its dead letters at once).
        """
        return model.model_validate(self.message)

    def raw(self, field: str) -> bytes | None:
        """The bytes of a field, unchanged; None where it is missing.

        Args:
            field: its name.
        """
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


class MessageBatch(list[Message]):
    """What a batch handler gets: the messages, and a way to fail some of them alone.

    Example:
        >>> batch = MessageBatch([Message(key="1-0"), Message(key="2-0")])
        >>> batch.fail(batch[1], "no such order")
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        super().__init__(messages)
        self.failed: dict[int, Exception] = {}

    def fail(self, message: Message, error: BaseException | str) -> None:
        """Count this message as failed; the others are finished when the handler returns.

        Args:
            message: one of the batch. error: why; it is tried again by the agent's retry policy.

        Raises:
            ValueError: the message is not one of the batch.
        """
        reason = Retry(reason=str(error)) if not isinstance(error, Exception) else error
        for index, candidate in enumerate(self):
            if candidate is message:
                self.failed[index] = reason
                return
        raise ValueError("The message is not part of this batch.")
