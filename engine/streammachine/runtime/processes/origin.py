"""Where an App can be imported from, so that a worker process or the process of an isolated message can load it.

``children/loading.py`` does the loading.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streammachine.errors import StreamMachineError

CHILD_URL = "STREAMMACHINE_CHILD_REDIS_URL"  # names the parent's server to a child; holds its password, if any
CHILD_NAME = "__streammachine_child__"  # a script's __name__ in a child, so that its main block does not run


class NoAppError(StreamMachineError, ValueError):
    """There is no such module, or no App of that name in it. The user's own code has not failed."""


class StartedWhileLoadedError(NoAppError):
    """A child loads the script, and the script starts its App: each child would start children of its own."""

    def __init__(self) -> None:
        super().__init__("The script starts its App while it is loaded. Do that below: if __name__ == '__main__':")


_loading: list[Origin] = []  # what this process is importing


@contextlib.contextmanager
def being_loaded(origin: Origin) -> Iterator[None]:
    """Within this block no App may be started: its module is not loaded yet."""
    _loading.append(origin)
    try:
        yield
    finally:
        _loading.remove(origin)


def refuse_while_loading() -> None:
    """Refuse to run an App in a process that is still importing its module.

    Raises:
        StartedWhileLoadedError: it is.
    """
    if _loading:
        raise StartedWhileLoadedError


@dataclass(frozen=True)
class Origin:
    """Where an App can be imported from: a module (or a script's file), and the App's name there."""

    module: str  # "" for a script
    file: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module or self.file}:{self.attribute}"

    @classmethod
    def of(cls, app: object, module: str) -> Origin | None:
        """Where an App can be imported from.

        Args:
            app: the App. module: the ``__name__`` of the module that made it.

        Returns:
            None where no other process can import it (a notebook, a local variable).
        """
        namespace = sys.modules.get(module)
        if namespace is None:
            return None
        attribute = next((name for name, value in vars(namespace).items() if value is app), None)
        if attribute is None:
            return None
        if module not in ("__main__", CHILD_NAME):
            return cls(module, "", attribute)
        spec = getattr(namespace, "__spec__", None)
        if spec is not None and spec.name and spec.name != "__main__":
            return cls(spec.name, "", attribute)  # python -m package.module, or the package's __main__
        file = getattr(namespace, "__file__", None)
        return cls("", os.path.abspath(file), attribute) if file and os.path.exists(file) else None  # noqa: PTH100, PTH110

    @classmethod
    def parse(cls, text: str) -> Origin:
        """The origin that a text names; the inverse of ``str``.

        Args:
            text: ``package.module:app`` or ``path/to/script.py:app``.

        Raises:
            ValueError: it has another form.
        """
        place, colon, attribute = text.rpartition(":")
        if not colon or not place or not attribute:
            raise ValueError(f"{text!r} does not name an App. Write package.module:app or path/to/script.py:app.")
        if place.endswith(".py") or os.sep in place:
            return cls("", os.path.abspath(place), attribute)  # noqa: PTH100
        return cls(place, "", attribute)

    def as_script(self, arguments: Sequence[str]) -> None:
        """Set ``sys.argv`` and ``sys.path`` as if Python had been started with the script (or module) and arguments."""
        sys.argv[:] = [self.file or self.module, *arguments]
        if self.file:
            sys.path.insert(0, os.path.dirname(self.file))  # noqa: PTH120 - a string, as Python has it there
