"""The views of streams and of consumer groups."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from streammachine.dashboard.board import Dashboard, ask, cut, matching, number, page_of, text
from streammachine.redis import streams
from streammachine.runtime.delivery.keys import Companions, dead_letters

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

LARGE = 65_536  # bytes an entry: the ends of such a stream are not fetched again and again
LAG_AGE = 10.0  # seconds for which a lag that had to be counted is kept
MOST_ENTRIES = 20
_counted: dict[
    tuple[str, str], tuple[float, int]
] = {}  # lags that the server does not know, and when they were counted


async def streams_view(board: Dashboard, query: dict[str, str]) -> dict[str, Any]:
    """A page of the streams: rate, length, memory, groups, dead letters."""
    names = matching(await board.names.get(), query)
    connection = await board.connection()
    if query.get("sort") in ("length", "memory") and not connection.is_cluster:
        names = await _by_size(board, connection, names, query["sort"])
    first, last = page_of(query, len(names))
    return {"total": len(names), "first": first, "rows": await _rows(board, connection, names[first:last])}


async def _by_size(board: Dashboard, connection: RedisConnection, names: Sequence[str], what: str) -> list[str]:
    """The names, the largest first; the sizes may be a while old where there are very many."""
    command = ("XLEN",) if what == "length" else ("MEMORY", "USAGE")

    async def look() -> dict[str, int]:
        found: dict[str, int] = {}
        every = await board.names.get()
        for start in range(0, len(every), 1000):
            chunk = every[start : start + 1000]
            replies = await ask(connection, [(*command, name) for name in chunk])
            found |= {name: int(reply or 0) for name, reply in zip(chunk, replies, strict=True)}
        return found

    sizes = await board.kept(what, look)
    return sorted(names, key=lambda name: (-sizes.get(name, 0), name))


async def _rows(board: Dashboard, connection: RedisConnection, names: Sequence[str]) -> list[dict[str, Any]]:
    kinds = ("XLEN", "MEMORY", "XINFO", "dead")
    commands: list[tuple[str | int, ...]] = []
    for name in names:
        commands += [("XLEN", name), ("MEMORY", "USAGE", name), ("XINFO", "GROUPS", name), ("XLEN", dead_letters(name))]
    replies = await ask(connection, commands)
    parts = {name: replies[at * len(kinds) : (at + 1) * len(kinds)] for at, name in enumerate(names)}
    small = [name for name, (size, memory, *_) in parts.items() if size and (memory or 0) / size < LARGE]
    told = dict(zip(small, await ask(connection, [("XINFO", "STREAM", name) for name in small]), strict=True))
    rows = []
    for name, (size, memory, groups, dead) in parts.items():
        facts = streams.pairs(told[name]) if told.get(name) else {}
        added = facts.get("entries-added")
        found = [streams.pairs(group) for group in groups or ()]
        lags = [group.get("lag") for group in found]
        rows.append(
            {
                "name": name,
                "length": int(size or 0),
                "rate": board.rate(name, added if isinstance(added, int) else None),
                "memory": int(memory) if memory is not None else None,
                "age": _age(facts.get("last-generated-id")) if size else None,
                "groups": len(found),
                "lag": sum(lag for lag in lags if isinstance(lag, int)) if found and None not in lags else None,
                "dead": int(dead or 0),
            }
        )
    return rows


async def groups_view(board: Dashboard, query: dict[str, str]) -> dict[str, Any]:
    """A page of the groups, the furthest behind first: lag, pending, the oldest message under way."""
    places = await board.survey.behind()
    if wanted := query.get("q", "").lower():
        places = [place for place in places if wanted in place[0].lower() or wanted in place[1].lower()]
    if query.get("sort") == "name":
        places = sorted(places)
    first, last = page_of(query, len(places))
    connection = await board.connection()
    facts = await group_facts(connection, places[first:last])
    rows = [{"stream": place[0], "group": place[1], **facts[place]} for place in places[first:last] if facts.get(place)]
    return {"total": len(places), "first": first, "rows": rows, "note": board.survey.note}


async def group_facts(
    connection: RedisConnection, places: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Lag, pending, the age of the oldest, consumers and delayed messages of groups; what is gone is empty."""
    commands: list[tuple[str | int, ...]] = []
    for stream, group in places:
        keys = Companions(stream, group)
        commands += [
            ("XINFO", "GROUPS", stream), ("XPENDING", stream, group), ("ZCARD", keys.delayed), ("XLEN", keys.retry),
        ]  # fmt: skip
    replies = await ask(connection, commands)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for at, place in enumerate(places):
        groups, pending, later, retry = replies[4 * at : 4 * at + 4]
        facts = next((each for each in map(streams.pairs, groups or ()) if text(each["name"]) == place[1]), None)
        if facts is None:
            found[place] = {}
            continue
        lag = facts.get("lag")
        found[place] = {
            "lag": lag if isinstance(lag, int) else await _count_lag(connection, place, facts),
            "pending": int(facts["pending"]),
            "oldest": _age(pending[1]) if pending and pending[0] else None,
            "consumers": int(facts["consumers"]),
            "delayed": int(later or 0) + int(retry or 0),
        }
    return found


async def _count_lag(connection: RedisConnection, place: tuple[str, str], facts: dict[str, Any]) -> int | None:
    """A lag that the server does not know, counted up to ``streams.LAG_LOOK``, and kept for a while."""
    now = time.monotonic()
    if place in _counted and now - _counted[place][0] < LAG_AGE:
        return _counted[place][1]
    stands = streams.Group(place[1], 0, 0, text(facts["last-delivered-id"]), None)
    if len(_counted) >= 1000:
        _counted.clear()
    _counted[place] = (now, (await streams.lags(connection, place[0], [stands]))[place[1]])
    return _counted[place][1]


async def entries_view(board: Dashboard, query: dict[str, str]) -> dict[str, Any]:
    """The newest entries of one stream, the newest first."""
    connection = await board.connection()
    stream = query.get("stream", "")
    await streams.require_stream(connection, stream)
    entries = await streams.read_newest(connection, stream, MOST_ENTRIES)
    rows = [{"id": each.id, "age": _age(each.id), "data": shown_fields(each.data)} for each in reversed(entries)]
    return {"total": await streams.length(connection, stream), "first": 0, "rows": rows, "stream": cut(stream)}


def shown_fields(data: dict[str, str], most: int = 1500) -> str:
    """Fields as one text of bounded length."""
    parts, size = [], 0
    for name, value in data.items():
        parts.append(f"{cut(name, 100)}={cut(value)}")
        size += len(parts[-1])
        if size > most:
            parts.append("…")
            break
    return "  ".join(parts)


def _age(identifier: Any) -> float | None:
    """Seconds since the time in an entry's id; None where that is no time."""
    milliseconds = text(identifier or "").partition("-")[0]
    return number(max(0.0, round(time.time() - int(milliseconds) / 1000, 1))) if milliseconds.isdigit() else None
