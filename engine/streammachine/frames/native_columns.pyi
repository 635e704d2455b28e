"""The types of ``native_columns.pyx``: a page of XRANGE from its bytes into columns of Arrow's layout."""

from collections.abc import Set
from typing import TypeVar

from typing_extensions import Buffer as _Bytes

_Missing = TypeVar("_Missing")

class Buffer(_Bytes):
    def __len__(self) -> int: ...

class TextColumn:
    name: bytes
    data: Buffer
    offsets: Buffer
    bits: Buffer | None
    rows: int
    def texts(self, missing: _Missing) -> list[str | _Missing]: ...

class Page:
    raw: Buffer
    count: int
    def feed(self, data: _Bytes) -> bool | None: ...
    def last_id(self) -> bytes: ...

class Columns:
    ids: TextColumn
    milliseconds: Buffer
    sequences: Buffer
    rows: int
    def __init__(self, wanted: Set[bytes] | None = None, with_ids: bool = True) -> None: ...
    def take(self, page: Page) -> bool: ...
    def finish(self) -> dict[str, TextColumn]: ...
