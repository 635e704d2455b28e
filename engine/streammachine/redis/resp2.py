"""RESP2 replies in the shapes of RESP3, which are the only ones that coredis reads.

Source: the Redis documentation's replies of each command in both protocols. In RESP2 a map comes as a flat list of
names and values, a score as text, and a published message as a plain array. What is missing in the table below is equal
in both, or coredis' own callback takes both; the commands of modules are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from coredis.commands.request import CommandRequest
from coredis.constants.resp import DataType
from coredis.parser import Parser

Shape = Callable[[Any, Sequence[str]], Any]  # the reply, and the command's words behind its key in capitals

_PUSHED = frozenset(f"{kind}{what}" for kind in ("", "p", "s") for what in ("message", "subscribe", "unsubscribe"))


def as_resp3(command: bytes, arguments: Sequence[Any], reply: Any, queued: Sequence[CommandRequest[Any]] = ()) -> Any:
    """The reply as RESP3 gives it.

    Args:
        command: its name as coredis has it, such as ``b"XINFO STREAM"``.
        queued: the commands whose replies an EXEC gives.
    """
    if command == b"EXEC" and isinstance(reply, list):
        return [as_resp3(one.name, one.serialized_arguments, item) for one, item in zip(queued, reply, strict=True)]
    shape = _SHAPES.get(command)
    if shape is None or not isinstance(reply, (list, bytes, str)) or reply in (b"QUEUED", "QUEUED"):
        return reply
    return shape(reply, [_text(argument).upper() for argument in arguments[1:]])


class Resp2Parser:
    """coredis' parser, which also tells a published message from a reply once the connection has subscribed."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self.subscribed = False

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._parser.feed(data)

    def on_disconnect(self) -> None:
        """Forget what came."""
        self._parser.on_disconnect()

    def parse(self, decode: bool = False, encoding: str | None = None) -> Any:
        """The next reply or message, with its kind."""
        found = self._parser.parse(decode, encoding)
        if not self.subscribed or not isinstance(found, tuple) or not isinstance(found[1], list) or not found[1]:
            return found
        kind = _text(found[1][0])
        if kind == "pong":  # of a connection that has subscribed
            return DataType.SIMPLE_STRING, b"PONG"
        if kind not in _PUSHED:
            return found
        if kind.endswith("unsubscribe") and found[1][2] == 0:
            self.subscribed = False
        return DataType.PUSH, found[1]


# -- shapes -------------------------------------------------------------------------------------------------------


def _same(reply: Any, _: Sequence[str] = ()) -> Any:
    return reply


def _set(reply: Any, _: Sequence[str] = ()) -> Any:
    return set(map(_hashable, reply))


def _number(reply: Any, _: Sequence[str] = ()) -> Any:
    return float(reply) if isinstance(reply, (bytes, str)) else reply


def _numbers(reply: Any, _: Sequence[str] = ()) -> Any:
    return [_number(item) for item in reply]


def _each(shape: Shape) -> Shape:
    return lambda reply, words: [shape(item, words) for item in reply]


def _mapping(inner: dict[str, Shape] | None = None, rest: Shape = _same) -> Shape:
    """Names and values in turn; ``inner`` shapes the values by name, ``rest`` those of all other names."""
    shapes = inner or {}

    def shape(reply: Any, words: Sequence[str]) -> Any:
        if not isinstance(reply, list):
            return reply
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return {name: shapes.get(_text(name), rest)(value, words) for name, value in pairs}

    return shape


def _pairs(second: Shape) -> Shape:
    def shape(reply: Any, words: Sequence[str]) -> Any:
        return [[one, second(two, words)] for one, two in zip(reply[::2], reply[1::2], strict=True)]

    return shape


def _where(word: str, shape: Shape, otherwise: Shape = _same) -> Shape:
    return lambda reply, words: (shape if word in words else otherwise)(reply, words)


def _scored(reply: Any, words: Sequence[str]) -> Any:
    """``[key, [[member, score], ...]]``."""
    return [reply[0], [[member, _number(score)] for member, score in reply[1]]]


def _last_number(reply: Any, words: Sequence[str]) -> Any:
    return [*reply[:-1], _number(reply[-1])]


def _popped(reply: Any, words: Sequence[str]) -> Any:
    """ZPOPMIN's: one member with its score, or with a count a list of them."""
    return _pairs(_number)(reply, words) if words or not reply else _last_number(reply, words)


def _streams(reply: Any, _: Sequence[str]) -> Any:
    return dict(reply)


def _places(reply: Any, words: Sequence[str]) -> Any:
    """GEOSEARCH with coordinates: they are the last of each."""
    return [[*item[:-1], _numbers(item[-1])] for item in reply]


def _coordinates(reply: Any, _: Sequence[str]) -> Any:
    return [_numbers(item) if item is not None else None for item in reply]


