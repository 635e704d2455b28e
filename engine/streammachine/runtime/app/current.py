"""The App whose task is running."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streammachine.runtime.app.app import App


# The App whose hook, handler or timer this is.
inside: contextvars.ContextVar[App | None] = contextvars.ContextVar("streammachine_app", default=None)
