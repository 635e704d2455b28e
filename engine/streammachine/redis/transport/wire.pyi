"""The types of ``wire.pyx``; ``wire_reference.py`` documents the names."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from streammachine.redis.transport.wire_reference import (
    NEED_MORE as NEED_MORE,
)
from streammachine.redis.transport.wire_reference import (
    Entry,
    Reply,
)
from streammachine.redis.transport.wire_reference import (
    NeedMore as NeedMore,
)
from streammachine.redis.transport.wire_reference import (
    ProtocolError as ProtocolError,
)
from streammachine.redis.transport.wire_reference import (
    Push as Push,
)
from streammachine.redis.transport.wire_reference import (
    RespError as RespError,
)

def decode_dict_bytes_to_utf8(fields: Mapping[Any, Any]) -> dict[str, str]: ...
def encode_fields(record: Mapping[Any, Any]) -> dict[bytes, bytes]: ...
def encode_xadd_batch(
    key: bytes | str, records: Iterable[Mapping[Any, Any]], maxlen: int = 0, approximate: bool = True
) -> bytes: ...

class ReplyParser:
    def feed(self, data: bytes | bytearray | memoryview) -> None: ...
    def get(self) -> Reply | Literal[NeedMore.NEED_MORE]: ...

def parse_stream_reply(reply: Any) -> dict[bytes, list[Entry]]: ...
def parse_entries(reply: Any) -> list[Entry]: ...
