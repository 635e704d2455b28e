"""docs/reference-tools.md: every tool with a call and its result, by making the calls.

``python docs/tool_examples.py`` writes it.

A real server answers a real client over stdio, on a Valkey of its own, with a simulated exchange and an App beside it.
Results are shortened, and times, ids and figures of this machine are made the same each time. A test makes the calls
again and compares what the results are made of (``shape``).
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # as pytest has it

from streammachine.settings import OPTIONAL_TOOLSETS, TOOLSETS
from support.desk import Desk, desk, shop
from support.mcp import RawClient
from support.servers import until

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference-tools.md"
BTC = {"exchange": "binance", "symbol": "BTCUSDT"}
DAY = {"start": "2025-07-18", "end": "2025-07-18"}
HEAD = """\
# Tools, with a call and its result each

Each call below was made by a client over stdio, in this order, and the result is what came back: shortened (`…` stands
for what is left out), and with times, ids and figures of the machine made the same each time. [tools.md](tools.md) says
what holds for all of them.

Written by `python docs/tool_examples.py`; a test makes the calls again.
"""


@dataclass
class Example:
    """A call. ``before`` gets things ready; ``until`` says of a result whether it is the one to show."""

    tool: str
    arguments: dict[str, Any] | Callable[[Session], dict[str, Any]] = field(default_factory=dict)
    until: Callable[[dict[str, Any]], bool] = lambda _: True
    before: Callable[[Session], object] | None = None


@dataclass
class Session:
    """What the calls have so far: results by tool."""

    place: Desk
    client: RawClient
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call it, and keep the result."""
        self.results[tool] = found = self.client.call(tool, **arguments)
        return found


def orders(session: Session) -> None:
    """The shop's agent has handled what it can; one order is a dead letter."""
    until(lambda: session.place.store.xlen("{orders}:dlq") == 1, "a dead letter")
    until(lambda: session.place.store.xlen("bills") == 2, "two bills")


def a_group(session: Session) -> None:
    """A consumer that was given a message and went away."""
    session.place.store.xgroup_create("bills", "audit", id="0")
    session.place.store.xreadgroup("audit", "auditor-1", {"bills": ">"}, count=1)


def an_object(session: Session) -> None:
    """An object that a Python program of this installation stored."""
    import asyncio

    from streammachine.redis.connection import RedisConnection
    from streammachine.redis.objects import RedisObjectStorage
    from streammachine.settings import Settings

    async def store() -> None:
        given = session.place.env
        settings = Settings(data_dir=given["STREAMMACHINE_DATA_DIR"], embedded="always", embedded_fsync="everysec")
        async with RedisConnection(settings=settings) as connection:
            await RedisObjectStorage(connection=connection).store_with_pickle("model:btc", {"weights": [0.5, 1.5]})

    asyncio.run(store())


def a_failure(session: Session) -> None:
    """One more dead letter."""
    session.client.call("stream_send", stream="orders", message={"id": "4", "amount": "?"})
    until(lambda: session.place.store.xlen("{orders}:dlq") > 0, "a dead letter")


def pending(session: Session) -> dict[str, Any]:
    """The message that the consumer holds, by group_pending's result."""
    return {"stream": "bills", "group": "audit", "ids": [session.results["group_pending"]["entries"][0]["id"]]}


def done(result: dict[str, Any]) -> bool:
    """A backfill is done."""
    return all(row["state"] == "done" for row in result["backfills"])


TICKS = [
    {"symbol": "BTCUSDT", "price": price, "volume": 1, "timestamp_ms": 1_753_000_020_000 + second * 1000}
    for second, price in ((1, 64_000.5), (30, 64_010), (61, 64_005))
]
CANDLES = {"name": "desk", "symbol": "BTCUSDT", "interval_ms": "1m"}

