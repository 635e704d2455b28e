"""What has been loaded at the start is left out of Python's garbage collection, in a process that is an App's own.

A full collection goes through all that is alive, and CPython runs one whenever a quarter as much has been added
(https://docs.python.org/3.11/library/gc.html): under many messages several times a second, each longer by every
library that is loaded, though none of it is ever garbage. ``make bench ONLY=dashboard`` shows what that is.
"""

from __future__ import annotations

import gc

import anyio

FEW = 2000  # objects: Python 3.12 itself leaves some hundred out, and whoever freezes a program some ten thousand


async def hold_what_is_loaded(ready: anyio.Event) -> None:
    """Once it is ready, take all that is alive out of the collection, until cancelled.

    Does nothing where the program has done so itself (``gc.freeze``): what it froze stays its own affair.
    """
    await ready.wait()
    if gc.get_freeze_count() > FEW:
        return
    gc.collect()  # what is garbage now must not stay for good
    gc.freeze()
    try:
        await anyio.sleep_forever()
    finally:
        gc.unfreeze()
