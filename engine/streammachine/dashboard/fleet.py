"""The views of agents, timers, runners, backfills and dead letters, and what can be done to them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from streammachine.dashboard.board import CHUNK, PAGE, Dashboard, ask, cut, matching, number, page_of
from streammachine.dashboard.streams import group_facts, shown_fields
from streammachine.errors import SettingsError
from streammachine.redis import streams
from streammachine.redis.streams import parse_position
from streammachine.runtime.admin.agents import AgentEntry, list_agents, pause_agent
from streammachine.runtime.admin.dead_letters import DeadLetters
from streammachine.runtime.admin.remembered import BACKFILLS, RUNNERS, SILENT, RememberedJobs
from streammachine.runtime.presence import paused_agents, running_processes, set_paused, timer_mark

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

MOST_REDRIVEN = 1000  # letters that one press of a button gives back
MOST_LETTERED = 1000  # dead-letter streams that are looked at
MOST_FRESH = 400  # groups that the view of agents asks about at each look
MOST_PLACES = 2000  # groups that it asks about at all
WRONG = ("failing", "lost")

Gauges = dict[tuple[str, str], dict[str, Any]]  # facts by stream and group


async def agents_view(board: Dashboard, query: dict[str, str]) -> dict[str, Any]:
    """A page of the agents, what has a problem first, and the timers."""
    connection = await board.connection()
    wanted = query.get("q", "").lower()
    entries = [each for each in await list_agents(connection) if wanted in each.name.lower()]
    entries.sort(key=lambda entry: (entry.status not in WRONG, entry.name))
    first, last = page_of(query, len(entries))
    chosen = entries[first:last]
    gauges, note = await _gauges(board, connection, chosen)
    rows = [_agent(entry, gauges) for entry in chosen]
    timers = [row for row in await _timers(connection) if wanted in row["name"].lower()]
    return {
        "total": len(entries), "first": first, "rows": rows, "note": note,
        "timers": timers[:PAGE], "timers_total": len(timers),
    }  # fmt: skip


async def _gauges(board: Dashboard, connection: RedisConnection, chosen: list[AgentEntry]) -> tuple[Gauges, str]:
    """What Redis says of the groups of these agents, and of which agents not all streams were looked at.

    More than ``MOST_FRESH`` are looked at in chunks, and kept for a while.
    """
    places: dict[tuple[str, str], None] = {}
    partly = []
    for entry in sorted(chosen, key=lambda entry: len(entry.streams)):
        mine = list(entry.streams.items())
        places |= dict.fromkeys(mine[: MOST_PLACES - len(places)])
        if not all(place in places for place in mine):
            partly.append(f"{sum(place in places for place in mine):,} of the {len(mine):,} of {cut(entry.name, 60)}")
    told = f"Lag, pending and oldest are of some streams only: {', '.join(partly[:5])}." if partly else ""
    if len(places) <= MOST_FRESH:
        return await group_facts(connection, list(places)), told

    async def look() -> Gauges:
        found: Gauges = {}
        every = list(places)
        for start in range(0, len(every), CHUNK):
            found |= await group_facts(connection, every[start : start + CHUNK])
        return found

    return await board.kept("gauges " + " ".join(entry.name for entry in chosen), look), told


def _agent(entry: AgentEntry, gauges: Gauges) -> dict[str, Any]:
    found = [gauges[place] for place in entry.streams.items() if gauges.get(place)]
    counted = entry.counted()
    alive = [facts for _, facts in entry.alive]
    oldest = [each["oldest"] for each in found if each["oldest"] is not None]
    return {
        "name": entry.name,
        "kind": entry.kind,
        "app": cut(entry.app, 60),
        "streams": cut(", ".join(entry.streams)),
        "state": entry.status,
        "rate": counted["rate"],
        "handled": counted.get("consumed"),
        "failed": counted.get("failed"),
        "dead": counted.get("dead"),
        "handler_ms": _most(alive, "handler_ms"),
        "latency_ms": _most(alive, "latency_ms"),
        "lag": sum(each["lag"] or 0 for each in found) if found else None,
        "pending": sum(each["pending"] + each["delayed"] for each in found) if found else None,
        "oldest": max(oldest) if oldest else None,
        "processes": entry.processes,
        "paused": entry.paused,
        "problem": cut(entry.problem),
    }


def _most(facts: list[Any], name: str) -> float | None:
    values = [value for each in facts if (value := number(each.get(name))) is not None]
    return max(values) if values else None


async def _timers(connection: RedisConnection) -> list[dict[str, Any]]:
    paused = await paused_agents(connection)
    rows: dict[str, dict[str, Any]] = {}
    for process in await running_processes(connection):
        for facts in process.timers if process.alive else ():
            name = str(facts.get("timer"))
            row = rows.setdefault(
                name,
                {
                    "name": name, "app": cut(process.app, 60), "every": cut(facts.get("every", ""), 60),
                    "scope": cut(facts.get("scope", ""), 20), "ticks": 0, "failures": 0, "late_ms": None,
                    "took_ms": None, "processes": 0, "paused": timer_mark(name) in paused,
                },
            )  # fmt: skip
            row["processes"] += 1
            row["ticks"] += number(facts.get("ticks")) or 0
            row["failures"] += number(facts.get("failures")) or 0
            for mine in ("late_ms", "took_ms"):
                row[mine] = max(row[mine] or 0, number(facts.get(mine)) or 0)
    return sorted(rows.values(), key=lambda row: row["name"])


async def pause(board: Dashboard, given: dict[str, Any]) -> str:
    """Pause or resume an agent or a timer in every process."""
    name, paused = str(given.get("name", "")), given.get("paused") is True
    connection = await board.connection()
    if given.get("kind") == "timer":
        if name not in {row["name"] for row in await _timers(connection)}:
            raise SettingsError(f"There is no timer {cut(name)!r}.")
        await set_paused(connection, timer_mark(name), paused)
    else:
        await pause_agent(connection, name, paused)
    return f"{cut(name)} is {'paused' if paused else 'resumed'}: within about a second, in every process."


# -- runners and backfills --------------------------------------------------------------------


async def market_view(board: Dashboard, query: dict[str, str]) -> dict[str, Any]:
    """Runners and backfills: state, rows, gaps healed, the age of the data, progress."""
    connection = await board.connection()
    runners = await _jobs(connection, RUNNERS, query)
    backfills = await _jobs(connection, BACKFILLS, query)
    return {"total": len(runners) + len(backfills), "first": 0, "rows": runners[:PAGE], "backfills": backfills[:PAGE]}


async def _jobs(
    connection: RedisConnection, remembered: RememberedJobs[Any], query: dict[str, str]
) -> list[dict[str, Any]]:
    specs = await remembered.all(connection)
    statuses = await remembered.statuses(connection)
    rows = []
    for name in matching(list(specs), query):
        spec, status = specs[name], statuses.get(name, {"state": "waiting"})
        state, problem = cut(status.get("state"), 40), cut(status.get("problem", ""))
        silent = number(status.get("silent_s")) or 0.0
        if silent > SILENT and state not in ("done", "failed"):
            state, problem = "lost", f"no word from its host for {silent:.0f} s"
        gaps = status.get("gaps")
        symbols = getattr(spec, "symbols", None) or [getattr(spec, "symbol", "")]
        rows.append(
            {
                "name": name,
                "exchange": cut(spec.exchange, 40),
                "symbols": cut(", ".join(map(str, symbols))),
                "timeframe": cut(spec.timeframe or spec.__dict__.get("type", ""), 20),
                "state": state,
                "rate": number(status.get("rate")),
                "done": number(status.get("rows")),
                "healed": number(status.get("healed")),
                "gaps": len(gaps) if isinstance(gaps, list) else number(gaps),
                "reconnects": number(status.get("reconnects")),
                "age": _data_age(status),
                "fraction": number(status.get("fraction")),
                "problem": problem,
            }
        )
    return rows


def _data_age(status: dict[str, Any]) -> float | None:
    """Seconds since the newest candle or trade began."""
    last = status.get("last")
    times = [
        moment
        for each in (last if isinstance(last, list) else ())
        if isinstance(each, dict) and (moment := number(each.get("open_ts", each.get("ts")))) is not None
    ]
    return max(0.0, round(time.time() - max(times) / 1000, 1)) if times else None


# -- dead letters -----------------------------------------------------------------------------


async def letters_view(board: Dashboard, query: dict[str, str]) -> dict[str, Any]:
    """The streams that have dead letters; of a chosen one a page of letters, the newest first."""
    connection = await board.connection()
    names = [name for name in await board.names.get(own=True) if name.endswith(":dlq") and streams.is_own(name)]
    replies = await ask(connection, [("XLEN", name) for name in names[:MOST_LETTERED]])
    counts = {name: int(reply or 0) for name, reply in zip(names, replies, strict=False)}
    kept = [{"key": name, "stream": _origin(name), "count": count} for name, count in sorted(counts.items()) if count]
    chosen = query.get("stream", "")
    found: dict[str, Any] = {"total": len(kept), "first": 0, "rows": kept[: 2 * PAGE], "letters": [], "stream": chosen}
    if chosen:
        letters = await DeadLetters.open(connection, chosen)
        before = query.get("before") or None
        newest, more = await letters.newest(connection, PAGE // 2, before=parse_position(before) if before else None)
        found |= {
            "before": before or "",
            "count": await letters.count(connection),
            "more": more,
            "letters": [
                {
                    "id": letter.id,
                    "reason": cut(letter.fact("reason"), 40),
                    "group": cut(letter.fact("group"), 80),
                    "attempts": cut(letter.fact("attempts"), 20),
                    "failed": int(when) if (when := letter.fact("failed-at")).isdigit() and len(when) < 16 else None,
                    "error": cut(f"{letter.fact('error-type')}: {letter.fact('error')}".strip(": ")),
                    "payload": shown_fields(letter.data),
                }
                for letter in newest
            ],
        }
    return found


def _origin(key: str) -> str:
    name = key.removesuffix(":dlq")
    return name[1:-1] if name.startswith("{") and name.endswith("}") and "{" not in name[1:-1] else name


async def redrive(board: Dashboard, given: dict[str, Any]) -> str:
    """Give letters back to the groups that failed on them: those named, or with ``all`` the oldest 1,000."""
    connection = await board.connection()
    letters = await DeadLetters.open(connection, str(given.get("stream", "")))
    if given.get("all") is True:
        found = await streams.read_from(connection, letters.key, count=MOST_REDRIVEN)
        chosen = [entry.id for entry in found]
    else:
        ids = given.get("ids")
        if not isinstance(ids, list) or not 0 < len(ids) <= MOST_REDRIVEN:
            raise SettingsError("Name the letters to give back.")
        chosen = [parse_position(str(each)) for each in ids]
    done = await letters.redrive(connection, chosen)
    told = f"{len(done.ids)} of {len(chosen)} given back to their groups."
    if done.refused:
        told += f" Refused: {cut(next(iter(done.refused.values())))}"
    left = await letters.count(connection)
    return told + (f" {left:,} are left." if given.get("all") is True and left else "")


async def purge(board: Dashboard, given: dict[str, Any]) -> str:
    """Delete letters up to an id; those that came after the question was asked stay."""
    up_to = str(given.get("up_to", ""))
    if not up_to or len(up_to) > 60:
        raise SettingsError("Say up to which letter.")
    connection = await board.connection()
    letters = await DeadLetters.open(connection, str(given.get("stream", "")))
    count = await letters.purge(connection, parse_position(up_to))
    return f"{count:,} dead letters deleted."
