"""Where an App stands, so that another process can import it: worker processes and messages that run alone."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from streammachine.errors import StreamMachineError

if TYPE_CHECKING:
    from streammachine.runtime.app.app import App

CHILD_URL = "STREAMMACHINE_CHILD_REDIS_URL"  # names the parent's server to a child; holds its password, if any
CHILD_NAME = "__streammachine_child__"  # a script's __name__ in a child, so that its main block does not run


class NoAppError(StreamMachineError, ValueError):
    """What was named is not there, or no App; nothing of the user's has failed."""


class StartedWhileLoadedError(NoAppError):
    """A child loads the script, and the script starts its App: each child would start children of its own."""

    def __init__(self) -> None:
        super().__init__("The script starts its App while it is loaded. Do that below: if __name__ == '__main__':")


_loading: list[Origin] = []  # what this process loads just now


def refuse_while_loading() -> None:
    """Refuse to run an App in a process that has not loaded its module yet.

    Raises:
        StartedWhileLoadedError: it has not.
    """
    if _loading:
        raise StartedWhileLoadedError


@dataclass(frozen=True)
class Origin:
    """A module (or a script's file) and the name that the App has in it."""

    module: str  # "" for a script
    file: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module or self.file}:{self.attribute}"

    @classmethod
    def of(cls, app: App, module: str) -> Origin | None:
        """Where ``app``, made in ``module``, can be imported from; None where it cannot (notebook, local variable)."""
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
        """The inverse of ``str``: ``package.module:app`` or ``path/to/script.py:app``."""
        place, colon, attribute = text.rpartition(":")
        if not colon or not place or not attribute:
            raise ValueError(f"{text!r} does not name an App. Write package.module:app or path/to/script.py:app.")
        if place.endswith(".py") or os.sep in place:
            return cls("", os.path.abspath(place), attribute)  # noqa: PTH100
        return cls(place, "", attribute)

    def load(self) -> App:
        """Import the App.

        Raises:
            NoAppError: there is no such module, or no App of that name in it. And whatever the module itself raises.
        """
        from streammachine.runtime.app.app import App

        _loading.append(self)
        try:
            namespace = self._namespace()
        finally:
            _loading.remove(self)
        app = namespace.get(self.attribute)
        if not isinstance(app, App):
            known = [name for name, value in namespace.items() if isinstance(value, App)]
            hint = f" There is {', '.join(known)}." if known else ""
            raise NoAppError(f"{self} is no App.{hint}")
        app._origin = self
        return app

    def _namespace(self) -> Mapping[str, Any]:
        if self.file:
            # As multiprocessing does: what the script's classes are pickled under is found in the child too.
            module = ModuleType(CHILD_NAME)
            module.__dict__.update(runpy.run_path(self.file, run_name=CHILD_NAME))
            sys.modules["__main__"] = sys.modules[CHILD_NAME] = module
            return vars(module)
        try:
            return vars(importlib.import_module(self.module))
        except ModuleNotFoundError as error:
            if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                raise  # the module is there, and imports one that is not
            raise NoAppError(f"No module named {error.name!r}.") from None

    def as_script(self, arguments: Sequence[str]) -> None:
        """Have this process look as if Python had been started with the script, or the module, and these arguments."""
        sys.argv[:] = [self.file or self.module, *arguments]
        if self.file:
            sys.path.insert(0, os.path.dirname(self.file))  # noqa: PTH120 - a string, as Python has it there
