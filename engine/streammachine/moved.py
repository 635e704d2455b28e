"""Where a name stands that had another module in the version before: the old paths stay for one version.

``import streammachine`` puts a finder behind all others, which reads this table only for a module that nobody else
finds; a package that has taken an old module's name asks ``attribute`` for classes. Either way the name is the same
object as at its new path, and using it through the old one warns (DeprecationWarning). Stored pickles name their
classes by module: signed ones are read by way of ``current``, without a warning, and that stays, since data does.
"""

from __future__ import annotations

import importlib
import warnings
from functools import partial
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "streammachine."

# The old module: the modules that hold its names now. All below ``streammachine``.
MOVED: dict[str, tuple[str, ...]] = {
    "market.backfill": ("market.backfill.backfill",),
    "market.clock": ("market.clock.clock",),
    "market.data_input": ("market.model.data_input",),
    "market.emitters.targets": ("market.emitters.sink_text",),
    "market.feed": ("market.live.feed",),
    "market.kline": ("market.model.kline",),
    "market.logs": ("market.log_config",),
    "market.merge": ("market.live.merge",),
    "market.pipeline": ("market.aggregation.pipeline",),
    "market.runner": ("market.live.runner",),
    "market.timeframe": ("market.model.timeframe",),
    "market.timespan": ("market.model.timespan",),
    "ohlc.consumer": ("ohlc.consumer.consumer",),
    "redis.codec": ("redis.transport.codec",),
    "redis.embedded": ("redis.embedded.server",),
    "redis.url": ("redis_url",),
    "runtime.agent": ("runtime.model.agent",),
    "runtime.app": ("runtime.app.app",),
    "runtime.config": ("runtime.model.config",),
    "runtime.consumer": ("runtime.consumer.consumer", "runtime.model.message"),
    "runtime.message": ("runtime.model.message",),
    "runtime.metrics": ("runtime.observability.metrics", "runtime.model.counters"),
    "runtime.redrive": ("runtime.admin.dead_letters",),
    "runtime.retry": ("runtime.model.retry",),
    "runtime.roster": ("runtime.admin.agents",),
    "runtime.running": ("runtime.model.message",),
    "runtime.topics": ("runtime.app.topics",),
    "runtime.tracing": ("runtime.observability.tracing",),
}
# Names that are called otherwise now.
RENAMED = {
    "runtime.redrive.Box": "DeadLetters",
    "runtime.redrive.boxes": "dead_letter_streams",
    "runtime.roster.RosterEntry": "AgentEntry",
    "runtime.roster.roster": "list_agents",
}


def current(module: str, name: str) -> tuple[str, str]:
    """The module and the name that stand for an old path; what has not moved is given back as it came.

    Args:
        module: dotted, with ``streammachine.``. name: of a module-level name, or dotted below one ("Kline.open").

    Raises:
        ImportError: a module of the table cannot be imported.
    """
    old = module.removeprefix(PACKAGE)
    if old == module or old not in MOVED:
        return module, name
    root, dot, rest = name.partition(".")
    root = RENAMED.get(f"{old}.{root}", root)
    for place in MOVED[old]:
        if hasattr(importlib.import_module(PACKAGE + place), root):
            return PACKAGE + place, f"{root}{dot}{rest}"
    return module, name


def attribute(module: str, name: str, *, level: int = 2) -> Any:
    """The value of ``name`` for who asks for it through the old module; warns.

    Args:
        module: the old module's full name; a package may have it now. level: of the caller's frame, as ``warnings``
            counts.

    Raises:
        AttributeError: the old module had no such name that is still there.
    """
    if not name.startswith("__"):
        place, found = current(module, name)
        if place != module:
            value = getattr(importlib.import_module(place), found)
            public = getattr(importlib.import_module("streammachine"), "__all__", ())
            better = f"streammachine.{found}" if found in public else f"{place}.{found}"
            warnings.warn(
                f"{module}.{name} is now {better}; the old path ends with the next version.",
                DeprecationWarning,
                stacklevel=level + 1,
            )
            return value
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def spec_of(module: str) -> ModuleSpec | None:
    """How to make the old module's stand-in; None where the name is no old module's."""
    if module.removeprefix(PACKAGE) not in MOVED:
        return None
    return ModuleSpec(module, _StandIn(), origin=__file__)


class _StandIn(Loader):
    """Makes a module that hands on the names of the new ones."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name, f"The old path of {', '.join(MOVED[spec.name.removeprefix(PACKAGE)])}.")

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = partial(attribute, module.__name__, level=1)
