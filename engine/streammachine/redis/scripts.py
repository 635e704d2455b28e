"""Lua scripts whose keys and arguments have names, and Lua that scripts of several rooms share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from streammachine.redis.commands import RedisCommands

MAY = files(__package__).joinpath("may.lua").read_text()  # the function refusal(command, ...), for the top of a script
AHEAD = files(__package__).joinpath("ids.lua").read_text()  # the function ahead(a, b), for the top of a script

Value = bytes | str | int
_INDEX = re.compile(r"\b(KEYS|ARGV)\[(\d+)\]")


class LuaScript:
    """A script to be called with its keys and arguments by name; the server runs it as one.

    Args:
        source: the Lua text, which sees them as KEYS and ARGV, in the order of ``keys`` and ``args``.
        keys, args: their names. One that begins with ``*`` is the last, and takes a list.

    Raises:
        ValueError: the source asks for a key or an argument that has no name, or never for one that has.

    Example::

        ADD = LuaScript("return redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])", keys=("hash",), args=("field", "by"))
        total = await ADD(redis, hash="counts", field="orders", by=1)
    """

    def __init__(self, source: str, *, keys: Sequence[str], args: Sequence[str] = ()) -> None:
        self.source = source
        self._keys = tuple(keys)
        self._args = tuple(args)
        for kind, names in (("KEYS", self._keys), ("ARGV", self._args)):
            single = {number for number, name in enumerate(names, 1) if not name.startswith("*")}
            used = {int(index) for found, index in _INDEX.findall(source) if found == kind}
            whole = re.search(rf"\b{kind}\b(?!\[\d)", source)  # a loop over all of them
            if (used - single and len(single) == len(names)) or (single - used and not whole):
                raise ValueError(f"A script with {kind} {names} uses {kind} {sorted(used)}.")

    async def __call__(self, connection: RedisCommands, /, *, repeatable: bool = False, **values: Any) -> Any:
        """Run it, and give its reply.

        Args:
            repeatable: it may run twice without harm, so it is sent again where the connection broke.
            values: the keys and arguments by name: bytes, text or whole numbers; lists for those with a ``*``.

        Raises:
            TypeError: one is missing, or has no such name. What ``RedisConnection.command`` raises.
        """
        return await connection.command(*self.command(**values), repeatable=repeatable)

    def command(self, **values: Any) -> list[Value]:
        """The command that runs it, for callers with a way of their own to send it."""
        given = len(values)
        keys = _taken(self._keys, values)
        arguments = _taken(self._args, values)
        if given != len(self._keys) + len(self._args):
            names = {name.lstrip("*") for name in (*self._keys, *self._args)}
            raise TypeError(f"A script takes {sorted(names)}, not also {sorted(set(values) - names)}.")
        return ["EVAL", self.source, len(keys), *keys, *arguments]


def _taken(names: Sequence[str], values: Mapping[str, Any]) -> list[Value]:
    found: list[Value] = []
    try:
        for name in names:
            if name.startswith("*"):
                found.extend(values[name[1:]])
            else:
                found.append(values[name])
    except KeyError as error:
        raise TypeError(f"A script's {error.args[0]!r} is missing; it takes {names}.") from None
    return found
