"""The App: what is registered on it, how it starts and ends, its topics."""

from typing import TYPE_CHECKING, Any

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A class of the module that had this path before the package; warns."""
        if not name[0].isupper():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from streammachine.moved import attribute

        return attribute(__name__, name)
