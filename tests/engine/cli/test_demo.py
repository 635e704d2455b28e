"""``streammachine demo``: trades to candles through the real server, and nothing is left behind."""

from __future__ import annotations

import base64
import csv
import gzip
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from streammachine.cli.terminal_picture import escape_sequence, protocol_of

RECORDED = Path(__file__).parents[4] / "shared/data/binance_spot_btcusdt_trades_20240808-09.csv.gz"
DEADLINE = 60.0


def demo(cli, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return cli("demo", "--chart", str(cli.folder / "chart.png"), *arguments, **extra)


def test_generated_trades_become_candles_and_nothing_is_left(cli) -> None:
    done = demo(cli, "--count", "3000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3,000 generated trades" in done.stdout
    assert "3000/3000" in done.stdout
    assert re.search(r"[\d,]+ ticks/s", done.stdout)
    assert "Health: healthy; Redis connected" in done.stdout
    *_, complete, last = done.stdout.splitlines()
    assert complete == "Every trade is in the candles."
    assert last == f"The chart that a chat is given: {cli.folder / 'chart.png'}"
    with Image.open(cli.folder / "chart.png") as picture:
        assert picture.format == "PNG"
        assert len(picture.getcolors(256)) > 8  # candles are drawn
    assert done.stderr == ""
    assert cli.processes() == []
    assert list(cli.temporary.iterdir()) == []
    assert not (cli.folder / "data").exists()


def test_the_output_fits_a_terminal_of_80_columns_and_cuts_nothing(cli) -> None:
    done = demo(cli, "--count", "3000")
    lines = done.stdout.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in done.stdout
    assert "\x1b" not in done.stdout
    heads = [line for line in lines if line.startswith("start (UTC)")]
    assert len(heads) == 2
    assert heads[0].split()[2:] == ["open", "high", "low", "close", "volume", "trades"]


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded trades are not beside the project")
def test_the_recorded_trades_give_the_candles_of_a_plain_count(cli) -> None:
    done = demo(cli, "--trades", str(RECORDED))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "19,904 recorded trades" in done.stdout
    assert "Every trade is in the candles." in done.stdout
    (minute,) = [line.split() for line in done.stdout.splitlines() if line.startswith("08-09 00:03")]
    start = int(datetime(2024, 8, 9, 0, 3, tzinfo=UTC).timestamp() * 1000)
    with gzip.open(RECORDED, "rt") as file:
        rows = [row for row in csv.DictReader(file) if start <= int(row["trade_ms"]) < start + 60_000]
    prices = [float(row["price"]) for row in rows]
    ohlc = [f"{price:,.2f}" for price in (prices[0], max(prices), min(prices), prices[-1])]
    volume = sum(float(row["qty"]) for row in rows)
    assert minute[2:] == [*ohlc, f"{volume:,.3f}", f"{len(rows):,}"]


def test_a_chart_that_cannot_be_written_is_said_and_the_demo_goes_on(cli) -> None:
    done = cli("demo", "--count", "100", "--chart", str(cli.folder / "nowhere" / "chart.png"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The chart could not be written: " in done.stdout


@pytest.mark.parametrize(
    ("env", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1", "TMUX": "socket"}, None),
    ],
)
def test_terminals_that_show_pictures_are_told_by_the_environment(env: dict[str, str], protocol: str | None) -> None:
    assert protocol_of(env) == protocol


@pytest.mark.parametrize("size", [1, 3072, 3073, 100_000])  # one sequence of kitty's holds 3,072 bytes
def test_a_picture_is_whole_in_both_protocols(size: int) -> None:
    png = bytes(number % 251 for number in range(size))
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", escape_sequence(png, "kitty"))
    assert base64.b64decode("".join(data for _, data in parts)) == png
    assert max(len(data) for _, data in parts) <= 4096
    assert [head[-3:] for head, _ in parts] == ["m=1"] * (len(parts) - 1) + ["m=0"]
    (found,) = re.findall(r"\x1b]1337;File=inline=1;[^:]*:([^\a]*)\a", escape_sequence(png, "iterm2"))
    assert base64.b64decode(found) == png


def test_the_users_redis_and_settings_are_left_alone(cli) -> None:
    done = demo(cli, "--count", "100", REDIS_URL="redis://127.0.0.1:1", STREAMMACHINE_READ_ONLY="true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Redis: connected (embedded)" in done.stdout


@pytest.mark.parametrize("content", [None, "a,b\n1,2\n", "trade_ms,trade_id,price,qty,buyer_is_maker\n"])
def test_a_bad_file_is_one_clear_line(cli, content: str | None) -> None:
    path = cli.folder / "trades.csv"
    if content is not None:
        path.write_text(content)
    done = demo(cli, "--trades", str(path))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"streammachine: {path}")


def test_a_server_that_does_not_start_is_one_line_with_its_last_words(cli, importable) -> None:
    importable(
        "sitecustomize.py",
        "import os, sys\n"
        "if 'streammachine.mcp_server' in sys.orig_argv:\n"
        "    print('the disk is on fire', file=sys.stderr, flush=True)\n"
        "    os._exit(3)\n",
    )
    done = demo(cli, "--count", "10")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("streammachine: The MCP server did not start")
    assert "the disk is on fire" in line
    assert list(cli.temporary.iterdir()) == []


def test_ctrl_c_on_a_terminal_ends_it_at_once_and_leaves_nothing(cli) -> None:
    screen, status = interrupted(cli, b"trades -> stream")
    assert status == 130
    assert b"Traceback" not in screen
    assert cli.processes() == []
    assert list(cli.temporary.iterdir()) == []


def test_a_server_that_is_killed_midway_is_one_line_and_leaves_no_valkey(cli) -> None:
    command = [sys.executable, "-m", "streammachine.cli", "demo", "--count", "500000"]
    process = subprocess.Popen(
        command, env=cli.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("MCP server started"):
            break
    os.kill(child_of(process.pid, "streammachine.mcp_server"), signal.SIGKILL)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert errors.startswith("streammachine: "), errors
    assert len(errors.splitlines()) == 1, errors
    assert cli.processes() == []
    assert list(cli.temporary.iterdir()) == []


def interrupted(cli, when: bytes) -> tuple[bytes, int]:
    """Run the demo on a terminal, press Ctrl-C when ``when`` is on the screen; the screen and the exit status."""
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER, "-m", "streammachine.cli", "demo", "--count", "500000"],
        env=cli.environment(TERM="xterm"),
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    screen, pressed, end = b"", False, time.monotonic() + 2 * DEADLINE
    while time.monotonic() < end:
        readable, _, _ = select.select([terminal], [], [], 1)
        if not readable:
            continue
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # the other side is closed
            break
        screen += data
        if when in screen and not pressed:
            os.write(terminal, b"\x03")
            pressed = True
    os.close(terminal)
    return screen, process.wait(DEADLINE)


# Makes the terminal on stdin the controlling one, so that its Ctrl-C becomes SIGINT, then becomes the command. A shell
# starts what runs in the background with SIGINT ignored, and children inherit that: a person's terminal does not.
LEADER = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def child_of(pid: int, part: str) -> int:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if part in Path(f"/proc/{child}/cmdline").read_text():
            return int(child)
    raise AssertionError(f"{pid} has no child {part}")
