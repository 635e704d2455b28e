"""Scopes: what a token may do.

``read``, ``write`` and ``delete`` are for the tools of that kind in every toolset; a toolset's name (``market``) is for
all of its tools, ``market:read`` for those of one kind in it. None includes another: a token that shall read and write
has both. What is no tool (resources, subscriptions, events, completion) needs ``read``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from streammachine_mcp.tools.families import EVERY_TOOLSET, families

READ, WRITE, DELETE = "read", "write", "delete"
KINDS = (READ, WRITE, DELETE)
KNOWN = frozenset((*KINDS, *EVERY_TOOLSET, *(f"{toolset}:{kind}" for toolset in EVERY_TOOLSET for kind in KINDS)))


@dataclass(frozen=True)
class Needed:
    """What a tool needs: ``kind`` is read, write or delete."""

    toolset: str
    kind: str

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of which a token must have one."""
        return (self.kind, self.toolset, f"{self.toolset}:{self.kind}")

    def is_met(self, scopes: Collection[str]) -> bool:
        """Whether a token with these scopes may call it."""
        return any(scope in scopes for scope in self.scopes)


@cache
def needed() -> dict[str, Needed]:
    """What each tool needs, by its name."""
    found = {}
    for family in families():
        for name, hints in family.marked():
            kind = READ if hints.read_only_hint else DELETE if hints.destructive_hint else WRITE
            found[name] = Needed(family.toolset, kind)
    return found