EXAMPLES = [
    Example("health_check"),
    Example("redis_ping"),
    Example("redis_info", {"section": "memory"}),
    Example("explain", {"topic": "postgres"}),
    Example("stream_send", {"stream": "orders", "message": {"id": "1", "amount": "12.5"}}),
    Example(
        "stream_send_batch",
        {"stream": "orders", "messages": [{"id": "2", "amount": "7"}, {"id": "3", "amount": "much"}]},
    ),
    Example("stream_list", {"pattern": "orders*"}, before=orders),
    Example("stream_info", {"stream": "orders"}),
    Example("stream_read", {"stream": "orders", "count": 2}),
    Example("stream_describe", {"stream": "orders"}),
    Example("stream_query", {"sql": "SELECT id, amount FROM bills ORDER BY id"}),
    Example("agent_list", until=lambda found: bool(found["agents"])),
    Example("agent_stats", {"name": "billing"}),
    Example("agent_pause", {"name": "billing"}),
    Example("agent_resume", {"name": "billing"}),
    Example(
        "agent_create",
        {
            "name": "big-bills",
            "stream": "bills",
            "output_stream": "big_bills",
            "filter": "num.amount > 10.0",
            "select": "{'bill': msg.id}",
        },
    ),
    Example("dead_letter_list", {"stream": "orders"}),
    Example("dead_letter_redrive", {"stream": "orders", "all": True}),
    Example("dead_letter_purge", {"stream": "orders", "confirm": True}, before=a_failure),
    Example("agent_delete", {"name": "big-bills", "confirm": True}),
    Example("group_list", {"stream": "bills"}, before=a_group),
    Example("group_pending", {"stream": "bills", "group": "audit"}),
    Example("group_claim", lambda session: {**pending(session), "consumer": "auditor-2", "confirm": True}),
    Example("group_ack", lambda session: {**pending(session), "confirm": True}),
    Example("group_reset", {"stream": "bills", "group": "audit", "to": "-", "confirm": True}),
    Example("storage_write", {"key": "limits", "value": {"BTCUSDT": 5}}),
    Example("storage_read", {"key": "limits"}),
    Example("storage_keys"),
    Example("storage_clear"),
    Example("storage_delete", {"key": "limits"}),
    Example("obj_list", before=an_object),
    Example("obj_get", {"key": "model:btc"}),
    Example("obj_delete", {"pattern": "model:*", "confirm": True}),
    Example("ohlc_create", {"name": "desk", "intervals": ["1m", "5m"]}),
    Example("ohlc_update", {"name": "desk", "ticks": TICKS}),
    Example("ohlc_list"),
    Example("ohlc_get_candles", CANDLES),
    Example("ohlc_get_completed", CANDLES),
    Example("ohlc_stats", {"name": "desk"}),
    Example("ohlc_flush", CANDLES),
    Example("ohlc_clear", {"name": "desk"}),
    Example("symbols_list", {"exchange": "binance", "query": "btc"}),
    Example("backfill_start", {**BTC, **DAY}),
    Example("backfill_status", until=done),
    Example("candles_read", {**BTC, "start": "2025-07-18T12:00", "limit": 5, "indicators": ["sma:20", "rsi:14"]}),
    Example("candles_chart", {**BTC, "start": "2025-07-18T12:00", "indicators": ["sma:20", "rsi:14"]}),
    Example("runner_start", {"exchange": "binance", "symbols": ["BTCUSDT", "ETHUSDT"], "aggregate": ["5m"]}),
    Example("runner_list", until=lambda found: found["runners"][0]["state"] == "running"),
    Example("alert_create", {"symbol": "BTCUSDT", "condition": "close > 0 && volume >= 0", "name": "any-close"}),
    Example(
        "event_wait",
        {"events": [{"name": "candle.closed", "arguments": {**BTC, "timeframe": "1m"}}]},
        until=lambda found: bool(found["events"]),
    ),
    Example("alert_list", until=lambda found: found["evaluated"] and "holds" in found["alerts"][0]),
    Example("alert_delete", {"name": "any-close"}),
    Example("runner_stop", lambda session: {"name": session.results["runner_start"]["name"]}),
    Example("stream_trim", {"stream": "orders", "keep": 2, "confirm": True}),
    Example("stream_delete", {"stream": "bills"}),
]


def calls(folder: Path) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Make the calls; the tool, its description's first sentence, the arguments and the whole result of each."""
    toolsets = ",".join((*TOOLSETS, *OPTIONAL_TOOLSETS))
    with desk(folder) as place, shop(place), RawClient("--toolsets", toolsets, env=place.env) as client:
        session = Session(place, client)
        tools = client.tools()
        for example in EXAMPLES:
            if example.before is not None:
                example.before(session)
            arguments = example.arguments(session) if callable(example.arguments) else example.arguments
            result = until(
                lambda example=example, arguments=arguments: (  # type: ignore[misc]
                    found if example.until(found := session.call(example.tool, **arguments)) else None
                ),
                f"the result of {example.tool}",
            )
            yield example.tool, tools[example.tool]["description"].partition(". ")[0], arguments, result


