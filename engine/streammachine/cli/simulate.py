"""``streammachine simulate``: simulated exchanges on this machine, for other processes to connect to."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
from rich.console import Console
from rich.text import Text

from streammachine.cli.json_lines import print_json
from streammachine.errors import DataInputError
from streammachine.market.clock.clock import ScaledClock, SystemClock
from streammachine.market.exchanges import EXCHANGES
from streammachine.market.model.timeframe import MINUTE
from streammachine.market.simulator import Fault, Simulator, Tape
from streammachine.market.simulator.faults.board import LogEntry
from streammachine.market.simulator.faults.fault import KINDS

SYMBOLS = ("BTC/USDT", "ETH/USDT")
QUIET = {"ping", "pong"}  # not worth a line


@dataclass(frozen=True)
class SimulateOptions:
    """What the command was asked for. ``port``: of the first exchange, the others follow; 0: any that are free."""

    exchanges: Sequence[str] = ()
    speed: float = 1.0
    faults: Sequence[str] = ()
    tape: Path | None = None
    seed: int = 0
    symbols: Sequence[str] = ()
    port: int = 0
    frames: Path | None = None
    as_json: bool = False


def run_simulate(options: SimulateOptions) -> int:
    """Simulate until Ctrl-C or SIGTERM; with the fault "help" only say what can go wrong."""
    console = Console(highlight=False, soft_wrap=True)
    if "help" in options.faults:
        for kind, text in KINDS.items():
            console.print(Text(f"{kind:12} {text}"))
        return 0
    if options.frames is not None:
        from streammachine.cli.frames_server import serve_frames

        if options.exchanges or options.faults or options.tape or options.symbols:
            raise DataInputError("--frames plays what was recorded: give it with --speed and --port alone")
        return anyio.run(serve_frames, console, str(options.frames), options.speed, options.port)
    return anyio.run(_simulate, console, options)


async def _simulate(console: Console, options: SimulateOptions) -> int:
    names = tuple(name.lower() for name in options.exchanges) or EXCHANGES
    faults = [Fault.parse(text) for text in options.faults]
    tape, start = _tape(options)
    clock = ScaledClock(options.speed, start)
    ports = {name: options.port + index if options.port else 0 for index, name in enumerate(names)}
    try:
        async with Simulator(tape, names, clock, faults, options.seed, ports=ports) as simulator:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                tell = _tell_json if options.as_json else partial(_tell, console)
                if options.as_json:
                    _introduce_json(simulator, names)
                else:
                    _introduce(console, simulator, names, options, start)
                simulator.log.clear()
                simulator.log.listener = partial(tell, simulator)
                async for _ in signals:
                    break
            simulator.log.listener = None
    except OSError as error:
        raise DataInputError(f"the port {options.port} cannot be used: {error.strerror or error}") from None
    if not options.as_json:
        console.print("ended")
    return 0


def _tape(options: SimulateOptions) -> tuple[Tape, int]:
    """The trades, and the moment at which the simulated day begins."""
    symbols = options.symbols or SYMBOLS
    if options.tape is None:
        now = SystemClock().time_ms()
        try:
            return Tape.generate(options.seed, symbols, now // MINUTE * MINUTE), now
        except ValueError as error:
            raise DataInputError(str(error)) from None
    try:
        tape = Tape.from_trades(options.tape, symbols[0])
    except (OSError, ValueError) as error:
        raise DataInputError(f"{options.tape} cannot be used as a tape: {error}") from None
    return tape, tape.start_ms


def _introduce(
    console: Console, simulator: Simulator, names: Sequence[str], options: SimulateOptions, start: int
) -> None:
    """Where it listens, what there is, and how a client gets there."""
    source = str(options.tape) if options.tape is not None else f"seed {options.seed}"
    console.print(
        f"simulating {', '.join(names)} from {_moment(start)} UTC on, {options.speed:g} times as fast; trades: {source}"
    )
    for name in names:
        symbols = ", ".join(simulator.symbol(name, symbol) for symbol in simulator.tape.markets)
        urls = simulator.urls(name)
        console.print(Text(f"  {name:8} {urls.ws}  {urls.rest}  {symbols}"))
    console.print("\nin the shell of the client:")
    for variable, value in simulator.environment().items():
        console.print(Text(f"export {variable}={value}"))
    console.print("\nCtrl-C ends it. What happens (times of the simulated market):")


def _introduce_json(simulator: Simulator, names: Sequence[str]) -> None:
    """An object an exchange: where it listens, its symbols, and the variables that lead a client there."""
    variables = simulator.environment()
    for name in names:
        urls = simulator.urls(name)
        symbols = [simulator.symbol(name, symbol) for symbol in simulator.tape.markets]
        own = {key: value for key, value in variables.items() if f"_{name.upper()}_" in key or "_CLOCK_" in key}
        print_json({"exchange": name, "ws": urls.ws, "rest": urls.rest, "symbols": symbols, "environment": own})


def _tell_json(simulator: Simulator, entry: LogEntry) -> None:
    """One event as an object."""
    simulator.log.clear()
    if entry.what not in QUIET:
        print_json(
            {
                "time_ms": entry.time_ms,
                "exchange": entry.exchange,
                "what": entry.what,
                "connection": entry.connection,
                "detail": entry.detail,
            }
        )


def _tell(console: Console, simulator: Simulator, entry: LogEntry) -> None:
    """One line of the event log; the simulator need not keep it."""
    simulator.log.clear()
    if entry.what not in QUIET:
        socket = f"#{entry.connection}" if entry.connection else ""
        line = f"{_moment(entry.time_ms)} {entry.exchange:8} {entry.what:11} {socket:4} {entry.detail}"
        console.print(Text(line.rstrip()), style="yellow" if entry.what == "fault" else None)


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
