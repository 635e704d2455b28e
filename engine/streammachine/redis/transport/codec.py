"""The codec in use: ``wire.pyx`` where it is built, else its plain-Python twin ``wire_reference.py``.

Everybody imports the names from here, so nobody needs to know which one runs. ``HAS_NATIVE`` tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streammachine.redis.transport.wire_reference import (
    NEED_MORE,
    Entry,
    NeedMore,
    ProtocolError,
    Push,
    Reply,
    RespError,
)

if TYPE_CHECKING:
    from streammachine.redis.transport.wire_reference import (
        ReplyParser,
        decode_dict_bytes_to_utf8,
        encode_fields,
        encode_xadd_batch,
        parse_entries,
        parse_stream_reply,
    )

    HAS_NATIVE: bool
else:
    try:
        from streammachine.redis.transport.wire import (
            ReplyParser,
            decode_dict_bytes_to_utf8,
            encode_fields,
            encode_xadd_batch,
            parse_entries,
            parse_stream_reply,
        )

        HAS_NATIVE = True
    except ImportError:
        from streammachine.redis.transport.wire_reference import (
            ReplyParser,
            decode_dict_bytes_to_utf8,
            encode_fields,
            encode_xadd_batch,
            parse_entries,
            parse_stream_reply,
        )

        HAS_NATIVE = False

_has_cython_decode: Final = HAS_NATIVE
"""Whether ``decode_dict_bytes_to_utf8`` is the compiled one."""

__all__ = [
    "HAS_NATIVE",
    "NEED_MORE",
    "Entry",
    "NeedMore",
    "ProtocolError",
    "Push",
    "Reply",
    "ReplyParser",
    "RespError",
    "_has_cython_decode",
    "decode_dict_bytes_to_utf8",
    "encode_fields",
    "encode_xadd_batch",
    "parse_entries",
    "parse_stream_reply",
]
