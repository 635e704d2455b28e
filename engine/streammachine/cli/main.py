"""The commands of ``streammachine`` and their arguments; each subject has a file of its own."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

import streammachine
from streammachine.cli.arguments import (
    APPS,
    BEGIN,
    MARKET,
    Commas,
    EndAndSinks,
    Exchange,
    Exchanges,
    Json,
    Market,
    Sinks,
    StreamArguments,
    Symbols,
)
from streammachine.cli.dlq import dlq
from streammachine.errors import StreamMachineError
from streammachine.logs import configure_command_logging, print_error

app = App(
    name="streammachine",
    version=lambda: streammachine.__version__,
    help="Market ticks to candles on Redis Streams, and an MCP server over it. The server itself is streammachine-mcp.",
)
app.register_install_completion_command(name="completion", group=BEGIN)
install = App(name="install", help="Install the MCP server into a client.", group=BEGIN)
app.command(install)
app.command(dlq)
AS_USUAL = StreamArguments()


@app.command(group=BEGIN)
def demo(
    *,
    trades: Path | None = None,
    count: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    chart: Path = Path("streammachine-demo.png"),
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """From trades to candles through the real MCP server, on a private embedded Valkey.

    Parameters
    ----------
    trades
        A CSV file (.gz too) of recorded trades with the columns trade_ms, trade_id, price, qty, buyer_is_maker.
        Without it the trades are generated from a seed.
    count
        How many trades to generate (default STREAMMACHINE_RECORDS), or to play of the file (default all).
    chart
        Where the picture of the candles is written; terminals of iTerm2's and kitty's kind show it too.
    json
        One JSON object a line instead of the tables: what came over the socket, the candles, how it ended.
    """
    from streammachine.cli.demo import run_demo

    return run_demo(trades, count, chart, as_json=json)


@app.command(group=BEGIN)
def doctor(*, json: Json = False) -> int:
    """Check this installation: build, names, Redis, and a real MCP handshake. Says what is wrong and the mend."""
    import anyio

    from streammachine.cli.doctor import run_doctor

    return anyio.run(run_doctor, json)


@install.command(name="claude-desktop")
def install_claude_desktop(
    *,
    dry_run: bool = False,
    config_path: Path | None = None,
    name: str = "streammachine",
    env: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write the server's entry into Claude Desktop's configuration; keeps a backup, and what else stands there.

    Parameters
    ----------
    dry_run
        Only show what would be written.
    config_path
        The configuration file, where it is not in its usual place.
    name
        The entry's name.
    env
        Environment variables for the server, as NAME=VALUE.
    json
        One JSON object: the file, the entry, whether it was written, and the backup.
    """
    from streammachine.cli.claude_desktop import install_entry

    return install_entry(config_path, name=name, env=env or [], dry_run=dry_run, as_json=json)


