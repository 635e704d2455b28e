"""Loading the App that a child process is to run, from where its parent has it."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from streammachine.runtime.app.app import App
from streammachine.runtime.processes.origin import CHILD_NAME, NoAppError, Origin, being_loaded


def load_app(origin: Origin) -> App:
    """Import an App.

    Args:
        origin: its module or script, and its name there.

    Returns:
        The App; it knows its origin, so that its own children load the same.

    Raises:
        NoAppError: there is no such module, or no App of that name in it. And whatever the module itself raises.
    """
    with being_loaded(origin):
        namespace = _namespace(origin)
    app = namespace.get(origin.attribute)
    if not isinstance(app, App):
        known = [name for name, value in namespace.items() if isinstance(value, App)]
        hint = f" There is {', '.join(known)}." if known else ""
        raise NoAppError(f"{origin} is no App.{hint}")
    app._origin = origin
    return app


def _namespace(origin: Origin) -> Mapping[str, Any]:
    if origin.file:
        # As multiprocessing does: what the script's classes are pickled under is found in the child too.
        module = ModuleType(CHILD_NAME)
        module.__dict__.update(runpy.run_path(origin.file, run_name=CHILD_NAME))
        sys.modules["__main__"] = sys.modules[CHILD_NAME] = module
        return vars(module)
    try:
        return vars(importlib.import_module(origin.module))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{origin.module}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        raise NoAppError(f"No module named {error.name!r}.") from None
