"""The commands of ``streammachine`` and their arguments; each subject has a file of its own."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from streammachine.errors import StreamMachineError


def _version() -> str:
    try:
        return version("streammachine-mcp")
    except PackageNotFoundError:
        return "0+unknown (run from its source, not installed)"


app = App(
    name="streammachine",
    version=_version,
    help="Market ticks to candles on Redis Streams, and an MCP server over it. The server itself is streammachine-mcp.",
)
install = App(name="install", help="Install the MCP server into a client.")
app.command(install)


@app.command
def demo(*, trades: Path | None = None, count: Annotated[int | None, Parameter(validator=Number(gte=1))] = None) -> int:
    """From trades to candles through the real MCP server, on a private embedded Valkey.

    Parameters
    ----------
    trades
        A CSV file (.gz too) of recorded trades with the columns trade_ms, trade_id, price, qty, buyer_is_maker.
        Without it the trades are generated from a seed.
    count
        How many trades to generate (default STREAMMACHINE_RECORDS), or to play of the file (default all).
    """
    from streammachine.cli.demo import run_demo

    return run_demo(trades, count)


@app.command
def doctor() -> int:
    """Check this installation: build, names, Redis, and a real MCP handshake. Says what is wrong and the mend."""
    import anyio

    from streammachine.cli.doctor import run_doctor

    return anyio.run(run_doctor)


@install.command(name="claude-desktop")
def install_claude_desktop(
    *,
    dry_run: bool = False,
    config_path: Path | None = None,
    name: str = "streammachine",
    env: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
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
    """
    from streammachine.cli.claude_desktop import install_entry

    return install_entry(config_path, name=name, env=env or [], dry_run=dry_run)


def main() -> None:
    """Run the command line; errors of ours are one line on stderr and exit status 1."""
    try:
        status = app(result_action="return_value")
    except StreamMachineError as error:
        print(f"streammachine: {error}", file=sys.stderr)  # noqa: T201
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status if isinstance(status, int) else 0)