@app.command(group=APPS)
def run(
    target: str,
    *arguments: str,
    workers: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
    reload: bool = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run an App in supervised processes until SIGTERM or Ctrl-C.

    Parameters
    ----------
    target
        The App, as package.module:app or path/to/script.py:app.
    arguments
        What the App's module finds in sys.argv; those that begin with a dash come behind --.
    workers
        How many processes of the whole App; they share the messages.
    reload
        Start again when a Python file changes.
    json
        One JSON object a line on stdout whenever a worker's state changes; what the App prints goes to stderr.
    """
    from streammachine.cli.run import run_workers

    return run_workers(target, arguments, workers=workers, reload=reload, as_json=json)


@app.command(group=MARKET)
def symbols(
    exchange: Exchange,
    query: str = "",
    *,
    market: Market = "SPOT",
    limit: Annotated[int, Parameter(validator=Number(gte=1))] = 50,
    json: Json = False,
) -> int:
    """List what can be traded on an exchange, in its spelling and in ours.

    Parameters
    ----------
    query
        A part of a symbol or of a pair, such as btc or BTC/USDT.
    limit
        Most of them.
    """
    from streammachine.cli.symbols import run_symbols

    return run_symbols(exchange, query, market=market, limit=limit, json=json)


@app.command(group=APPS)
def inspect(
    pattern: str = "*",
    *,
    once: bool = False,
    every: Annotated[float, Parameter(validator=Number(gt=0))] = 1.0,
    sort: Literal["lag", "pending", "oldest", "rate", "length", "dead", "name"] = "lag",
    json: Json = False,
) -> int:
    """Show streams, groups, lag, pending and consumers as a live table.

    Parameters
    ----------
    pattern
        Only streams whose name matches this glob.
    once
        Print the table once and end.
    every
        Seconds between two looks.
    sort
        What stands first: the largest lag, or another column's largest, or the names in order.
    """
    from streammachine.cli.inspect import run_inspect

    return run_inspect(pattern, once=once, every=every, sort=sort, as_json=json)


@app.command(group=APPS)
def top(
    *, once: bool = False, every: Annotated[float, Parameter(validator=Number(gt=0))] = 1.0, json: Json = False
) -> int:
    """Show runners, backfills and agents together, what has a problem first, as a live table.

    Parameters
    ----------
    once
        Print the table once and end.
    every
        Seconds between two looks.
    """
    from streammachine.cli.top import run_top

    return run_top(once=once, every=every, as_json=json)


@app.command(group=APPS)
def dashboard(
    *,
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65_535))] = 8000,
    host: str = "localhost",
    every: Annotated[float, Parameter(validator=Number(gte=0.2, lte=3600))] = 1.0,
) -> int:
    """Show streams, groups, agents, dead letters, runners, candles, alerts and storage in the browser, until Ctrl-C.

    Prints the address with its token once; without that nobody gets in. Alerts that nobody else evaluates are
    evaluated meanwhile.

    Parameters
    ----------
    port
        Where it listens; 0 takes any that is free.
    host
        The address that it listens on; others than this machine's own are open to the network, with the token alone.
    every
        Seconds between two looks.
    """
    from streammachine.cli.dashboard import run_dashboard

    return run_dashboard(host, port, every)


@app.command(group=APPS)
def publish(
    stream: str,
    *fields: str,
    maxlen: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
) -> int:
    """Append a record to a stream: field=value ..., or without fields a JSON object from each line of stdin.

    Parameters
    ----------
    stream
        The stream's name; it is made where there is none.
    fields
        The record's fields as name=value; those that begin with a dash come behind --.
    maxlen
        Keep about so many entries (default STREAMMACHINE_STREAM_MAXLEN; 0 keeps all).
    """
    from streammachine.cli.publish import publish as append

    return append(stream, fields, maxlen)


@app.command(group=MARKET)
def stream(
    exchange: Exchange,
    symbols: Symbols,
    *,
    wanted: StreamArguments = AS_USUAL,
    fresh: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Stream an exchange's live candles into sinks, with a live table, until Ctrl-C. Goes on where it stopped.

    Parameters
    ----------
    fresh
        Begin anew. Else what the sinks lack since the last run of the same command is loaded first, or named as a gap.
    """
    from streammachine.cli.stream import run_stream

    return run_stream(exchange, symbols, wanted, fresh=fresh)


@app.command(group=MARKET)
def record(
    exchange: Exchange,
    symbols: Symbols,
    *,
    frames: Path,
    keep_going: Annotated[bool, Parameter(negative="")] = False,
    wanted: StreamArguments = AS_USUAL,
) -> int:
    """Stream as `stream` does, and note all that the exchange sends in a file, until Ctrl-C. No login or key is in it.

    Parameters
    ----------
    frames
        The file, a new one: FILE.zst or FILE.gz. `streammachine simulate --frames` and Runner(frames=...) play it.
    keep_going
        Go on without it once it can take no more (4 GB, a full disk); else that ends the command with an error.
    """
    from streammachine.cli.stream import Recording, run_stream

    return run_stream(exchange, symbols, wanted, fresh=True, record=Recording(frames, keep_going))


@app.command(group=MARKET)
def backfill(
    exchange: Exchange,
    symbols: Symbols,
    *,
    timeframe: str = "1m",
    from_: Annotated[str, Parameter(name="--from")],
    to: EndAndSinks = None,
    market: Market = "SPOT",
    parallel: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    again: Annotated[bool, Parameter(negative="")] = False,
    simulated: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Load an exchange's candles of the past into sinks, with a progress bar. Goes on where a killed run ended.

    Parameters
    ----------
    timeframe
        Of the candles.
    from_
        The first day (2024-01-31) or moment (2024-01-31T12:00, or epoch milliseconds), UTC.
    parallel
        Requests at once (default: as the exchange likes it).
    again
        Do it all again, whatever earlier runs have done; a file that you name is added to.
    simulated
        From a simulated exchange in this process, which needs no network.
    """
    from streammachine.cli.backfill import BackfillOptions, run_backfill

    return run_backfill(
        BackfillOptions(exchange, symbols, timeframe, from_, to or (), market, parallel, again, simulated, json)
    )


@app.command(group=MARKET)
def candles(
    files: Annotated[list[str], Parameter(negative="")],
    *,
    timeframes: Commas = None,
    to: Sinks = None,
    symbol: str | None = None,
    exchange: str | None = None,
    json: Json = False,
) -> int:
    """Build candles from trade files (CSV, .gz, .zip, Parquet; the exchanges' bulk layouts) into sinks.

    Parameters
    ----------
    files
        Files or patterns, in any order.
    timeframes
        Of the candles, separated by commas (default 1m).
    symbol
        Of files that have no column of symbols; else their names say it.
    exchange
        The candles' source, where the files' layout does not tell it.
    """
    from streammachine.cli.candles import run_candles

    return run_candles(files, timeframes or ["1m"], to or (), symbol, exchange, json)


@app.command(group=MARKET)
def simulate(
    *,
    exchange: Exchanges = None,
    speed: Annotated[float, Parameter(validator=Number(gt=0))] = 1.0,
    fault: Annotated[list[str] | None, Parameter(negative="")] = None,
    tape: Path | None = None,
    seed: int = 0,
    symbols: Commas = None,
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65_532))] = 0,
    frames: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Simulate exchanges on this machine: their real protocols over one market, for other processes, until Ctrl-C.

    Parameters
    ----------
    speed
        Market seconds per second.
    fault
        What goes wrong, once for each: kind@seconds:name=value,..., e.g. reset@30, missing@60:symbol=BTC/USDT,lasts=20.
        "help" lists the kinds.
    tape
        A CSV file (.gz too) of recorded trades with the columns trade_ms, trade_id, price, qty, buyer_is_maker.
        Without it the trades are generated from the seed.
    seed
        Of the trades and of whatever else is drawn by chance.
    symbols
        As BASE/QUOTE, separated by commas (default: BTC/USDT,ETH/USDT).
    port
        Of the first exchange, the next ones follow (default: any that are free).
    frames
        A file of `streammachine record`, played as it came, in place of the made-up market.
    json
        One JSON object a line: where each exchange listens and its variables, then what happens.
    """
    from streammachine.cli.simulate import SimulateOptions, run_simulate

    return run_simulate(
        SimulateOptions(exchange or (), speed, fault or (), tape, seed, symbols or (), port, frames, json)
    )


def main() -> None:
    """Run the command line; errors of ours are one line on stderr and exit status 1."""
    configure_command_logging()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the sink says what it says, in one line
    try:
        status = app(result_action="return_value")
    except StreamMachineError as error:
        print_error("streammachine", str(error))
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status if isinstance(status, int) else 0)