def _command_facts(reply: Any, _: Sequence[str] = ()) -> Any:
    """COMMAND and COMMAND INFO: flags and categories are sets."""
    specification = _mapping({"flags": _set, "begin_search": _search, "find_keys": _search})
    found: list[Any] = []
    for item in reply:
        if item is None:
            found.append(None)
            continue
        facts = list(item)
        for place in (2, 6):
            if len(facts) > place:
                facts[place] = set(facts[place])
        if len(facts) > 9:
            facts[7] = set(facts[7])
            facts[8] = {_hashable(specification(one, ())) for one in facts[8]}
            facts[9] = _command_facts(facts[9])
        found.append(facts)
    return found


def _hashable(value: Any) -> Any:
    """As coredis' parser makes what stands in a set."""
    if isinstance(value, dict):
        return tuple((name, _hashable(item)) for name, item in value.items())
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return frozenset(map(_hashable, value)) if isinstance(value, set) else value


def _search(reply: Any, words: Sequence[str]) -> Any:
    return _mapping({"spec": _mapping()})(reply, words)


def _docs(reply: Any, words: Sequence[str]) -> Any:
    arguments: Shape = _each(lambda item, _: _mapping({"arguments": arguments, "flags": _set})(item, ()))
    facts: Shape = _mapping({"arguments": arguments, "subcommands": _docs, "history": _set, "doc_flags": _set})
    return _mapping(rest=facts)(reply, words)


_MAP = _mapping()
_MAPS = _each(_MAP)
_WITH_SCORES = _where("WITHSCORES", _pairs(_number))
_SHAPES: dict[bytes, Shape] = {
    b"HGETALL": _MAP,
    b"CONFIG GET": _MAP,
    b"HRANDFIELD": _where("WITHVALUES", _pairs(_same)),
    b"LCS": _where("IDX", _MAP),
    b"CLIENT TRACKINGINFO": _mapping({"flags": _set}),
    b"HELLO": _MAP,
    b"ACL GETUSER": _mapping({"flags": _set, "selectors": _MAPS}),
    b"ACL LOG": _MAPS,
    b"MEMORY STATS": lambda reply, words: _memory(reply),
    b"FUNCTION STATS": _mapping({"running_script": _MAP, "engines": _mapping(rest=_MAP)}),
    b"FUNCTION LIST": _each(_mapping({"functions": _each(_mapping({"flags": _set}))})),
    b"MODULE LIST": _MAPS,
    b"COMMAND": _command_facts,
    b"COMMAND INFO": _command_facts,
    b"COMMAND DOCS": _docs,
    b"LATENCY HISTOGRAM": _mapping(rest=_mapping({"histogram_usec": _MAP})),
    b"CLUSTER SHARDS": _each(_mapping({"nodes": _MAPS})),
    b"CLUSTER LINKS": _MAPS,
    b"SENTINEL MASTER": _MAP,
    b"SENTINEL MASTERS": _MAPS,
    b"SENTINEL REPLICAS": _MAPS,
    b"SENTINEL SENTINELS": _MAPS,
    b"XINFO STREAM": _mapping({"groups": lambda reply, words: _groups(reply)}),
    b"XINFO GROUPS": _MAPS,
    b"XINFO CONSUMERS": _MAPS,
    b"XREAD": _streams,
    b"XREADGROUP": _streams,
    b"GEOPOS": _coordinates,
    b"ZSCORE": _number,
    b"ZINCRBY": _number,
    b"ZADD": _where("INCR", _number),
    b"ZMSCORE": _numbers,
    b"ZRANK": _where("WITHSCORE", _last_number),
    b"ZREVRANK": _where("WITHSCORE", _last_number),
    b"ZPOPMIN": _popped,
    b"ZPOPMAX": _popped,
    b"BZPOPMIN": _last_number,
    b"BZPOPMAX": _last_number,
    b"ZMPOP": _scored,
    b"BZMPOP": _scored,
}
_SHAPES |= dict.fromkeys(
    (b"ZRANGE", b"ZREVRANGE", b"ZRANGEBYSCORE", b"ZREVRANGEBYSCORE", b"ZRANDMEMBER", b"ZDIFF", b"ZINTER", b"ZUNION"),
    _WITH_SCORES,
)
_SHAPES |= dict.fromkeys(
    (b"GEOSEARCH", b"GEORADIUS", b"GEORADIUSBYMEMBER", b"GEORADIUS_RO", b"GEORADIUSBYMEMBER_RO"),
    _where("WITHCOORD", _places),
)


def _groups(reply: Any) -> Any:
    """The groups of XINFO STREAM FULL; without FULL it is their number."""
    return _each(_mapping({"consumers": _MAPS}))(reply, ()) if isinstance(reply, list) else reply


def _memory(reply: Any) -> Any:
    """MEMORY STATS: numbers, ratios as text, and maps of each database."""
    return {name: _statistic(value) for name, value in zip(reply[::2], reply[1::2], strict=True)}


def _statistic(value: Any) -> Any:
    if isinstance(value, list):
        return _memory(value)
    try:
        return _number(value)
    except ValueError:
        return value


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
