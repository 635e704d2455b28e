"""``streammachine candles``: trade files into candles, with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import anyio
from rich.console import Console

from streammachine.cli.ending import ended_by_sigterm
from streammachine.cli.json_lines import print_json
from streammachine.errors import DataInputError
from streammachine.market.emitters.registry import forms_text
from streammachine.market.emitters.sink_text import shown
from streammachine.trade_files.build import BuiltCandles, abuild_candles


def run_candles(
    files: Sequence[str],
    timeframes: Sequence[str],
    to: Sequence[str],
    symbol: str | None,
    exchange: str | None,
    as_json: bool = False,
) -> int:
    """Build them; 0 when all sinks took all there is."""
    if not to:
        raise DataInputError(f"there is no sink for the candles: give --to, once for each: {forms_text()}")

    async def build() -> BuiltCandles:
        return await abuild_candles(files, timeframes, list(to), symbol=symbol, exchange=exchange)

    with ended_by_sigterm():
        built = anyio.run(build)
    if as_json:
        print_json(asdict(built))
        return 1 if built.failed else 0
    console = Console(highlight=False, soft_wrap=True)
    of = f"{len(built.symbols):,} symbols" if len(built.symbols) > 3 else ", ".join(built.symbols) or "no symbol"
    console.print(
        f"{built.candles:,} candles of {of} from {built.trades:,} trades in {built.files:,} files to "
        f"{', '.join(map(shown, to))}",
        markup=False,
    )
    for count, words in (
        (built.duplicates, "rows were there before, by their id: left out"),
        (built.late, "trades came more than an hour after their candle: in none"),
        (built.failed, "candles were refused by a sink"),
    ):
        if count:
            console.print(f"{count:,} {words}", markup=False)
    return 1 if built.failed else 0
