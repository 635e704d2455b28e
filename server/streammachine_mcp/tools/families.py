"""The families there are: each ``Family`` in a module of this package. A new file in the folder is a new family."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from streammachine.settings import OPTIONAL_TOOLSETS, TOOLSETS
from streammachine_mcp import tools
from streammachine_mcp.safety import Confirmer
from streammachine_mcp.tools.family import Family, name_of_method

if TYPE_CHECKING:
    from fastmcp.tools import Tool

    from streammachine_mcp.state import ServerState

EVERY_TOOLSET = (*TOOLSETS, *OPTIONAL_TOOLSETS)


def families() -> list[type[Family]]:
    """Every family, in the order of the toolsets in ``settings``, those of one toolset by name.

    Raises:
        ValueError: a family's toolset is not in that list, so no user could choose it.
    """
    for module in pkgutil.iter_modules(tools.__path__, f"{tools.__name__}."):
        importlib.import_module(module.name)
    found = [family for family in Family.__subclasses__() if family.__module__.startswith(f"{tools.__name__}.")]
    for family in found:
        if family.toolset not in EVERY_TOOLSET:
            raise ValueError(f"{family.__name__}.toolset is {family.toolset!r}: settings.TOOLSETS has {EVERY_TOOLSET}.")
    return sorted(found, key=lambda family: (EVERY_TOOLSET.index(family.toolset), family.__name__))


def all_tools(state: ServerState) -> Iterator[Tool]:
    """The tools of the chosen toolsets, those of one toolset by the names of their methods; with ``read_only`` those
    alone that change nothing."""
    confirmer = Confirmer()
    made = [family(state, confirmer) for family in families()]
    for toolset in state.settings.toolsets:
        found = [
            tool
            for family in made
            if family.toolset == toolset
            for tool in family.tools(read_only=state.settings.read_only)
        ]
        yield from sorted(found, key=name_of_method)
