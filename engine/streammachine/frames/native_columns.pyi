"""The types of ``native_columns.pyx``: a page of XRANGE from its bytes into columns of Arrow's layout."""

from collections.abc import Sequence, Set
from typing import Any, TypeVar

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
    def __init__(self, name: bytes, wanted: bool = True) -> None: ...
    def repeat(self, text: str, count: int) -> None: ...
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
    def __init__(
        self, wanted: Set[bytes] | None = None, with_ids: bool = True, with_sequences: bool = True
    ) -> None: ...
    def take(self, page: Page) -> bool: ...
    def take_entries(self, entries: Sequence[Any]) -> bool: ...
    def finish(self) -> dict[str, TextColumn]: ...
