"""docs/tasks.md: fifteen tasks of a user, done by calls of a real client, with calls and bytes counted.

``python docs/golden_tasks.py`` writes it. A test does the tasks again and holds calls and bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # as pytest has it

from support.desk import Desk, desk, shop
from support.mcp import RawClient, ToolFailure, checked
from support.servers import until

PAGE = Path(__file__).parent / "tasks.md"
MINUTE = 60_000
BTC, ETH = ({"exchange": "binance", "symbol": symbol} for symbol in ("BTCUSDT", "ETHUSDT"))
HEAD = """\
# Fifteen tasks, and what they cost

What a user asks for, the calls that do it, and how many bytes a model reads and writes for them: `asked` is the JSON of
the arguments, `answered` the text of the results, `picture` the PNG of a chart. All of it is done by a client over
stdio against a real server, a simulated exchange and an App beside it. A call that is repeated until something is done
counts once.

| task | calls | asked | answered | picture |
|---|---|---|---|---|
"""
TAIL = """
Written by `python docs/golden_tasks.py`; a test does the tasks again and holds the number of calls, and the bytes to
within a quarter.
"""


@dataclass
class Count:
    """What a task cost."""

    calls: list[str] = field(default_factory=list)
    asked: int = 0
    answered: int = 0
    picture: int = 0


@dataclass
class Hand:
    """Does the calls of a task and counts them."""

    client: RawClient
    place: Desk
    count: Count = field(default_factory=Count)

    def __call__(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool; its structured result."""
        result = self.client.request("tools/call", name=tool, arguments=arguments)
        found = checked(result)
        self.count.calls.append(tool)
        self.count.asked += len(json.dumps(arguments).encode())
        for part in result["content"]:
            if part["type"] == "text":
                self.count.answered += len(part["text"].encode())
            elif part["type"] == "image":
                self.count.picture += len(part["data"]) * 3 // 4
        return found

    def done(self, wanted: Callable[[dict[str, Any]], bool], tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool until its result is as wanted; the last call counts."""

        def ready() -> bool:
            try:
                found = self.client.call(tool, **arguments)
            except ToolFailure:  # a stream that is not there yet
                return False
            assert "failed" not in [row.get("state") for row in found.get("backfills", ())], found
            return wanted(found)

        until(ready, tool, 100)
        return self(tool, **arguments)


def week_as_charts(hand: Hand) -> None:
    """Stream BTC and ETH from Binance and show me the last week as a chart with RSI."""
    hand("runner_start", exchange="binance", symbols=["BTCUSDT", "ETHUSDT"], aggregate=["1h"], history="7d")
    hand.done(
        lambda found: bool(found["events"]),
        "event_wait",
        events=[{"name": "runner.state", "arguments": {"state": "running"}}],
        cursor="now-1m",
    )
    for market in (BTC, ETH):
        shown = hand("candles_chart", **market, timeframe="1h", start="now-7d", indicators=["rsi:14"])
        assert shown["count"] >= 160, shown
        assert shown["missing"] == 0


def wake_me(hand: Hand) -> None:
    """Wake me when a minute of BTC closes higher than the one before."""
    hand("alert_create", symbol="BTCUSDT", condition="close > prev.close", name="higher")
    heard = hand("event_wait", events=[{"name": "alert.fired", "arguments": {"alert": "higher"}}], cursor="now-1m")
    assert heard["events"][0]["data"]["alert"] == "higher"


def which_agent(hand: Hand) -> None:
    """Which agent is behind, and why?"""
    messages = [{"id": str(number), "amount": "much" if number % 3 else "5"} for number in range(30)]
    hand.client.call("stream_send_batch", stream="orders", messages=messages)
    until(lambda: hand.place.store.xlen("{orders}:dlq") == 20, "the dead letters")
    worst = max(hand("agent_list")["agents"], key=lambda row: row["lag"])
    stats = hand("agent_stats", name=worst["name"])
    assert stats["streams"][0]["dead_letters"] == 20
    letters = hand("dead_letter_list", stream="orders", count=5)["letters"]
    assert "could not convert" in letters[0]["error"]


def try_again(hand: Hand) -> None:
    """The cause is mended: try the failed orders again."""
    first = hand("dead_letter_list", stream="orders", count=1)["letters"][0]["id"]
    assert hand("dead_letter_redrive", stream="orders", ids=[first])["redriven"] == 1
    hand("dead_letter_redrive", stream="orders", all=True)


def volume_by_hour(hand: Hand) -> None:
    """Volume by hour of the last day."""
    sql = (
        "SELECT date_trunc('hour', epoch_ms(open_ts)) AS hour, sum(volume) AS volume "
        "FROM candles('binance', 'BTCUSDT', '1m', 'now-1d') GROUP BY 1 ORDER BY 1"
    )
    assert 24 <= hand("stream_query", sql=sql)["count"] <= 26


def year_to_parquet(hand: Hand) -> None:
    """Export a year of hourly candles to Parquet."""
    name = hand("backfill_start", **BTC, start="now-365d", timeframe="1h", emit=["parquet:btc-year"])["name"]
    found = hand.done(lambda found: found["backfills"][0]["state"] == "done", "backfill_status", name=name)
    assert found["backfills"][0]["rows"] >= 365 * 24 - 2


def what_is_in_it(hand: Hand) -> None:
    """What is in this stream, and how much of it comes?"""
    assert [each["name"] for each in hand("stream_describe", stream="orders")["fields"]] == ["id", "amount"]


def report(hand: Hand) -> None:
    """How is BTC doing today?"""
    found = hand("symbols_list", exchange="binance", query="BTC/USDT")["symbols"][0]["symbol"]
    read = hand(
        "candles_read",
        exchange="binance",
        symbol=found,
        timeframe="1h",
        start="now-1d",
        indicators=["sma:20", "rsi:14"],
        fields=["close", "volume"],
    )
    assert None not in read["columns"]["sma20"]


def big_orders(hand: Hand) -> None:
    """Put bills above 10 into a stream of their own."""
    hand.client.call("stream_send", stream="bills", message={"id": "7", "amount": 12.5})
    hand("agent_create", name="big", stream="bills", output_stream="big_bills", filter="num.amount > 10.0")
    found = hand.done(lambda found: found["count"] > 0, "stream_read", stream="big_bills")
    assert found["messages"][-1]["data"]["amount"] == "12.5"


def candles_of_ticks(hand: Hand) -> None:
    """Make one-minute and five-minute candles of my ticks."""
    ticks = [
        {"symbol": "GOLD", "price": 2000 + number % 7, "volume": 1, "timestamp_ms": 1_753_000_020_000 + number * 5000}
        for number in range(100)
    ]
    hand("ohlc_create", name="mine", intervals=["1m", "5m"])
    assert hand("ohlc_update", name="mine", ticks=ticks)["accepted"] == 100
    assert hand("ohlc_get_candles", name="mine", symbol="GOLD", interval_ms="1m")["candle_count"] == 9


def anything_lost(hand: Hand) -> None:
    """Did the stream lose anything this week?"""
    row = hand("runner_list")["runners"][0]
    assert row["state"] == "running"
    sql = (
        "SELECT count(*) AS candles, (max(open_ts) - min(open_ts)) / 60000 + 1 AS minutes "
        "FROM candles('binance', 'BTCUSDT', '1m', 'now-7d')"
    )
    columns = hand("stream_query", sql=sql)["columns"]
    assert columns["candles"] == columns["minutes"]


def worst_errors(hand: Hand) -> None:
    """Which errors do my agents make, and how often?"""
    hand.client.call("stream_send", stream="orders", message={"id": "99", "amount": "none"})
    until(lambda: hand.place.store.xlen("{orders}:dlq") > 0, "a dead letter")
    sql = "SELECT \"group\", error_type, count(*) AS times FROM dead_letters('orders') GROUP BY 1, 2 ORDER BY 3 DESC"
    assert hand("stream_query", sql=sql)["columns"]["error_type"] == ["ValueError"]


def together(hand: Hand) -> None:
    """Do BTC and ETH move together?"""
    sql = (
        "SELECT corr(a.close, b.close) AS correlation FROM candles('binance', 'BTCUSDT', '1h', 'now-7d') a "
        "JOIN candles('binance', 'ETHUSDT', '1h', 'now-7d') b USING (open_ts)"
    )
    assert hand("stream_query", sql=sql)["rows_read"] > 300


def is_it_well(hand: Hand) -> None:
    """Is everything well, and what is switched off here?"""
    assert hand("health_check")["status"] == "healthy"
    assert hand("explain")["off"]


def clean_up(hand: Hand) -> None:
    """Stop what runs, and keep only the newest ten orders."""
    hand("runner_stop", name=hand("runner_list")["runners"][0]["name"])
    hand("alert_delete", name="higher")
    plan = hand("stream_trim", stream="orders", keep=10)
    assert hand("stream_trim", stream="orders", keep=10, confirm_token=plan["confirm_token"])["deleted"] > 0


TASKS: tuple[Callable[[Hand], None], ...] = (
    week_as_charts, wake_me, which_agent, try_again, volume_by_hour, year_to_parquet, report, anything_lost, together,
    what_is_in_it, worst_errors, big_orders, candles_of_ticks, is_it_well, clean_up,
)  # fmt: skip


def tasks(folder: Path) -> Iterator[tuple[str, Count]]:
    """Do the tasks; what each is, and what it cost."""
    now = int(time.time() * 1000) // MINUTE * MINUTE
    with (
        desk(folder, start_ms=now, speed=30.0) as place,
        shop(place),
        RawClient(env=place.env) as client,
    ):
        client.tools()
        for task in TASKS:
            hand = Hand(client, place)
            task(hand)
            yield str(task.__doc__), hand.count


def main() -> None:
    """Write the page anew."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="sm-") as folder:
        for told, count in tasks(Path(folder)):
            calls = ", ".join(f"`{call}`" for call in count.calls)
            picture = f"{count.picture:,}" if count.picture else ""
            rows.append(f"| {told} | {len(count.calls)}: {calls} | {count.asked:,} | {count.answered:,} | {picture} |")
    PAGE.write_text(HEAD + "\n".join(rows) + "\n" + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
