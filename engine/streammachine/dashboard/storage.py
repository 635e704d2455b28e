"""The view of the shared storage: its keys, and the value of one as text; nothing is unpickled but plain data."""

from __future__ import annotations

import json
from typing import Any

import anyio.to_thread

from streammachine.dashboard.board import PAGE, Dashboard, cut, matching, page_of
from streammachine.errors import StreamMachineError
from streammachine.redis.storage import Storage

MOST_BYTES = 1 << 20  # of a value that is opened
MOST_TEXT = 20_000  # characters of it that are shown


async def storage_view(board: Dashboard, query: dict[str, str]) -> dict[str, Any]:
    """A page of the keys, with the sizes of their values; of a chosen key its value."""
    storage = Storage(await board.connection())
    names = matching(sorted(await storage.keys()), query)
    first, last = page_of(query, len(names))
    rows = [{"name": name, "bytes": await storage.stored_bytes(name)} for name in names[first:last]]
    found: dict[str, Any] = {"total": len(names), "first": first, "rows": rows, "key": "", "page": PAGE}
    if key := query.get("key", ""):
        found |= {"key": key, **await _value(storage, key)}
    return found


async def _value(storage: Storage, key: str) -> dict[str, Any]:
    size = await storage.stored_bytes(key)
    if size > MOST_BYTES:
        return {"note": f"The value has {size:,} bytes: too large to be shown here."}
    stored = await storage.read_raw(key)
    if stored is None:
        return {"note": "This key has no value any more."}
    try:
        return {"value": await anyio.to_thread.run_sync(_shown, storage, key, stored)}
    except StreamMachineError as error:
        return {"note": f"Not shown: {cut(error)}"}


def _shown(storage: Storage, key: str, stored: bytes) -> str:
    value = storage.decode_plain(key, stored)
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        try:
            text = repr(value)
        except (ValueError, RecursionError):
            text = f"<{type(value).__name__}>"
    return cut(text, MOST_TEXT)