_ITEM = r"(?:-?[\d.e+-]+|null|true|false|\"[^\"\n]{0,30}\")"
_LIST = re.compile(rf"\[\s+({_ITEM}(?:,\s+{_ITEM})*)\s+\]")  # a list of plain values: one line of the page


def page(made: Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]], folder: Path) -> str:
    """The page's text."""
    same = Same(folder)
    parts = [HEAD]
    for tool, told, arguments, result in made:
        asked = json.dumps(same.made(arguments), ensure_ascii=False)
        answer = json.dumps(same.made(result), ensure_ascii=False, indent=2)
        answer = _LIST.sub(lambda found: "[" + re.sub(r",\s+", ", ", found[1]) + "]", answer)
        parts.append(f"## {tool}\n\n{told.rstrip('.')}.\n\n```json\n{asked}\n```\n\n```json\n{answer}\n```\n")
    return "\n".join(parts)


MOST_ITEMS, MOST_OBJECTS, MOST_CHARS, MOST_KEYS = 3, 2, 240, 24
TODAY = 1_764_500_000_000  # 2025-11-30: later ones are this machine's clock, and not the simulated market's
_MOMENT = re.compile(r"\b(\d{13})(?=-\d|\b)")
_CLOCK = re.compile(r"\b20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")
_SOCKET = re.compile(r"unix:///[^\s\"]+")
FIGURES = {  # what differs with the machine and the moment
    "rate", "rate_per_s", "latency_ms", "uptime_s", "seconds", "oldest_pending_seconds", "expires_in_s", "idle_s",
    "pid", "memory", "rows_per_s", "frames_per_s", "ms", "median_ms", "data_age_s", "lag_s", "elapsed_ms",
    "idle_ms", "seen_s_ago", "total_system_memory",
}  # fmt: skip
MACHINE = ("used_memory", "allocator_", "total_system_memory", "number_of_")  # of redis_info


class Same:
    """Makes results the same each time: wall-clock times, ids, places and this machine's figures."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._moments: dict[str, str] = {}

    def made(self, value: Any, name: str = "") -> Any:
        """The value, shortened."""
        if isinstance(value, dict):
            kept = {self._text(key): self.made(each, key) for key, each in list(value.items())[:MOST_KEYS]}
            return kept | ({"…": "…"} if len(value) > MOST_KEYS else {})
        if isinstance(value, list):
            most = MOST_OBJECTS if value and isinstance(value[0], dict) else MOST_ITEMS
            return [self.made(each, name) for each in value[:most]] + (["…"] if len(value) > most else [])
        if name in FIGURES or name.startswith(MACHINE):
            return 0 if isinstance(value, (int, float)) and not isinstance(value, bool) else value and "…"
        if name == "host":
            return "desk"
        if name == "confirm_token":
            return "4f1c…"
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int) and value > TODAY:
            return int(self._moment(str(value)))
        return value

    def _text(self, text: str) -> str:
        text = text.replace(self._folder, "~").replace(str(ROOT), "~").replace(sys.prefix, "~")
        text = _SOCKET.sub("unix:///…/valkey.sock", _CLOCK.sub("2025-11-30T10:53:20.000Z", text))
        text = _MOMENT.sub(lambda found: self._moment(found[1]), text)
        return text if len(text) <= MOST_CHARS else text[:MOST_CHARS] + "…"

    def _moment(self, digits: str) -> str:
        if int(digits) < TODAY:
            return digits
        return self._moments.setdefault(digits, str(TODAY + len(self._moments)))


def shape(value: Any) -> Any:
    """What a result is made of: names, and the kinds of what stands there; of lists the first item."""
    if isinstance(value, dict):
        return {_MOMENT.sub("ID", key): shape(each) for key, each in value.items() if key != "…"}
    if isinstance(value, list):
        return [shape(value[0])] if value and value[0] != "…" else []
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def shown(text: str) -> dict[str, tuple[dict[str, Any], Any]]:
    """What a page shows: arguments and result by tool."""
    found = re.findall(r"^## (\w+)\n.*?^```json\n(.*?)^```\n\n```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return {tool: (json.loads(arguments), json.loads(result)) for tool, arguments, result in found}


def main() -> None:
    """Write the page anew."""
    with tempfile.TemporaryDirectory(prefix="sm-", dir="/tmp") as folder:
        PAGE.write_text(page(calls(Path(folder)), Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
