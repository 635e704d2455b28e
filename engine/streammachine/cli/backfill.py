"""``streammachine backfill``: candles of the past into sinks, with a progress bar."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from rich.console import Console

from streammachine.cli.ending import ended_by_sigterm
from streammachine.cli.json_lines import print_json
from streammachine.cli.single_error import single_error
from streammachine.errors import DataInputError
from streammachine.market.backfill.backfill import Backfilling, backfill_for
from streammachine.market.emitters.sink_text import emitters_for, shown
from streammachine.market.exchanges import adapter_for
from streammachine.market.model.timespan import is_moment

SHOWN_GAPS = 5


@dataclass(frozen=True)
class BackfillOptions:
    """What the command was asked for. ``to``: the end of the range (at most once) and any number of sinks, mixed."""

    exchange: str
    symbols: Sequence[str]
    timeframe: str
    start: str
    to: Sequence[str] = ()
    market: str = "SPOT"
    parallel: int | None = None
    again: bool = False
    simulated: bool = False
    as_json: bool = False


def run_backfill(options: BackfillOptions) -> int:
    """Backfill each symbol in turn; 0 when all sinks took all there is."""
    try:
        with ended_by_sigterm():
            return anyio.run(_backfill, Console(highlight=False, soft_wrap=True), options)
    except (KeyboardInterrupt, SystemExit):
        print("ended before it was through: the same command goes on from here", file=sys.stderr)  # noqa: T201
        raise


async def _backfill(console: Console, options: BackfillOptions) -> int:
    end, sinks = split_to(options.to)
    emitters_for(sinks, simulated=options.simulated)  # what is wrong is said before anything starts
    refused = 0
    async with _exchange(options) as extra:
        symbols = list(dict.fromkeys(options.symbols))
        made = [_made(options, symbol, end, sinks, extra) for symbol in symbols]
        if len(made) > 1:
            for symbol in symbols:
                await _made(options, symbol, end, sinks, extra).acheck()
        for backfill in made:
            await backfill.arun()
            if options.as_json:
                print_json(_summary(backfill, sinks))
            else:
                _report(console, backfill, sinks)
            refused += sum(sink.get("failed", 0) for sink in backfill.stats()["sinks"])
    return 1 if refused else 0


def split_to(values: Sequence[str]) -> tuple[str, list[str]]:
    """The end of the range ("now" where none is given) and the sinks of a mixed list.

    Raises:
        DataInputError: there are two ends.
    """
    ends = [value for value in values if is_moment(value)]
    if len(ends) > 1:
        raise DataInputError(f"--to gives two ends, {ends[0]} and {ends[1]}: give one date and any number of sinks")
    return (ends[0] if ends else "now"), [value for value in values if not is_moment(value)]


def _made(options: BackfillOptions, symbol: str, end: str, sinks: Sequence[str], extra: dict[str, Any]) -> Backfilling:
    made = backfill_for(
        options.exchange,
        symbol,
        options.timeframe,
        options.start,
        end,
        market_type=options.market,
        parallel=options.parallel,
        resume=not options.again,
        **extra,
    )
    for emitter in emitters_for(sinks, simulated=options.simulated):
        made.register_emitter(emitter)
    return made


@asynccontextmanager
async def _exchange(options: BackfillOptions) -> AsyncIterator[dict[str, Any]]:
    if not options.simulated:
        yield {}
        return
    from streammachine.cli.simulated import simulated

    adapter = adapter_for(options.exchange, options.market)
    with single_error():
        async with simulated(adapter, options.symbols, speed=None) as (clock, urls):
            yield {"clock": clock, "rest_url": urls.rest, "bulk_url": urls.bulk or None}


def _summary(backfill: Backfilling, sinks: Sequence[str]) -> dict[str, Any]:
    """What was done for a symbol: rows, gaps (epoch ms) and sinks."""
    stats = backfill.stats()
    return {
        "symbol": backfill.symbol,
        "timeframe": backfill.timeframe,
        "to": [shown(sink) for sink in sinks] or [str(backfill.file_path)],
        "new": stats["rows"] - stats["rows_before"],
        "rows": stats["rows"],
        "gaps": [{"start": gap.start, "end": gap.end, "reason": gap.reason} for gap in backfill.gaps],
        "sinks": stats["sinks"],
    }


def _report(console: Console, backfill: Backfilling, sinks: Sequence[str]) -> None:
    stats = backfill.stats()
    where = ", ".join(map(shown, sinks)) if sinks else str(backfill.file_path)
    new = stats["rows"] - stats["rows_before"]
    said = f"{new:,} candles" if new else "nothing new: it is there already"
    if new and stats["rows_before"]:
        said += f" (with {stats['rows_before']:,} of earlier runs)"
    console.print(f"{backfill.symbol} {backfill.timeframe} to {where}: {said}", markup=False)
    for sink in stats["sinks"]:
        if sink.get("failed"):
            console.print(
                f"{sink['name']} refused {sink['failed']:,} rows; the last: {sink['last_error']}", markup=False
            )
    for gap in backfill.gaps[:SHOWN_GAPS]:
        console.print(f"missing {describe(gap.start, gap.end)}: {gap.reason}", markup=False)
    if len(backfill.gaps) > SHOWN_GAPS:
        console.print(f"and {len(backfill.gaps) - SHOWN_GAPS} more gaps")


def describe(start: int, end: int) -> str:
    """A stretch of time in words."""
    from datetime import UTC, datetime

    first, last = (datetime.fromtimestamp(ts / 1000, UTC) for ts in (start, end))
    return f"{first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"
